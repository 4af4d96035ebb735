"""Quantizes one layer group: read, compute, write and hash overlap, and only a few pieces of it are in memory.

stream -> [reader] -> pieces -> [compute] -> [writer] -> file
                                                `-> [sha256] [layer's sha256]
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import torch

from containers.quantize.channel import Channel, StoppedError
from containers.quantize.header import ITEM_SIZE, encode, read_exactly
from containers.quantize.sink import Sink

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from containers.quantize.arithmetic import Arithmetic
    from containers.quantize.groups import Group, Part
    from containers.quantize.header import Stream
    from containers.quantize.sink import Written

PIECE: Final = 8 << 20  # bytes of the source in one piece on a CPU
CUDA_PIECE: Final = 64 << 20
_WAITING: Final = 2  # pieces between two stages


@dataclass(frozen=True, slots=True)
class Piece:
    """Consecutive bytes of one part. `row` is the first of its rows when the part is to be quantized."""

    part: Part
    start: int
    size: int
    row: int = 0


@dataclass(frozen=True)
class _Output:
    offset: int
    content: memoryview


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
    arithmetic: Arithmetic,
    file: Path,
    on_bytes: Callable[[int], None] = lambda count: None,
) -> Written:
    """Quantize the shard that `source` gives from its first byte on, and write it to `file`.

    `on_bytes` gets the number of source bytes of each piece that is done. Raises what `source` raises, and BadInput for
    a shard that ends early or a tensor that cannot be quantized; `file` is then worthless.
    """
    with Sink(file, group.path, group.output, encode(group.output.tensors)) as sink:
        _run(group, source, arithmetic, sink, on_bytes)
        return sink.finish()


def _run(group: Group, source: Stream, arithmetic: Arithmetic, sink: Sink, on_bytes: Callable[[int], None]) -> None:
    places = {tensor.name: tensor.start for tensor in group.output.tensors}
    incoming = Channel[tuple[Piece, torch.Tensor]](_WAITING)
    outgoing = Channel[_Output](2 * _WAITING)
    limit = PIECE

    def read() -> None:
        read_exactly(source, group.data_start, group.path)
        for piece in pieces(group, limit):
            incoming.put((piece, _read_piece(source, piece, group.path)))
        incoming.close()

    def compute() -> None:
        for piece, raw in incoming:
            for output in _outputs(piece, raw, arithmetic, places):
                outgoing.put(output)
            on_bytes(piece.size)
        outgoing.close()

    def write() -> None:
        for output in outgoing:
            sink.write(output.offset, output.content)

    run_stages([read, compute, write], [incoming, outgoing])


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


def _read_piece(source: Stream, piece: Piece, path: str) -> torch.Tensor:
    raw = torch.empty(piece.size, dtype=torch.uint8)
    memoryview(raw.numpy())[:] = read_exactly(source, piece.size, path)
    return raw


def _outputs(piece: Piece, raw: torch.Tensor, arithmetic: Arithmetic, places: dict[str, int]) -> Iterator[_Output]:
    part = piece.part
    if part.kept is not None:
        yield _Output(places[part.name] + piece.start - part.start, memoryview(raw.numpy()))
        return
    columns = part.shape[1]
    done = arithmetic.quantize(part.name, raw, part.dtype, columns)
    yield _Output(places[part.name] + piece.row * columns, memoryview(done.weight.numpy()))
    scheme = arithmetic.scheme
    scale_row = scheme.scale_shape(1, columns)[1] * ITEM_SIZE[part.dtype]
    yield _Output(places[part.scale_name] + piece.row // scheme.block[0] * scale_row, memoryview(done.scale.numpy()))
