"""State on a machine that others use, too: folders and files for their owner alone, whatever the umask.

What a run leaves behind tells of models and machines, its store decides what a next run finds, and its environments are
programs that will run: nobody else may read the first or write any of them.
"""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pathlib import Path

UMASK: Final = 0o077  # of a program that writes state and nothing else
_OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO


def folder(home: Path, *parts: str) -> Path:
    """The folder `home/part/...`, made where it is missing.

    What is below `home` is closed to others, also where it was there and open; `home`, which somebody has named and may hold
    other things, only when it is made here. Raises OSError.
    """
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    for part in parts:
        home = home / part
        home.mkdir(mode=0o700, exist_ok=True)
        status = home.stat()
        if status.st_mode & _OTHERS and status.st_uid == os.geteuid():
            home.chmod(0o700)
    return home


def opener(path: str, flags: int) -> int:
    """For `open`: a new file is its owner's alone."""
    return os.open(path, flags, 0o600)


def write(path: Path, text: str) -> None:
    """Write the file under a temporary name and rename it: a reader sees all of it or nothing, and nobody else any."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with open(temporary, "w", encoding="utf-8", opener=opener) as file:
        file.write(text)
    temporary.replace(path)
