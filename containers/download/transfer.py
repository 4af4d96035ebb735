"""Brings one file from its source to this machine's disk, or a few bytes of it into memory."""

from __future__ import annotations

import io
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from containers.download.partial_file import disk_error
from containers.download.retries import NoRanges, StartOver, retrying
from containers.errors import BadInput, Interrupted, Temporary
from containers.safetensors import read_header
from containers.web.limits import TooSlow

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Iterator

    from containers.download.origin import FileOrigin
    from containers.download.partial_file import FilePart
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

    def fetch(self, file: Remote, part: FilePart, on_bytes: Callable[[int], None]) -> None:
        """Bring a part of an open file, going on from the bytes that it has. `on_bytes` gets what is added, or, below 0,
        taken back.

        A source that fails is asked again for as long as each round of attempts brings something worth its time. Raises
        NoRanges when it cannot start where the part does.
        """
        while (before := part.reached) != part.stop:
            started = time.monotonic()
            try:
                retrying(self._say, self._sleep)(self._go_on, file, part, on_bytes)
            except TooSlow:
                raise
            except Temporary:
                seconds = max(0.0, time.monotonic() - started - _GRACE)
                if part.reached - before <= _LEAST_RATE * seconds:
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

    def _go_on(self, file: Remote, part: FilePart, on_bytes: Callable[[int], None]) -> None:
        self._check_stop()
        try:
            with self._noting(part), self._begun(file, part, on_bytes) as (offset, pieces):
                if offset < part.start:
                    raise NoRanges(f"the source of {file.path} sends it from its start alone")
                if offset != part.reached:
                    self._back(part, offset, on_bytes)
                for piece in pieces:
                    self._check_stop()
                    room = part.stop - part.reached
                    if len(piece) > room and part.last:
                        raise BadInput(
                            f"{file.path} has more than the {file.size} bytes that its source announced",
                            remedy="resolve the source again",
                        )
                    part.write(piece[:room])
                    on_bytes(min(len(piece), room))
                    if len(piece) > room:  # it goes on where another part is at work
                        break
        except OSError as error:
            raise disk_error(error, part.path) from error
        if part.reached != part.stop:
            raise Temporary(
                f"{file.path} was cut off at {part.reached} of {file.size} bytes", remedy="run it again: it continues"
            )

    @contextmanager
    def _begun(
        self, file: Remote, part: FilePart, on_bytes: Callable[[int], None]
    ) -> Iterator[tuple[int, Iterator[bytes]]]:
        """The rest of a part. Where its source has no such rest, what there is of the first one is given up before the next
        attempt; of another one it is nothing that this source has.
        """
        try:
            with self._origin.open(file, part.reached, part.stop) as (offset, pieces):
                yield offset, pieces
        except StartOver as error:
            if part.start:
                raise NoRanges(error.message) from error
            self._back(part, part.start, on_bytes)
            raise

    @staticmethod
    @contextmanager
    def _noting(part: FilePart) -> Iterator[None]:
        try:
            yield
        finally:
            part.note()

    @staticmethod
    def _back(part: FilePart, to: int, on_bytes: Callable[[int], None]) -> None:
        on_bytes(to - part.reached)
        part.back(to)

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
