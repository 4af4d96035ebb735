"""Brings one file from its source to this machine's disk, or a few bytes of it into memory."""

from __future__ import annotations

import errno
import io
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from containers.download.retries import StartOver, retrying
from containers.errors import BadInput, DiskFull, Error, Interrupted, Temporary
from containers.safetensors import read_header
from containers.web.limits import TooSlow

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Iterator
    from io import FileIO
    from pathlib import Path

    from containers.download.origin import FileOrigin
    from containers.download.selection import Remote

_FIRST: Final = 64 << 10  # bytes: the whole header of most shards
_LEAST_RATE: Final = 100.0  # bytes per second over a round of attempts that all failed
_GRACE: Final = 60.0  # seconds of a round in which nothing arrives: pauses between attempts
_HEADERS_MAX: Final = 256 << 20  # bytes of the headers of a checkpoint, which are kept until they are announced


class Transfer:
    """Reads files of one source; `say` reports waits, `stopping` ends the work of other threads.

    Raises what the source raises, and Interrupted.
    """

    def __init__(self, origin: FileOrigin, say: Callable[[str], object], stopping: threading.Event) -> None:
        self._origin = origin
        self._say = say
        self._stopping = stopping
        self._headers = 0

    def fetch(self, file: Remote, path: Path, on_bytes: Callable[[int], None]) -> None:
        """Make `path` the whole file, going on from the bytes that it has. `on_bytes` gets what is added, or, below 0,
        taken back.

        A source that fails is asked again for as long as each round of attempts brings something worth its time.
        """
        while (before := size_of(path)) != file.size or not path.exists():
            started = time.monotonic()
            try:
                retrying(self._say, self._sleep)(self._go_on, file, path, on_bytes)
            except TooSlow:
                raise
            except Temporary:
                seconds = max(0.0, time.monotonic() - started - _GRACE)
                if size_of(path) - before <= _LEAST_RATE * seconds:
                    raise

    def check_weights(self, file: Remote) -> bytes:
        """Read the header of a safetensors file and hold it against the file's size; BadInput when it does not fit.

        Returns the bytes in front of the first tensor.

        Two short reads, before anything is fetched: a truncated upload of 800 GB is refused in a second.
        """
        front = _Header(self, file)
        header = read_header(front, file.path, file.size)
        self._headers += header.data_start
        if self._headers > _HEADERS_MAX:
            raise BadInput(f"the headers of the checkpoint have more than {_HEADERS_MAX} bytes", remedy="take another")
        return front.have[: header.data_start]

    def read(self, file: Remote, start: int, stop: int) -> bytes:
        """A few bytes of a file."""

        def once() -> bytes:
            with self._origin.open(file, start, stop) as (offset, pieces):
                skip, found = start - offset, bytearray()
                for piece in pieces:
                    found += piece
                    if len(found) >= stop - offset:
                        break
                if len(found) < stop - offset:
                    raise Temporary(f"{file.path} was cut off at {offset + len(found)} bytes", remedy="run it again")
                return bytes(found[skip : stop - offset])

        return retrying(self._say, self._sleep)(once)

    def _go_on(self, file: Remote, path: Path, on_bytes: Callable[[int], None]) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with path.open("ab", buffering=0) as out:
                have = out.tell()
                if have > file.size:  # of another version: nothing of it can be used
                    out.truncate(0)
                    on_bytes(-have)
                    have = 0
                if have == file.size:
                    return
                with self._begun(file, out, have, on_bytes) as (offset, pieces):
                    if offset != have:
                        out.truncate(offset)
                        on_bytes(offset - have)
                        have = offset
                    for piece in pieces:
                        self._check_stop()
                        have += len(piece)
                        if have > file.size:
                            raise BadInput(
                                f"{file.path} has more than the {file.size} bytes that its source announced",
                                remedy="resolve the source again",
                            )
                        out.write(piece)
                        on_bytes(len(piece))
        except OSError as error:
            raise _disk(error, path) from error
        if have != file.size:
            raise Temporary(
                f"{file.path} was cut off at {have} of {file.size} bytes", remedy="run it again: it continues"
            )

    @contextmanager
    def _begun(
        self, file: Remote, out: FileIO, have: int, on_bytes: Callable[[int], None]
    ) -> Iterator[tuple[int, Iterator[bytes]]]:
        """The rest of a file. Where its source has no such rest, what there is of the file is given up before the next attempt."""
        try:
            with self._origin.open(file, have, file.size) as (offset, pieces):
                yield offset, pieces
        except StartOver:
            out.truncate(0)
            on_bytes(-have)
            raise

    def _sleep(self, seconds: float) -> None:
        self._stopping.wait(seconds)
        self._check_stop()

    def _check_stop(self) -> None:
        if self._stopping.is_set():
            raise Interrupted("the download was stopped")


class _Header(io.RawIOBase):
    """The front of a file as a stream, read in two pieces at most: the first bytes, and what they say is missing."""

    def __init__(self, transfer: Transfer, file: Remote) -> None:
        self._transfer = transfer
        self._file = file
        self.have = b""
        self._place = 0

    def read(self, size: int = -1, /) -> bytes:
        end = min(self._place + size, self._file.size)
        if end > len(self.have):
            stop = min(max(end, _FIRST), self._file.size)
            self.have += self._transfer.read(self._file, len(self.have), stop)
        piece = self.have[self._place : end]
        self._place = end
        return piece


def size_of(path: Path) -> int:
    """Bytes of a file; 0 when it is not there."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _disk(error: OSError, path: Path) -> Error:
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return DiskFull(
            f"no space is left for {path}", remedy="free some space and run it again: it continues from here"
        )
    return BadInput(f"cannot write {path}: {error.strerror or error}")
