"""`--json`: which commands have it, that the page lists all of them, and that what they print is one document."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from containers.oci.lint import Finding
from flows.cli.main import app
from flows.local.run_record import RunRecord
from flows.release.summary import Shipped
from flows.ship_request import ShipRequest
from infra.doctor.line import Line
from infra.settings import Settings
from tests.support.modelcars import push_folder, write_checkpoint

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def commands(group: Any = None, before: str = "") -> Iterator[tuple[str, Any]]:
    for name, command in (group or get_command(app)).commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, f"{before}{name} ")
        elif not command.hidden:
            yield before + name, command


def rows(root: Path) -> dict[str, tuple[str, str]]:
    """What the page says of each command: the kind of its document and its fields."""
    page = (root / "docs" / "reference" / "json.md").read_text().partition("These print something")[0]
    return {
        name: (kind, fields)
        for name, kind, fields in re.findall(r"^\| `([^`]+)` \| (\w+) \| (.+) \|$", page, re.MULTILINE)
    }


def test_the_page_lists_every_command(root: Path) -> None:
    having = {name for name, command in commands() if any("--json" in one.opts for one in command.params)}
    assert set(rows(root)) == having
    page = (root / "docs" / "reference" / "json.md").read_text().partition("These print something")[2]
    for name, _ in commands():
        assert name in having or f"`{name}`" in page, name


def test_the_page_has_the_fields_of_the_models(root: Path) -> None:
    told = rows(root)
    for name, fields in (
        ("ship", Shipped.model_fields),
        ("lint", Finding.__dataclass_fields__),
        ("doctor", Line.__dataclass_fields__),
    ):
        for field in fields:
            assert f"`{field}`" in told[name][1], (name, field)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home with one run that failed, and a modelcar."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CARWRIGHT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("CARWRIGHT_SIGN__PASSWORD", "of a test")
    settings = Settings()
    record = RunRecord.begin(
        settings.home.resolve() / "runs", "20260101T000000", ShipRequest(model="hf://a/b"), "carwright ship"
    )
    record.fail(KeyboardInterrupt())
    push_folder(write_checkpoint(tmp_path / "checkpoint"), "oci:car:1", settings)
    return tmp_path


def fields(text: str) -> set[str]:
    return set(re.findall(r"`(\w+)`", text))


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    "line",
    ["settings", "runs", "lint oci:car:1", "verify oci:car:1", "keys new", "push checkpoint oci:other:1", "size checkpoint",
     "push checkpoint oci:other:1 --plan", "render docker oci:car:1 --gpu cpu --from registry.example.com/car", "pin", "clean --dry-run"],
)  # fmt: skip
def test_what_is_printed_is_one_document_with_the_fields_of_the_page(root: Path, line: str) -> None:
    """Of those commands that need nothing but this machine."""
    result = CliRunner().invoke(app, [*line.split(), "--json"])
    assert result.stdout, result.exception
    document = json.loads(result.stdout)
    name = next(name for name, _ in sorted(commands(), reverse=True) if line == name or line.startswith(f"{name} "))
    kind, told = rows(root)[name]
    assert isinstance(document, list if kind == "list" else dict)
    if name == "settings":
        return
    found = document[0] if isinstance(document, list) else document
    assert set(found) <= fields(told), set(found) - fields(told)


@pytest.mark.usefixtures("folder")
def test_a_folder_that_is_signed_and_verified(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once said in words in spite of --json."""

    def told(*line: str) -> dict[str, Any]:
        result = CliRunner().invoke(app, [*line, "--json"], catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return dict(json.loads(result.stdout))

    keys = told("keys", "new")
    monkeypatch.setenv("CARWRIGHT_SIGN__KEY_FILE", keys["private"])
    assert told("sign", "checkpoint")["signed_by"] == keys["fingerprint"]
    assert told("verify", "checkpoint", "--key", keys["public"])["signed_by"] == keys["public"]
