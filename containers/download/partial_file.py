"""A file on its way, as far as it lies on this machine's disk: small ones as one part, large ones in parts that come at once.

Of a file in one part the disk has a beginning, and its size says how much. Parts are written where they belong, so the size
says nothing. Beside such a file lies its journal, `<name>.parts`: the size of the file and of a part, and then lines of
`<start> <reached>`, of which the last one of a part counts. A line is written after the bytes that it speaks of. Nobody trusts
it: the whole file is held against its digest.
"""

from __future__ import annotations

import errno
import os
import re
from concurrent.futures import wait
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Self

from containers.errors import BadInput, DiskFull

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from concurrent.futures import Future
    from pathlib import Path

    from containers.errors import Error

# Bytes, one request each. The hub lets an address without a token make 3,000 in five minutes (its documentation, "Rate limits"):
# that is 1.3 GB/s, and who is faster waits as it says.
PART: Final = 128 << 20
_NOTED: Final = 8 << 20  # bytes of a part that a kill may cost
_PIECE: Final = 4 << 20  # bytes: whoever hashes fights for the interpreter with the connections, for each piece
_LINE: Final = re.compile(r"([0-9]{1,19}) ([0-9]{1,19})")
_FOLLOW: Final = 0.05  # seconds between two looks at a part that arrives


class FilePart:
    """The bytes of a file from `start` up to, not including, `stop`; those before `reached` are there. For one thread."""

    def __init__(self, file: PartialFile, start: int, stop: int) -> None:
        self._file = file
        self._noted = start
        self.start = start
        self.stop = stop
        self.reached = start
        self.rewritten = False  # whether bytes were given up that somebody may have read

    @property
    def path(self) -> Path:
        """Of the file."""
        return self._file.path

    @property
    def last(self) -> bool:
        """Whether the file ends with it."""
        return self.stop == self._file.size

    def resume(self, at: int) -> None:
        """Go on there: what is before it is on the disk, and noted."""
        self.reached = self._noted = at

    def write(self, data: bytes) -> None:
        """Raises OSError."""
        self._file.write(data, self.reached)
        self.reached += len(data)
        if self.reached - self._noted >= _NOTED or self.reached == self.stop:
            self.note()

    def back(self, to: int) -> None:
        """Give up what is behind that byte."""
        self.rewritten = True
        self.reached = to
        self._file.cut(to)
        self.note()

    def note(self) -> None:
        """Write down how far it is."""
        if self._noted != self.reached:
            self._noted = self.reached
            self._file.note(self)


class PartialFile:
    """`path` on its way to `size` bytes, with what an earlier run left of it, and in that run's parts; else in parts of
    `part` bytes, or as one.

    Nothing is written before it is opened, by `with`, which raises DiskFull and BadInput.
    """

    def __init__(self, path: Path, size: int, *, part: int | None = None) -> None:
        self.path = path
        self.size = size
        self._journal = path.with_name(path.name + ".parts")
        self._file = self._notes = -1
        noted, there = self._noted(), _size(path)
        self._usable = noted is not None or (there <= size and not self._journal.exists())
        self._part = noted.part if noted is not None else part if part is not None and size > part else None
        length = self._part or max(size, 1)
        self.parts = tuple(FilePart(self, start, min(start + length, size)) for start in range(0, max(size, 1), length))
        if self._usable:
            for one in self.parts:  # without a journal all that is there is a beginning
                reached = there if noted is None else min(there, noted.reached.get(one.start, 0))
                one.resume(max(one.start, min(reached, one.stop)))
        self.resumed = self._usable and path.exists()

    @property
    def present(self) -> int:
        """Bytes that are there."""
        return sum(part.reached - part.start for part in self.parts)

    def __enter__(self) -> Self:
        try:
            self._open()
        except OSError as error:
            raise disk_error(error, self.path) from error
        return self

    def _open(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if not self._usable:
            self.discard()
        self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        if self._part:
            lines = (
                f"{self.size} {self._part}",
                *(f"{part.start} {part.reached}" for part in self.parts if part.reached > part.start),
            )
            fresh = self._journal.with_name(self._journal.name + "~")
            fresh.write_text("".join(f"{line}\n" for line in lines))
            fresh.replace(self._journal)
            self._notes = os.open(self._journal, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)

    def __exit__(self, *_: object) -> None:
        os.close(self._file)
        if self._part:
            os.close(self._notes)

    def discard(self) -> None:
        """Remove it from the disk."""
        self.path.unlink(missing_ok=True)
        self._journal.unlink(missing_ok=True)

    def read(self, start: int = 0, stop: int | None = None) -> Iterator[memoryview]:
        """Its bytes in order, as far as they are there. A piece is good until the next one is asked for."""
        stop = self.size if stop is None else stop
        buffer = memoryview(bytearray(min(_PIECE, max(stop - start, 0))))
        while start < stop and (count := os.preadv(self._file, [buffer[: stop - start]], start)):
            start += count
            yield buffer[:count]

    def write(self, data: bytes, at: int) -> None:
        left = memoryview(data)
        while left:
            written = os.pwrite(self._file, left, at)
            at, left = at + written, left[written:]

    def cut(self, at: int) -> None:
        """End the file there, if it is in one part."""
        if not self._part:
            os.ftruncate(self._file, at)

    def note(self, part: FilePart) -> None:
        if self._part:
            os.write(self._notes, f"{part.start} {part.reached}\n".encode())

    def _noted(self) -> _Noted | None:
        """What the journal says; None without one, or when it is of a file of another size."""
        try:
            lines = self._journal.read_text(errors="replace").split("\n")[:-1]  # what has no end was not written whole
        except OSError:
            return None
        pairs = [(int(line[1]), int(line[2])) for line in map(_LINE.fullmatch, lines) if line]
        if not pairs or pairs[0][0] != self.size or not 0 < pairs[0][1] < self.size:
            return None
        return _Noted(pairs[0][1], dict(pairs[1:]))


@dataclass(frozen=True)
class _Noted:
    """A journal: the bytes of a part, and how far each part is, by its start."""

    part: int
    reached: dict[int, int]


@dataclass(frozen=True)
class Arriving:
    """An open file, and a transfer for each of its parts."""

    file: PartialFile
    transfers: Sequence[Future[None]]

    def pieces(self) -> Iterator[memoryview]:
        """All bytes in order, as they come in; a piece is good until the next one is asked for. Raises what a transfer raises, and Rewritten."""
        for part, transfer in zip(self.file.parts, self.transfers, strict=True):
            at, ended = part.start, False
            while not ended:
                ended = transfer.done()  # asked first: what it brought before is read below
                for piece in self.file.read(at, part.reached):
                    at += len(piece)
                    yield piece
                if part.rewritten:
                    raise Rewritten
                wait([transfer], timeout=_FOLLOW)
            transfer.result()

    def wait(self) -> None:
        """Until all bytes are there. Raises what a transfer raises."""
        for transfer in self.transfers:
            transfer.result()


class Rewritten(Exception):
    """Bytes that were given already came a second time, and may be others."""


def disk_error(error: OSError, path: Path) -> Error:
    """What a failed write to the disk means."""
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return DiskFull(
            f"no space is left for {path}", remedy="free some space and run it again: it continues from here"
        )
    return BadInput(f"cannot write {path}: {error.strerror or error}")


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
