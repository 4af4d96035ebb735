"""Quantizes one layer group: read, compute, write and hash overlap, and only a few pieces of it are in memory.

stream -> [reader] -> pieces -> [compute] -> [writer] -> file
                                                `-> [sha256] [layer's sha256]
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from containers.errors import BadInput
from containers.quantize.channel import Channel, Countdown, StoppedError
from containers.quantize.layout import encode
from containers.quantize.resources import WAITING
from containers.quantize.sink import Sink
from containers.safetensors import ITEM_SIZE, read_exactly, read_into

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from containers.quantize.devices import Device, Lane
    from containers.quantize.groups import Group, Part
    from containers.quantize.sink import Written
    from containers.safetensors import Stream


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
    source: Stream,
    device: Device,
    file: Path,
    on_bytes: Callable[[int], None] = lambda count: None,
) -> Written:
    """Quantize the shard that `source` gives from its first byte on, and write it to `file`.

    `on_bytes` gets the number of source bytes of each piece that is done; what it raises ends the work. Raises what
    `source` raises, torch.OutOfMemoryError, and BadInput for a shard that ends early or a tensor that cannot be
    quantized; `file` is then worthless.
    """
    front = encode(group.output.tensors)
    places = {tensor.name: tensor.start for tensor in group.output.tensors}
    incoming = Channel[tuple[Piece, torch.Tensor]](WAITING)
    outgoing = Channel[_Done](WAITING)
    computing = Countdown(device.threads)

    def read() -> None:
        read_exactly(source, group.data_start, group.path)
        for piece in pieces(group, device.piece):
            incoming.put((piece, _read_piece(source, piece, device, group.path)))
        incoming.close()

    def compute() -> None:
        with device.thread() as lane:
            for piece, raw in incoming:
                outgoing.put(_compute(piece, raw, lane, places))
        if computing.last():
            outgoing.close()

    with Sink(file, group.path, group.output, front) as sink:

        def write() -> None:
            for done in outgoing:
                done.ready()
                if done.sound is not None and not bool(done.sound):
                    raise unsound(done.name, group.path)
                for offset, content in done.pieces:
                    sink.write(offset, memoryview(content.numpy()))
                on_bytes(done.size)

        run_stages([read, *[compute] * device.threads, write], [incoming, outgoing])
        return sink.finish()


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


def _read_piece(source: Stream, piece: Piece, device: Device, path: str) -> torch.Tensor:
    raw = device.buffer(piece.size, pinned=piece.part.kept is None)
    into = memoryview(raw.numpy())
    read_into(source, into, path)
    return raw


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
