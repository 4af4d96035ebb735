"""Log files of programs that run for long: of bounded size, by the standard library's RotatingFileHandler.

A file of `SIZE` bytes becomes `<name>.1`, and what was `<name>.1` goes: a log takes at most twice that. Several processes may
write to one file; the one that finds it full renames it, and another goes on in the renamed one until that is full, too.
"""

from __future__ import annotations

import contextlib
import logging
from logging.handlers import RotatingFileHandler
from typing import TYPE_CHECKING, Final

from containers.private import opener

if TYPE_CHECKING:
    from io import TextIOWrapper
    from pathlib import Path

SIZE: Final = 16 << 20  # bytes


class RotatingLog(RotatingFileHandler):
    """Writes bytes as they come, one line or part of a line at a time; the file is its owner's alone.

    Raises OSError when it cannot be opened. A write that fails, as on a full disk, is dropped: the program goes on.
    """

    terminator = ""

    def __init__(self, path: Path, size: int = SIZE) -> None:
        super().__init__(path, maxBytes=size, backupCount=1, encoding="utf-8", errors="surrogateescape")

    def write(self, line: bytes) -> None:
        self.handle(logging.makeLogRecord({"msg": line.decode("utf-8", "surrogateescape")}))

    def close(self) -> None:
        with contextlib.suppress(OSError):  # what could not be written is tried once more
            super().close()

    def _open(self) -> TextIOWrapper:
        return open(self.baseFilename, "a", encoding="utf-8", errors="surrogateescape", newline="", opener=opener)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 -- logging's name
        """Nobody is told: what is logged is told to others, too."""
