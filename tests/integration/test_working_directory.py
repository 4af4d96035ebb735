"""Commands in a folder full of traps, as a clone of somebody's model repository may be: nothing of it is run or believed.

Each trap leaves its name in a file when it is imported, run or read for settings.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from infra.settings import Settings
from tests.support import checkpoints
from tests.support.package_index import pin, wheel

if TYPE_CHECKING:
    from collections.abc import Sequence

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

ROOT = Path(__file__).resolve().parents[2]
MODULES = (
    "argparse",
    "json",
    "site",
    "sitecustomize",
    "usercustomize",
    "typing",
    "socket",
    "numpy",
    "prefect",
    "boto3",
)
PACKAGES = ("containers", "flows", "infra", "pip", "uvicorn", "pydantic")
PROGRAMS = ("python", "python3", "rclone", "git", "bwrap", "docker", "sh")
TRAPPED = "http://127.0.0.1:9/trapped"


class Trap:
    """`folder` holds a tiny checkpoint and the traps; `sprung` says which of them did something."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "clone of a model"
        self.mark = folder / "sprung"
        checkpoints.write(self.folder, [checkpoints.layer(0) | checkpoints.ends()])
        caught = f"open({str(self.mark)!r}, 'a').write(__name__ + ' ')\n"
        for name in MODULES:
            (self.folder / f"{name}.py").write_text(caught)
        for name in PACKAGES:
            (self.folder / name).mkdir()
            (self.folder / name / "__init__.py").write_text(caught)
        for name in PROGRAMS:
            program = self.folder / name
            if program.exists():
                continue
            program.write_text(f"#!/bin/sh\necho {name} >> '{self.mark}'\n")
            program.chmod(0o755)
        (self.folder / "prefect.toml").write_text(f'[api]\nurl = "{TRAPPED}"\n')
        (self.folder / "pyproject.toml").write_text(f'[tool.prefect.api]\nurl = "{TRAPPED}"\n')
        (self.folder / ".env").write_text(f"PREFECT_API_URL={TRAPPED}\n")
        (self.folder / "pip.conf").write_text(f"[global]\nindex-url = {TRAPPED}\n")
        (self.folder / "uv.toml").write_text(f'index-url = "{TRAPPED}"\n')

    @property
    def sprung(self) -> str:
        return self.mark.read_text() if self.mark.exists() else ""

    def run(self, argv: Sequence[str], home: Path, **variables: str) -> str:
        """Run a command in the folder, whose PATH begins with it; its standard output."""
        kept = {
            name: os.environ[name] for name in os.environ if not name.startswith(("CARWRIGHT_", "PREFECT_", "PYTHON"))
        }
        environment = {
            **kept,
            "PATH": f".:{kept['PATH']}:",
            "CARWRIGHT_HOME": str(home),
            "CARWRIGHT_CACHE": str(Settings().cache.expanduser()),
            "HF_TOKEN": "hf_canary",
        }
        done = subprocess.run(
            argv, check=False, cwd=self.folder, env=environment | variables, capture_output=True, text=True, timeout=280
        )
        assert done.returncode == 0, done.stderr
        return done.stdout


@pytest.fixture
def trap(tmp_path: Path) -> Trap:
    return Trap(tmp_path)


def command() -> str:
    """The `carwright` of this environment, as a person starts it."""
    return str(Path(sys.executable).with_name("carwright"))


def test_a_model_is_downloaded_from_the_folder_one_stands_in(trap: Trap, tmp_path: Path) -> None:
    shown = trap.run([command(), "download", f"file://{trap.folder}", "--json"], tmp_path / "home")
    assert "model.safetensors" in shown
    assert trap.sprung == ""


def test_an_environment_is_made_there(trap: Trap, tmp_path: Path) -> None:
    """venv and pip, with an index in a folder."""
    lock = tmp_path / "requirements.lock"
    lock.write_text(pin(wheel(tmp_path / "index")))
    script = (
        "import sys; from pathlib import Path; from infra.environments.environment import ensure\n"
        "print(ensure('trial', Path(sys.argv[1]), Path(sys.argv[2]), on_event=lambda _: None).python)\n"
    )
    argv = [sys.executable, "-P", "-c", script, str(lock), str(tmp_path / "cache")]
    index = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(tmp_path / "index"), "PYTHONPATH": str(ROOT)}
    python = trap.run(argv, tmp_path / "home", **index).strip()
    assert Path(python).exists()
    assert trap.sprung == ""


def test_store_and_prefect_server_are_started_there(trap: Trap, tmp_path: Path) -> None:
    """And the client believes the environment, not the files of the folder."""
    script = (
        "from flows.local import embedded\n"
        "from flows.orchestrator.prefect_import import import_prefect\n"
        "from containers.settings import absolute\n"
        "from infra.settings import Settings\n"
        "settings = absolute(Settings())\n"
        "with embedded.prefect_server(settings) as server, embedded.store(settings):\n"
        "    server.wait()\n"
        "    import_prefect()\n"
        "    from prefect.settings import get_current_settings\n"
        "    print(get_current_settings().api.url)\n"
    )
    argv = [sys.executable, "-P", "-c", script]
    shown = trap.run(argv, tmp_path / "home", PYTHONPATH=str(ROOT), PREFECT_HOME=str(tmp_path / "prefect"))
    assert shown.strip() == "None"
    assert trap.sprung == ""


def test_the_traps_work(trap: Trap, tmp_path: Path) -> None:
    """A Python without care imports them, and Prefect believes them."""
    trap.run([sys.executable, "-c", "import argparse"], tmp_path / "home")
    trap.run(["sh", "-c", "python3"], tmp_path / "home")
    assert "argparse" in trap.sprung
    assert "sh" in trap.sprung
