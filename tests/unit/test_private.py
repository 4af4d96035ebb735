"""State is its owner's alone, whatever the umask, also where an older version has left it open."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

import pytest

from containers import private
from containers.contract import Step, StepRequest, StepResult
from containers.process import Child, inherited
from flows.local import embedded
from flows.local.run_record import RunRecord
from flows.runners.process import launcher as process_launcher
from flows.runners.process.launcher import ProcessLauncher
from flows.ship_request import ShipRequest
from infra.environments.environment import Environment
from infra.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def open_to_others(folder: Path) -> list[str]:
    """What others may read, write or enter, below the folder."""
    found = (path for path in folder.rglob("*") if not path.is_symlink())
    return [f"{stat.filemode(path.stat().st_mode)} {path}" for path in found if path.stat().st_mode & 0o077]


@pytest.fixture(params=[0o000, 0o002, 0o022], ids=oct)
def umask(request: pytest.FixtureRequest) -> Iterator[None]:
    before = os.umask(request.param)
    yield
    os.umask(before)


@pytest.mark.usefixtures("umask")
def test_folders_and_files(tmp_path: Path) -> None:
    home = tmp_path / "there" / "home"
    folder = private.folder(home, "runs", "one")
    assert folder == home / "runs" / "one"
    private.write(folder / "a", "text")
    assert (folder / "a").read_text() == "text"
    assert [path.name for path in folder.iterdir()] == ["a"]
    assert stat.S_IMODE(home.stat().st_mode) == 0o700
    assert open_to_others(home) == []


@pytest.mark.usefixtures("umask")
def test_what_was_left_open_is_closed_and_what_somebody_named_is_left(tmp_path: Path) -> None:
    """CARWRIGHT_HOME may be a folder that holds other things, too."""
    (tmp_path / "runs" / "old").mkdir(parents=True, mode=0o755)
    before = tmp_path.stat().st_mode
    private.folder(tmp_path, "runs", "new")
    assert tmp_path.stat().st_mode == before
    assert stat.S_IMODE((tmp_path / "runs").stat().st_mode) == 0o700


_STEP = f"""#!/bin/sh
mkdir made && echo x >made/file && echo '{StepResult(step=Step.DOWNLOAD).model_dump_json()}' >"$6"
"""


@pytest.mark.usefixtures("umask")
def test_what_a_run_leaves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its lock, its record, the login; and of a step request, result and log."""
    settings = Settings(home=tmp_path / "home", cache=tmp_path / "cache")
    environment = Environment(folder=tmp_path / "env", modules=tmp_path)
    environment.python.parent.mkdir(parents=True)
    environment.python.write_text(_STEP)
    environment.python.chmod(0o755)
    monkeypatch.setattr(process_launcher, "prepare", lambda *_: environment)
    with embedded.run_lock(settings, lambda _: None):
        embedded.login(embedded.login_file(settings))
        RunRecord.begin(settings.home / "runs", "r", ShipRequest(model="hf://a/b"), "").update(state="shipped")
        ProcessLauncher(settings).run(StepRequest(step=Step.DOWNLOAD, run="r"), lambda _: None)
    names = {path.name for path in settings.home.rglob("*")}
    assert {"lock", "login", "summary.json", "request.json", "result.json", "log.jsonl"} <= names
    assert open_to_others(settings.home) == []


@pytest.mark.usefixtures("umask")
def test_the_log_of_a_program_and_what_it_writes(tmp_path: Path) -> None:
    argv = ["/bin/sh", "-c", "echo said; echo x >file; mkdir folder"]
    work = private.folder(tmp_path, "work")
    with Child(argv, inherited(), cwd=work, log_file=tmp_path / "logs" / "log", umask=private.UMASK) as child:
        assert child.wait() == 0
    assert (tmp_path / "logs" / "log").read_text() == "said\n"
    assert open_to_others(tmp_path) == []
