"""`carwright --help` is grouped by what people want to do, and teaches."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from typing import TYPE_CHECKING

import pytest
import typer.main
from typer.testing import CliRunner

from flows.cli.main import PANELS, app

if TYPE_CHECKING:
    from pathlib import Path

COMMANDS = typer.main.get_command(app).commands
SHOWN = [name for name, command in COMMANDS.items() if not command.hidden]


def test_every_command_stands_in_one_panel_and_every_panel_names_commands() -> None:
    named = [name for names in PANELS.values() for name in names]
    assert sorted(named) == sorted(SHOWN)
    assert len(set(named)) == len(named)


@pytest.mark.parametrize(("panel", "names"), PANELS.items())
def test_a_panel_holds_its_commands(panel: str, names: tuple[str, ...]) -> None:
    assert {COMMANDS[name].rich_help_panel for name in names} == {panel}


@pytest.mark.parametrize("name", SHOWN)
def test_every_command_explains_itself_and_its_options(name: str) -> None:
    command = COMMANDS[name]
    assert command.help
    for parameter in command.params:
        assert parameter.param_type_name == "argument" or parameter.help or parameter.name == "help", parameter.name


def test_the_old_name_of_rebuilds_still_works() -> None:
    """It was taken for `quantize --plan`; scripts may hold it."""
    assert COMMANDS["plan"].hidden
    assert COMMANDS["plan"].callback.__wrapped__ is COMMANDS["rebuilds"].callback.__wrapped__


def test_the_version_is_shown(root: Path) -> None:
    done = CliRunner().invoke(app, ["--version"])
    assert done.exit_code == 0
    declared = tomllib.loads((root / "pyproject.toml").read_text())["project"]["version"]
    assert done.stdout == f"carwright {declared}\n"


def test_the_help_loads_no_client() -> None:
    """For HTTP, an engine or a cluster, and no Prefect: all are slow to load."""
    code = "import sys, flows.cli.main; print({'docker', 'httpx', 'lightkube', 'prefect'} & sys.modules.keys())"
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout == "set()\n"
