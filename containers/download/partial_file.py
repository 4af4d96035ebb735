"""A file on its way, as far as it lies on this machine's disk: small ones as one part, large ones in parts that come at once.

Of a file in one part the disk has a beginning, and its size says how much. Parts are written where they belong, so the size
says nothing. Such a file is called `<name>.split`, and beside it lies its journal, `<name>.parts`: the size of the file and of
a part, the boot of the machine (random(4)), and then lines of `<start> <reached>`, of which the last one of a part counts. A
line is written after the bytes that it speaks of, but a machine that loses its power may keep one without the other. A digest
notices that. Where the source promised none, only a journal of the same boot is believed.
"""

from __future__ import annotations

import errno
import os
import re
import uuid
from concurrent.futures import wait
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

from containers.errors import BadInput, DiskFull, Interrupted

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Iterator
    from concurrent.futures import Future

    from containers.errors import Error

# Bytes, one request each. The hub lets an address without a token make 3,000 in five minutes (its documentation, "Rate limits"):
# that is 1.3 GB/s, and who is faster waits as it says.
PART: Final = 128 << 20
_NOTED: Final = 8 << 20  # bytes of a part that a kill may cost
_PIECE: Final = 4 << 20  # bytes: whoever hashes fights for the interpreter with the connections, for each piece
_HEAD: Final = re.compile(r"([0-9]{1,19}) ([0-9]{1,19}) (\S{1,64})")
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
    """A file of `size` bytes on its way to `path`, with what an earlier run left of it, and in that run's parts; else in
    parts of `part` bytes, or as one. `checked`: whether its bytes will be held against a digest that its source promised.

    Nothing is written before it is opened, by `with`, which raises DiskFull and BadInput.
    """

    def __init__(self, path: Path, size: int, *, part: int | None = None, checked: bool = False) -> None:
        self.size = size
        self._checked = checked
        self._whole, self._split = path, path.with_name(path.name + ".split")
        self._journal = path.with_name(path.name + ".parts")
        self._file = self._notes = -1
        noted = self._noted(checked=checked)
        self._fresh = noted is None
        self._part = noted.part if noted is not None else part if part is not None and size > part else None
        length = self._part or max(size, 1)
        self.parts = tuple(FilePart(self, start, min(start + length, size)) for start in range(0, max(size, 1), length))
        there = _size(self._whole if noted is None else self._split)
        for one in self.parts if there <= size else ():
            reached = there if noted is None else min(there, noted.reached.get(one.start, 0))
            one.resume(max(one.start, min(reached, one.stop)))  # without a journal all that is there is a beginning
        self.resumed = there <= size and (noted is not None or self._whole.exists())

    @property
    def path(self) -> Path:
        """Where its bytes are."""
        return self._split if self._part else self._whole

    @property
    def present(self) -> int:
        """Bytes that are there."""
        return sum(part.reached - part.start for part in self.parts)

    def __enter__(self) -> Self:
        try:
            self._open()
        except OSError as error:
            self._close()
            raise disk_error(error, self.path) from error
        return self

    def _open(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if self._fresh:
            self._journal.unlink(missing_ok=True)
            self._split.unlink(missing_ok=True)
            if self.path != self._whole and self._whole.exists():
                self._whole.rename(self.path)
        if not self.resumed:
            self.path.unlink(missing_ok=True)
        self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        if self._part:
            reached = (f"{part.start} {part.reached}" for part in self.parts if part.reached > part.start)
            new = self._journal.with_name(self._journal.name + "~")
            new.write_text("".join(f"{line}\n" for line in (f"{self.size} {self._part} {_boot()}", *reached)))
            new.replace(self._journal)
            self._notes = os.open(self._journal, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)

    def __exit__(self, *_: object) -> None:
        try:
            self._close()
        except OSError as error:  # of a file system that writes when a file is closed
            raise disk_error(error, self.path) from error

    def _close(self) -> None:
        files = [file for file in (self._file, self._notes) if file >= 0]
        self._file = self._notes = -1  # nobody writes to what else gets these numbers
        with ExitStack() as stack:
            for file in files:
                stack.callback(os.close, file)

    def anew(self, *, split: bool) -> PartialFile:
        """The same file once more, in parts only with `split`."""
        return PartialFile(self._whole, self.size, part=self._part if split else None, checked=self._checked)

    def discard(self) -> None:
        """Remove it from the disk."""
        for path in (self._whole, self._split, self._journal):
            path.unlink(missing_ok=True)

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

    def _noted(self, *, checked: bool) -> _Noted | None:
        """What the journal says; None without one, or when it is of a file of another size or not to be believed."""
        try:
            lines = self._journal.read_text(errors="replace").split("\n")[:-1]  # what has no end was not written whole
        except OSError:
            return None
        head = _HEAD.fullmatch(lines[0]) if lines else None
        if head is None or int(head[1]) != self.size or not 0 < int(head[2]) < self.size:
            return None
        if not checked and head[3] != _boot():
            return None
        notes = (_LINE.fullmatch(line) for line in lines[1:])
        return _Noted(int(head[2]), {int(note[1]): int(note[2]) for note in notes if note})


@dataclass(frozen=True)
class _Noted:
    """A journal: the bytes of a part, and how far each part is, by its start."""

    part: int
    reached: dict[int, int]


class Arriving:
    """An open file whose parts are transferred. Setting `stopping` ends whoever waits for it."""

    def __init__(self, file: PartialFile, stopping: threading.Event) -> None:
        self.file = file
        self._stopping = stopping
        self._transfers: list[Future[None]] = []
        self._failure: BaseException | None = None

    def begin(self, begin: Callable[[FilePart], Future[None]]) -> None:
        """Begin the transfer of each part."""
        for part in self.file.parts:
            transfer = begin(part)
            self._transfers.append(transfer)
            transfer.add_done_callback(self._look)

    def end(self) -> None:
        """Leave no transfer: those under way have ended when this returns."""
        wait([transfer for transfer in self._transfers if not transfer.cancel()])

    @property
    def ended(self) -> bool:
        """Whether no transfer is under way, or waits for its turn."""
        return all(transfer.done() for transfer in self._transfers)

    def pieces(self) -> Iterator[memoryview]:
        """All bytes in order, as they come in; a piece is good until the next one is asked for. Raises what the first
        transfer that fails raises, at once, Interrupted, and Rewritten.
        """
        for part, transfer in zip(self.file.parts, self._transfers, strict=True):
            at, ended = part.start, False
            while not ended:
                ended = transfer.done()  # asked first: what it brought before is read below
                for piece in self.file.read(at, part.reached):
                    self._check()
                    at += len(piece)
                    yield piece
                if part.rewritten:
                    raise Rewritten
                self._check()
                wait([transfer], timeout=_FOLLOW)
            transfer.result()  # a transfer is done a moment before `_look` hears of it

    def again(self) -> Iterator[memoryview]:
        """All bytes in order, once all are there. Raises as `pieces`, but for Rewritten."""
        self.wait()
        for piece in self.file.read():
            self._check()
            yield piece

    def wait(self) -> None:
        """Until all bytes are there. Raises as `pieces`, but for Rewritten."""
        for transfer in self._transfers:
            while not transfer.done():
                self._check()
                wait([transfer], timeout=_FOLLOW)
            transfer.result()
        self._check()

    def _look(self, transfer: Future[None]) -> None:
        if self._failure is None and not transfer.cancelled():
            self._failure = transfer.exception()

    def _check(self) -> None:
        if self._failure is not None:
            raise self._failure
        if self._stopping.is_set():
            raise Interrupted("the download was stopped")


class Rewritten(Exception):
    """Bytes that were given already came a second time, and may be others."""


def disk_error(error: OSError, path: Path) -> Error:
    """What a failed write to the disk means."""
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return DiskFull(
            f"no space is left for {path}", remedy="free some space and run it again: it continues from here"
        )
    return BadInput(f"cannot write {path}: {error.strerror or error}")


@cache
def _boot() -> str:
    """What tells this boot of the machine from any other."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return uuid.uuid4().hex  # of this process alone


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
