"""The header of a safetensors file, read strictly.

Format (github.com/huggingface/safetensors, README, "Format"): 8 bytes little-endian length N, N bytes of JSON, then
the tensors' bytes without holes; offsets count from the first byte behind the header. How large the JSON may be is decided
in `containers.foreign_json`: less than safetensors' own 100 MB, which parse to gigabytes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from containers.errors import BadInput
from containers.foreign_json import INT64_MAX, TENSORS, parse_object
from containers.foreign_values import shown
from containers.git_lfs import POINTER_MAX, is_lfs_pointer, lfs_pointer

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
_RANK: Final = 64  # dimensions; what torch and NumPy take
_NAME: Final = 1024  # characters; names of modules have about 60
_REMEDY: Final = "the file is damaged or incomplete: download it again"


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
    tensor named twice, an unknown type, offsets that overlap, leave holes or do not fit the shape; and for a header
    beyond the limits, of which nothing is read.
    """
    front = read_exactly(stream, LENGTH, path)
    length = int.from_bytes(front, "little")
    if size <= POINTER_MAX and length > size and is_lfs_pointer(front + stream.read(POINTER_MAX)):
        raise lfs_pointer(path)
    if not 2 <= length <= size - LENGTH:
        raise _broken(path, f"says that its header has {length} bytes, in a file of {size}")
    if length > TENSORS.size:
        raise BadInput(
            f"{path} has a header of {length} bytes, and at most {TENSORS.size} are read",
            remedy="split the checkpoint into shards, and take long texts out of its metadata",
        )
    raw = read_exactly(stream, length, path)
    content = parse_object(raw, f"the header of {path}", TENSORS, remedy=_REMEDY)
    _check_metadata(path, content.pop("__metadata__", {}))
    tensors = sorted(
        (_tensor(path, name, entry) for name, entry in content.items()),
        key=lambda tensor: (tensor.start, tensor.stop),
    )
    end = 0
    for tensor in tensors:
        if tensor.start != end:
            wrong = "an overlap" if tensor.start < end else "a hole"
            raise _broken(path, f"has {wrong} in front of {shown(tensor.name)}")
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


def _check_metadata(path: str, metadata: Any) -> None:
    """Raises BadInput unless it maps texts to texts, as the format says."""
    if not isinstance(metadata, dict) or not all(isinstance(text, str) for text in metadata.values()):
        raise _broken(path, "has __metadata__ that is not safetensors")


def _tensor(path: str, name: str, entry: Any) -> Tensor:
    if len(name) > _NAME or not name.isprintable():
        raise _broken(path, f"has a tensor whose name is too long or not printable: {shown(name)}")
    told: dict[str, Any] = entry if isinstance(entry, dict) else {}
    dtype, shape, offsets = told.get("dtype"), told.get("shape"), told.get("data_offsets")
    if isinstance(shape, list) and len(shape) > _RANK:
        raise _broken(path, f"gives the tensor {shown(name)} {len(shape)} dimensions")
    if (
        not isinstance(dtype, str)
        or not isinstance(shape, list)
        or not isinstance(offsets, list)
        or len(offsets) != 2
        or not all(type(number) is int and 0 <= number <= INT64_MAX for number in (*shape, *offsets))
    ):
        raise _broken(path, f"describes the tensor {shown(name)} in a way that is not safetensors")
    if dtype not in ITEM_SIZE:
        raise BadInput(
            f"{path}: the tensor {shown(name)} has the type {shown(dtype)}, which is not supported",
            remedy=f"types that are: {', '.join(sorted(ITEM_SIZE))}",
        )
    start, stop = offsets
    if stop - start != math.prod(shape) * ITEM_SIZE[dtype]:
        raise _broken(path, f"gives the tensor {shown(name)} {stop - start} bytes, and its shape {shape} needs others")
    return Tensor(name, dtype, tuple(shape), start, stop)


def cut_off(path: str) -> BadInput:
    return _broken(path, "is cut off")


def _broken(path: str, wrong: str) -> BadInput:
    return BadInput(f"{path} {wrong}", remedy=_REMEDY)
