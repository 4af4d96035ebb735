"""Log files of programs that run for long: of bounded size, by the standard library's RotatingFileHandler.

A file of `SIZE` bytes becomes `<name>.1`, and what was `<name>.1` goes: a log takes at most twice that. Several processes may
write to one file: the one that finds it full renames it, and each of the others goes on in the new one with its next line.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import TYPE_CHECKING, Final

from containers.private import opener

if TYPE_CHECKING:
    from io import TextIOWrapper

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

    def shouldRollover(self, record: logging.LogRecord) -> bool:  # noqa: N802 -- logging's name
        if not self._is_current():
            self._reopen()
        return bool(super().shouldRollover(record))

    def doRollover(self) -> None:  # noqa: N802 -- logging's name
        """Rename the file, unless another writer has just done so: what lies under the second name would go."""
        assert self.stream is not None  # who asks whether to rotate opens it
        fcntl.flock(self.stream, fcntl.LOCK_EX)
        try:
            if self._is_current():
                self.rotate(self.baseFilename, f"{self.baseFilename}.1")
        finally:
            fcntl.flock(self.stream, fcntl.LOCK_UN)
        self._reopen()

    def _is_current(self) -> bool:
        """Whether what is open is the file of that name."""
        try:
            return self.stream is not None and os.path.samestat(
                os.fstat(self.stream.fileno()), Path(self.baseFilename).stat()
            )
        except FileNotFoundError:
            return False

    def _reopen(self) -> None:
        with contextlib.suppress(OSError):  # its folder has gone, say: then it goes on in what it has
            before, self.stream = self.stream, self._open()
            if before is not None:
                before.close()

    def _open(self) -> TextIOWrapper:
        return open(self.baseFilename, "a", encoding="utf-8", errors="surrogateescape", newline="", opener=opener)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 -- logging's name
        """Nobody is told: what is logged is told to others, too."""
