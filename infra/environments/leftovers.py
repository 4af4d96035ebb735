"""Step environments of old locks: found by their folders' names, and removed when nobody has used them for long.

An environment is used whenever `environment.ensure` gives it out, which dates its file. Whoever removes one takes that file
away first and looks at its date afterwards: one that was given out meanwhile is put back, and one that is asked for later is
waited for and built anew.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from containers.contract import Step
from containers.fingerprints import lock_of
from infra.environments.environment import FINISHED, ON_GPUS, environment_name, key, lock_file

if TYPE_CHECKING:
    from datetime import timedelta

_GOING: Final = f".{FINISHED}.going"


@dataclass(frozen=True)
class Leftover:
    """An environment that no lock of this version asks for; `age` in seconds since its last use, `size` in bytes."""

    folder: Path
    age: float
    size: int


def leftovers(cache: Path, older: timedelta) -> list[Leftover]:
    """The environments of other locks that nobody has used for so long; a process of this machine that runs from one uses it."""
    envs = cache.expanduser().absolute() / "envs"
    current = {environment_name(step, key(lock_of(step, cuda=cuda).read_bytes()), cuda=cuda) for step, cuda in _locks()}
    found: list[Leftover] = []
    for folder in sorted(envs.iterdir()) if envs.is_dir() else []:
        if folder.is_symlink() or not folder.is_dir() or folder.name in current or folder.name.startswith("."):
            continue
        unused = time.time() - _used(folder)
        if unused >= older.total_seconds() and not in_use(folder):
            found.append(Leftover(folder, unused, _size(folder)))
    return found


def remove(one: Leftover, older: timedelta) -> bool:
    """Remove an environment, unless somebody builds or uses it by now."""
    finished, going = one.folder / FINISHED, one.folder / _GOING
    with lock_file(one.folder).open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        if finished.is_file():
            finished.replace(going)
        if time.time() - _used(one.folder) < older.total_seconds() or in_use(one.folder):
            if going.is_file():
                going.replace(finished)
            return False
        shutil.rmtree(one.folder)
    return True


def in_use(folder: Path) -> bool:
    """Whether a process of this machine has a file of it open as code, or was started from it (proc(5))."""
    inside = f"{folder}/".encode()
    for process in Path("/proc").glob("[0-9]*"):
        for name in ("cmdline", "maps"):
            try:
                if inside in (process / name).read_bytes():
                    return True
            except OSError:  # ended, or another user's, who has a cache of their own
                continue
    return False


def _locks() -> list[tuple[Step, bool]]:
    return [(step, cuda) for step in Step for cuda in (False, True) if not cuda or step in ON_GPUS]


def _used(folder: Path) -> float:
    """When it was last given out; for one that was never finished, when something was last written there."""
    for name in (FINISHED, _GOING):
        try:
            return (folder / name).stat().st_mtime
        except FileNotFoundError:
            continue
    return folder.stat().st_mtime


def _size(folder: Path) -> int:
    return sum(
        os.lstat(os.path.join(inside, name)).st_blocks * 512  # noqa: PTH118 - tens of thousands of files
        for inside, _, names in os.walk(folder)
        for name in names
    )
