"""Folders of runs: the newest stay, and those that a process is at work in."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from containers.process import Child, inherited, run, start_time, stop_by_pid
from flows.runners.process import run_folders
from tests.support.waiting import until

AT_WORK = """
import sys, time
from pathlib import Path
from flows.runners.process import run_folders
print(run_folders.of_run(Path(sys.argv[1]), sys.argv[2]), flush=True)
time.sleep(600)
"""


LEAVES_ONE_BEHIND = """
import sys
from pathlib import Path
from containers.process import Child, inherited
from flows.runners.process import run_folders
folder = run_folders.of_run(Path(sys.argv[1]), sys.argv[2])
child = Child(["sleep", "600"], inherited(), detached=True, holds=run_folders.marks(folder)).start()
print(child.pid, flush=True)
"""


def earlier(home: Path, name: str, days: float, *, marked: bool = True) -> Path:
    """The folder of a run that ended so long ago."""
    folder = home / "runs" / name
    folder.mkdir(parents=True)
    (folder / "log").write_text("what it said")
    if marked:
        (folder / ".in-use").touch()
    at = folder.stat().st_mtime - days * 86_400
    os.utime(folder, (at, at))
    return folder


def test_the_newest_fifty_stay(tmp_path: Path) -> None:
    """Whatever their names: those of a worker's runs are no times."""
    for number in range(60):
        earlier(tmp_path, f"{number * 7919 % 97:02}-run", number / 1000)
    new = run_folders.of_run(tmp_path, "new")
    left = {path.name for path in (tmp_path / "runs").iterdir()}
    assert left == {"new"} | {f"{number * 7919 % 97:02}-run" for number in range(49)}
    assert run_folders.of_run(tmp_path, "new") == new


def test_a_run_that_goes_on_stays_until_its_process_ends(tmp_path: Path) -> None:
    said: list[str] = []
    argv = [sys.executable, "-c", AT_WORK, str(tmp_path), "long"]
    with Child(argv, inherited(), on_line=said.append) as child:
        until(lambda: bool(said), lambda: child.tail)
        folder = tmp_path / "runs" / "long"
        os.utime(folder, (1, 1))
        for number in range(60):
            earlier(tmp_path, f"r{number}", 0)
        run_folders.of_run(tmp_path, "first")
        assert folder.is_dir()
    run_folders.of_run(tmp_path, "second")
    assert not folder.exists()


def test_the_folder_of_a_service_that_outlives_its_run_stays_until_it_ends(tmp_path: Path) -> None:
    """Its log and its temporary files are there."""
    pid = int(run([sys.executable, "-c", LEAVES_ONE_BEHIND, str(tmp_path), "kept"], cwd=Path.cwd()).stdout)
    started = start_time(pid)
    assert started is not None
    folder = tmp_path / "runs" / "kept"
    try:
        os.utime(folder, (1, 1))
        for number in range(60):
            earlier(tmp_path, f"r{number}", 0)
        run_folders.of_run(tmp_path, "first")
        assert folder.is_dir()
    finally:
        stop_by_pid(pid, started)
    run_folders.of_run(tmp_path, "second")
    assert not folder.exists()


def test_a_folder_of_an_earlier_version_stays_for_a_day(tmp_path: Path) -> None:
    for number in range(60):
        earlier(tmp_path, f"r{number}", 0)
    young = earlier(tmp_path, "young", 0.9, marked=False)
    old = earlier(tmp_path, "old", 1.1, marked=False)
    run_folders.of_run(tmp_path, "new")
    assert (young.exists(), old.exists()) == (True, False)
