"""Quantizes one layer group: read, compute, write and hash overlap, and only a few pieces of it are in memory.

stream -> [reader] -> pieces -> [compute] -> [writer] -> file
                   `-> [check]                  `-> [sha256] [layer's sha256]
"""

from __future__ import annotations

import io
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from containers.errors import BadInput, Temporary
from containers.quantize.channel import Channel, Countdown, StoppedError
from containers.quantize.layout import encode
from containers.quantize.resources import WAITING
from containers.quantize.shard_writer import ShardWriter
from containers.safetensors import ITEM_SIZE, cut_off, read_exactly

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from containers.checkpoint_files import CheckpointFile
    from containers.quantize.checkpoint import Files
    from containers.quantize.devices import Device, Lane
    from containers.quantize.groups import Group, Part
    from containers.quantize.shard_writer import WrittenShard
    from containers.streams import Stream


# Tensors over bytes that were read are only read from.
warnings.filterwarnings("ignore", message="The given buffer is not writable", category=UserWarning)


@dataclass(frozen=True, slots=True)
class Piece:
    """Consecutive bytes of one part. `row` is the first of its rows when the part is to be quantized."""

    part: Part
    start: int
    size: int
    row: int = 0


@dataclass(frozen=True)
class _Done:
    """Bytes and where they belong in the output, on their way from the device perhaps."""

    name: str
    size: int
    pieces: tuple[tuple[int, torch.Tensor], ...]
    sound: torch.Tensor | None = None
    ready: Callable[[], None] = lambda: None


def pieces(group: Group, limit: int) -> Iterator[Piece]:
    """Cut a group's parts, in order, into pieces of about `limit` bytes; quantized ones into whole rows of blocks."""
    height = group.scheme.block[0]
    for part in group.parts:
        if part.kept is not None:
            for start in range(part.start, part.stop, limit):
                yield Piece(part, start, min(limit, part.stop - start))
            continue
        rows, columns = part.shape
        row_size = columns * ITEM_SIZE[part.dtype]
        step = max(limit // (row_size * height), 1) * height
        for row in range(0, rows, step):
            yield Piece(part, part.start + row * row_size, min(step, rows - row) * row_size, row)


def quantize_group(
    group: Group,
    files: Files,
    device: Device,
    file: Path,
    on_bytes: Callable[[int], None] = lambda count: None,
) -> WrittenShard:
    """Quantize the group's shard, read from `files`, and write it to `file`.

    What is read is checked against the shard's digest where that is known. `on_bytes` gets the number of source bytes of
    each piece that is done; what it raises ends the work. Raises what `files` raises, torch.OutOfMemoryError, and
    BadInput for a shard that ends early or a tensor that cannot be quantized; `file` is then worthless.
    """
    run = _GroupRun(group, files, device)
    with ShardWriter(file, group.path, group.output, encode(group.output.tensors)) as writer:
        stages = [run.read, run.check, *[run.compute] * device.threads, lambda: run.write(writer, on_bytes)]
        run_stages(stages, [run.incoming, run.checked, run.outgoing])
        return writer.finish()


class _GroupRun:
    """The stages of one group and the channels between them."""

    def __init__(self, group: Group, files: Files, device: Device) -> None:
        self.group = group
        self.files = files
        self.device = device
        self.incoming = Channel[tuple[Piece, torch.Tensor]](WAITING)
        self.checked = Channel[torch.Tensor](WAITING)
        self.outgoing = Channel[_Done](WAITING)
        self._computing = Countdown(device.threads)
        self._places = {tensor.name: tensor.start for tensor in group.output.tensors}

    def read(self) -> None:
        group = self.group
        with self.files.open(group.source, group.data_start) as source:
            for piece in pieces(group, self.device.piece):
                raw = _read_piece(source, piece, self.device, group.path)
                self.incoming.put((piece, raw))
                if group.source.sha256 is not None:
                    self.checked.put(raw)
        self.incoming.close()
        self.checked.close()

    def check(self) -> None:
        source = self.group.source
        if source.sha256 is None:
            return
        with self.files.open(source) as stream:
            found = self.files.verification(source)
            found.update(read_exactly(stream, self.group.data_start, source.path))
        for raw in self.checked:
            found.update(memoryview(raw.numpy()))
        if not found.right():
            raise damaged(source, self.files)

    def compute(self) -> None:
        with self.device.thread() as lane:
            for piece, raw in self.incoming:
                self.outgoing.put(_compute(piece, raw, lane, self._places))
        if self._computing.last():
            self.outgoing.close()

    def write(self, writer: ShardWriter, on_bytes: Callable[[int], None]) -> None:
        for done in self.outgoing:
            done.ready()
            if done.sound is not None and not bool(done.sound):
                raise unsound(done.name, self.group.path)
            for offset, content in done.pieces:
                writer.write(offset, memoryview(content.numpy()))
            on_bytes(done.size)


def run_stages(stages: Sequence[Callable[[], None]], channels: Sequence[Channel[Any]]) -> None:
    """Run each stage in a thread of its own; the first error stops all the others and is raised."""

    def stop() -> None:
        for channel in channels:
            channel.stop()

    def guarded(stage: Callable[[], None]) -> None:
        try:
            stage()
        except BaseException:
            stop()
            raise

    with ThreadPoolExecutor(len(stages), thread_name_prefix="stage") as pool:
        futures = [pool.submit(guarded, stage) for stage in stages]
        try:
            errors = [error for future in futures if (error := future.exception()) is not None]
        except BaseException:  # Ctrl-C while waiting
            stop()
            raise
    # A stage that met StoppedError was told to stop; the reason is another stage's error.
    for error in sorted(errors, key=lambda error: isinstance(error, StoppedError)):
        raise error


def unsound(name: str, path: str) -> BadInput:
    return BadInput(
        f"the tensor {name} in {path} holds values that are infinite or not a number, so its scale would be too",
        remedy="the checkpoint is damaged or its training diverged: fetch it again, or ignore this module",
    )


def damaged(file: CheckpointFile, files: Files) -> Exception:
    """The error for a file with other bytes than its digest promises: the store's own, which it raises when asked."""
    with files.open(file) as stream:
        while stream.read(1 << 20):
            pass
    return Temporary(
        f"{file.path} was first read with bytes that do not match {file.sha256}, then correctly",
        remedy="run it again; if this comes back, check this machine's memory and disks",
    )


def _read_piece(source: Stream, piece: Piece, device: Device, path: str) -> torch.Tensor:
    """The bytes of a piece, in memory that the device can take them from. No byte is copied while the GIL is held."""
    pinned = piece.part.kept is None and device.pinned
    if isinstance(source, io.RawIOBase):
        raw = device.buffer(piece.size, pinned=pinned)
        view = memoryview(raw.numpy())
        while view:
            count = source.readinto(view)
            if not count:
                raise cut_off(path)
            view = view[count:]
        return raw
    content = torch.frombuffer(read_exactly(source, piece.size, path), dtype=torch.uint8)
    return device.buffer(piece.size, pinned=True).copy_(content) if pinned else content


def _compute(piece: Piece, raw: torch.Tensor, lane: Lane, places: dict[str, int]) -> _Done:
    part = piece.part
    if part.kept is not None:
        return _Done(part.name, piece.size, ((places[part.name] + piece.start - part.start, raw),))
    columns = part.shape[1]
    scheme = lane.arithmetic.scheme
    weight_at = places[part.name] + piece.row * columns
    scale_row = scheme.scale_shape(1, columns)[1] * ITEM_SIZE[part.dtype]
    scale_at = places[part.scale_name] + piece.row // scheme.block[0] * scale_row
    done, ready = lane.quantize(raw, part.dtype, columns)
    return _Done(part.name, piece.size, ((weight_at, done.weight), (scale_at, done.scale)), done.sound, ready)
