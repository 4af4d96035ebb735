"""The layout and the header of the safetensors files that this step writes: one set of tensors, one text."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any, Final

from containers.safetensors import ITEM_SIZE, LENGTH, Header, Tensor

if TYPE_CHECKING:
    from collections.abc import Iterable

_ALIGNMENT: Final = 8


def arrange(tensors: Iterable[tuple[str, str, tuple[int, ...]]]) -> Header:
    """Lay out tensors (name, dtype, shape) in the one order that a set of them has.

    First those whose size is a multiple of 8 bytes, by name; then the others, wide types before narrow ones and by name
    within a type. So every tensor starts at a multiple of its item size (torch refuses to view others), and in the
    usual checkpoint, where every size is a multiple of 8, a weight is followed by its scale: file and source have the
    same order and can be written in one pass. Names compare by their UTF-8 bytes.
    """

    def rank(item: tuple[str, str, tuple[int, ...]]) -> tuple[int, bytes]:
        name, dtype, shape = item
        even = math.prod(shape) * ITEM_SIZE[dtype] % _ALIGNMENT == 0
        return (-2 * _ALIGNMENT if even else -ITEM_SIZE[dtype], name.encode())

    placed: list[Tensor] = []
    end = 0
    for name, dtype, shape in sorted(tensors, key=rank):
        start, end = end, end + math.prod(shape) * ITEM_SIZE[dtype]
        placed.append(Tensor(name, dtype, shape, start, end))
    return Header(tuple(placed), len(encode(tuple(placed))))


def encode(tensors: tuple[Tensor, ...]) -> bytes:
    """The bytes in front of the tensors: compact JSON in their order, padded with spaces to a multiple of 8."""
    content: dict[str, Any] = {"__metadata__": {"format": "pt"}}  # transformers refuses files without a format
    for tensor in tensors:
        content[tensor.name] = {
            "dtype": tensor.dtype,
            "shape": list(tensor.shape),
            "data_offsets": [tensor.start, tensor.stop],
        }
    text = json.dumps(content, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    return len(text).to_bytes(LENGTH, "little") + text
