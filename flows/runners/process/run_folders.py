"""The folders of runs in a home: `runs/<run>`, with the requests, results and logs of its steps, and its record.

The newest 50 stay, and so does what a process is at work in: it holds a shared lock (flock(2)) on the folder's file `.in-use`,
which the system lets go of when the process ends in whatever way. A service that outlives it holds the same lock. A folder without that file is of an earlier version, and
goes a day after it was written to last.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import threading
import time
from typing import TYPE_CHECKING, Final

from containers import private

if TYPE_CHECKING:
    from pathlib import Path

SUMMARY: Final = "summary.json"  # the record of a run (flows.local.run_record)
_KEPT: Final = 50
_MARK: Final = ".in-use"
_OLD: Final = 86_400.0  # seconds

_held: dict[str, int] = {}  # of this process: until it ends
_lock = threading.Lock()


def of_run(home: Path, run: str) -> Path:
    """The folder of a run that this process works for; where it is new to the process, old ones go.

    Raises OSError when it cannot be made.
    """
    folder = private.folder(home, "runs", run)
    with _lock:
        if _held.get(str(folder)) is None:
            mark = os.open(folder / _MARK, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
            fcntl.flock(mark, fcntl.LOCK_SH)
            _held[str(folder)] = mark
            prune(folder.parent)
    return folder


def summaries(home: Path) -> list[Path]:
    """The records of all runs of a home, the newest first."""
    return sorted((home / "runs").glob(f"*/{SUMMARY}"), reverse=True)


def marks(folder: Path) -> tuple[int, ...]:
    """The open file of this process's lock on the folder of a run, for a program that goes on in it afterwards."""
    held = _held.get(str(folder))
    return () if held is None else (held,)


def prune(runs: Path) -> None:
    """Remove all but the newest and what is in use; another process may do so, too."""
    written: list[tuple[float, Path]] = []
    for folder in runs.iterdir():
        with contextlib.suppress(OSError):
            if folder.is_dir() and not folder.is_symlink():
                written.append((folder.stat().st_mtime, folder))
    for when, folder in sorted(written)[:-_KEPT]:
        with contextlib.suppress(OSError):
            if _free(folder, when):
                shutil.rmtree(folder, ignore_errors=True)


def _free(folder: Path, written: float) -> bool:
    try:
        mark = os.open(folder / _MARK, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return time.time() - written > _OLD
    try:
        fcntl.flock(mark, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    else:
        return True
    finally:
        os.close(mark)
