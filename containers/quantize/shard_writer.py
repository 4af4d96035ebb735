"""Writes a quantized shard whose pieces may come in any order, and knows its two digests at the end."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Self

from containers.oci.layer import LayerHasher
from containers.quantize.channel import Channel, StoppedError
from containers.sha256 import Sha256

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future
    from pathlib import Path
    from types import TracebackType

    from containers.digest import Digest
    from containers.safetensors import Header

_WAITING: Final = 4  # pieces between the writer and a hasher
_BLOCK: Final = 1 << 20


@dataclass(frozen=True)
class WrittenShard:
    """What a shard turned out to be: its digest, with midstates, and that of the tar layer with this one file."""

    size: int
    sha256: Digest
    layer: Digest
    midstates: bytes = b""


class ShardWriter:
    """The file of one shard. Only one thread may call `write`; the digests are computed by two others.

    A piece that continues what has been hashed is hashed from memory as it passes; one that came before its turn is
    read back from the file, which is in the page cache. In the usual checkpoint nothing but scales is.
    """

    def __init__(self, file: Path, name: str, header: Header, front: bytes) -> None:
        self._handle = os.open(file, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
        self._size = header.size
        self._start = len(front)
        self._hashed = 0  # everything before this byte of the file is hashed or on its way to the hashers
        self._early: dict[int, int] = {}  # start -> stop of pieces that are written and wait for their turn
        self._sha256 = Sha256()
        self._layer = LayerHasher(name, header.size)
        self._channels = [Channel[memoryview | range](_WAITING) for _ in range(2)]
        self._pool = ThreadPoolExecutor(2, thread_name_prefix="hash")
        updates: list[Callable[[memoryview], None]] = [self._sha256.update, self._layer.update]
        self._hashers: list[Future[None]] = [
            self._pool.submit(self._hash, channel, update)
            for channel, update in zip(self._channels, updates, strict=True)
        ]
        self._put(0, memoryview(front))

    def write(self, offset: int, piece: memoryview) -> None:
        """Write a piece at `offset` after the header; its memory must not change afterwards."""
        self._put(self._start + offset, piece)

    def finish(self) -> WrittenShard:
        """Close the file and return its digests, when every byte of it was written."""
        for channel in self._channels:
            channel.close()
        for hasher in self._hashers:
            hasher.result()
        if self._hashed != self._size:
            raise RuntimeError(f"{self._hashed} of {self._size} bytes were written")
        return WrittenShard(self._size, self._sha256.digest(), self._layer.digest(), self._sha256.midstates)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for channel in self._channels:
            channel.stop()
        self._pool.shutdown(wait=True)
        os.close(self._handle)

    def _put(self, at: int, piece: memoryview) -> None:
        written = 0
        while written < len(piece):
            written += os.pwrite(self._handle, piece[written:], at + written)
        if at != self._hashed:
            self._early[at] = at + len(piece)
            return
        self._hashed += len(piece)
        self._send(piece)
        while (stop := self._early.pop(self._hashed, None)) is not None:
            start, self._hashed = self._hashed, stop
            self._send(range(start, stop))

    def _send(self, piece: memoryview | range) -> None:
        try:
            for channel in self._channels:
                channel.put(piece)
        except StoppedError:
            for hasher in self._hashers:
                if hasher.done() and (error := hasher.exception()) is not None:
                    raise error from None
            raise

    def _hash(self, channel: Channel[memoryview | range], update: Callable[[memoryview], None]) -> None:
        try:
            for piece in channel:
                if isinstance(piece, memoryview):
                    update(piece)
                    continue
                for start in range(piece.start, piece.stop, _BLOCK):
                    update(memoryview(os.pread(self._handle, min(_BLOCK, piece.stop - start), start)))
        except BaseException:
            channel.stop()
            raise
