"""The header of a safetensors file, read strictly.

Format (github.com/huggingface/safetensors, README, "Format"): 8 bytes little-endian length N, N bytes of JSON, then
the tensors' bytes without holes; offsets count from the first byte behind the header.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from containers.errors import BadInput

if TYPE_CHECKING:
    from containers.streams import Stream

# Bytes of one element; types of less than a byte (F4, F6) are not among them.
ITEM_SIZE: Final = {
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E5M2", "F8_E4M3", "F8_E8M0"), 1),
    **dict.fromkeys(("I16", "U16", "F16", "BF16"), 2),
    **dict.fromkeys(("I32", "U32", "F32"), 4),
    **dict.fromkeys(("I64", "U64", "F64", "C64"), 8),
}
LENGTH: Final = 8  # bytes of the length in front
_LARGEST_HEADER: Final = 100_000_000  # bytes; safetensors' own limit


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor of a file; `start` and `stop` count bytes from the end of the header."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int

    @property
    def size(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True)
class Header:
    """The tensors of one file in the order of their bytes. `data_start` is where the first one begins."""

    tensors: tuple[Tensor, ...]
    data_start: int

    @property
    def size(self) -> int:
        """Bytes of the whole file."""
        return self.data_start + (self.tensors[-1].stop if self.tensors else 0)


def read_header(stream: Stream, path: str, size: int) -> Header:
    """Read the header from the front of a file of `size` bytes.

    Raises BadInput, naming `path`, for whatever is not a whole and sound safetensors file: truncated, not JSON, a
    tensor named twice, an unknown type, offsets that overlap, leave holes or do not fit the shape.
    """
    length = int.from_bytes(read_exactly(stream, LENGTH, path), "little")
    if not 2 <= length <= min(_LARGEST_HEADER, size - LENGTH):
        raise _broken(path, f"says that its header has {length} bytes, in a file of {size}")
    raw = read_exactly(stream, length, path)
    try:
        content = json.loads(raw.decode(), object_pairs_hook=_once)
    except _NamedTwiceError as error:
        raise _broken(path, f"names the tensor {error} twice") from error
    except (ValueError, RecursionError) as error:
        raise _broken(path, f"has a header that is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise _broken(path, "has a header that is not a JSON object")
    tensors = sorted(
        (_tensor(path, name, entry) for name, entry in content.items() if name != "__metadata__"),
        key=lambda tensor: (tensor.start, tensor.stop),
    )
    end = 0
    for tensor in tensors:
        if tensor.start != end:
            raise _broken(path, f"has {'an overlap' if tensor.start < end else 'a hole'} in front of {tensor.name}")
        end = tensor.stop
    header = Header(tuple(tensors), LENGTH + length)
    if header.size != size:
        raise _broken(path, f"should have {header.size} bytes by its header and has {size}")
    return header


def read_exactly(stream: Stream, count: int, path: str) -> bytes:
    """`count` bytes; raises BadInput when the file ends before."""
    parts: list[bytes] = []
    while count:
        part = stream.read(count)
        if not part:
            raise cut_off(path)
        parts.append(part)
        count -= len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


class _NamedTwiceError(ValueError):
    """A key appears twice in one JSON object."""


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) != len(pairs):
        names = [name for name, _ in pairs]
        raise _NamedTwiceError(next(name for name in names if names.count(name) > 1))
    return content


def _tensor(path: str, name: str, entry: Any) -> Tensor:
    try:
        dtype, shape, offsets = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
        start, stop = offsets
        sound = all(type(number) is int and number >= 0 for number in (*shape, start, stop))
    except (KeyError, TypeError, ValueError) as error:
        raise _broken(path, f"describes the tensor {name} in a way that is not safetensors") from error
    if not sound or not isinstance(dtype, str):
        raise _broken(path, f"describes the tensor {name} in a way that is not safetensors")
    if dtype not in ITEM_SIZE:
        raise BadInput(
            f"{path}: the tensor {name} has the type {dtype}, which is not supported",
            remedy=f"types that are: {', '.join(sorted(ITEM_SIZE))}",
        )
    if stop - start != math.prod(shape) * ITEM_SIZE[dtype]:
        raise _broken(path, f"gives the tensor {name} {stop - start} bytes, and its shape {list(shape)} needs others")
    return Tensor(name, dtype, shape, start, stop)


def cut_off(path: str) -> BadInput:
    return _broken(path, "is cut off")


def _broken(path: str, wrong: str) -> BadInput:
    return BadInput(f"{path} {wrong}", remedy="the file is damaged or incomplete: download it again")
