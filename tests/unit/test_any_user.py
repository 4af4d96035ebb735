"""`carwright` for whoever runs it: a home of odd letters, the locale C, a strict umask, a proxy that does not answer."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from containers.errors import BadInput
from containers.process import run
from infra.environments.environment import ensure
from tests.support import checkpoints
from tests.support.package_index import pin, serving, wheel

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Somebody:
    """A user whose working directory is below the home folder."""

    home: Path
    variables: dict[str, str]

    def __call__(self, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
        (self.home / "modèle un").mkdir(exist_ok=True)
        return subprocess.run(
            [sys.executable, "-m", "flows.cli.main", *arguments],
            env=self.variables | more,
            cwd=self.home / "modèle un",
            umask=0o077,
            capture_output=True,
            encoding="utf-8",
            check=False,
        )


@pytest.fixture
def somebody(tmp_path: Path) -> Iterator[Somebody]:
    """With nothing in the environment but what a bare login has, and a proxy."""
    home = tmp_path / "Jörg Müller"
    home.mkdir()
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        proxy = f"http://127.0.0.1:{closed.getsockname()[1]}"
        variables = {"HOME": str(home), "PATH": os.environ["PATH"], "LC_ALL": "C", "PYTHONPATH": str(ROOT)}
        yield Somebody(home, variables | {"HTTP_PROXY": proxy, "HTTPS_PROXY": proxy, "COLUMNS": "200"})


def test_a_model_is_pushed_and_verified(somebody: Somebody) -> None:
    """All that is written is for this user alone."""
    model = checkpoints.write(somebody.home / "modèle un" / "poids", [checkpoints.layer(0)])
    done = somebody("push", model.name, "oci:images/été:v1", "--base", "none")
    assert done.returncode == 0, done.stderr
    assert "oci:images/été@sha256:" in done.stdout
    done = somebody("verify", "oci:images/été:v1")
    assert done.returncode == 0, done.stderr
    assert "every digest is right" in done.stdout
    written = [path for path in (somebody.home / "modèle un" / "images").rglob("*") if path.stat().st_mode & 0o077]
    assert written == []
    assert (somebody.home / ".cache" / "carwright").is_dir()


@pytest.mark.parametrize("command", ["ship", "ui", "clean"])
def test_a_folder_that_cannot_be_written_is_named(somebody: Somebody, command: str) -> None:
    """A file where the folder should be, which stops root, too."""
    (somebody.home / "file").touch()
    done = somebody(command, CARWRIGHT_HOME=str(somebody.home / "file" / "x"))
    assert done.returncode == BadInput.exit_code
    assert "file/x cannot be written: Not a directory" in done.stderr
    assert "CARWRIGHT_HOME" in done.stderr


def test_an_environment_is_made_in_such_a_home(somebody: Somebody, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("PIP_"):
            monkeypatch.delenv(name)
    lock = somebody.home / "requirements.lock"
    with serving(somebody.home / "index") as index:
        lock.write_text(pin(wheel(index.folder)))
        monkeypatch.setenv("PIP_INDEX_URL", index.url)
        monkeypatch.setenv("LC_ALL", "C")
        monkeypatch.setenv("UV_CACHE_DIR", str(somebody.home / "uv"))
        environment = ensure("paint", lock, somebody.home / ".cache", on_event=lambda _: None)
    argv = [str(environment.python), "-c", "import tiny, containers.errors, sys; print(tiny.VERSION, sys.prefix)"]
    done = run(argv, env=somebody.variables | environment.environment())
    assert done.stdout.strip() == f"1.0 {environment.folder}"
