"""The folder of a download's unfinished files: it outlives a killed run, so that the next one continues from there."""

from __future__ import annotations

import fcntl
import shutil
from contextlib import contextmanager
from typing import TYPE_CHECKING

from containers.errors import BadInput

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from containers.events import Reporter

_LOCK = ".lock"


@contextmanager
def partial_folder(home: Path, fingerprint: str, report: Reporter) -> Iterator[Path]:
    """`<home>/partial/<fingerprint>`, for this process alone; another one waits. Removed when the block ends well."""
    folder = home / "partial" / fingerprint
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / _LOCK).open("w")
    except OSError as error:
        raise BadInput(
            f"cannot make the folder {folder}: {error.strerror}", remedy="check CARWRIGHT_HOME and its permissions"
        ) from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            report.log("another run is downloading the same checkpoint: waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        folder.mkdir(parents=True, exist_ok=True)  # the other run has finished and removed it
        yield folder
        shutil.rmtree(folder, ignore_errors=True)
