"""JSON from outside (a checkpoint, a registry, a hub), read within limits that are decided here and nowhere else.

What is read takes time in proportion to its length, and memory in proportion to its length and its number of values:
both are bounded before anything is parsed. Refused are names that occur twice in one object (readers differ in which one
counts, and the safetensors format forbids them), text that is not UTF-8, half of a surrogate pair (it cannot be written
again), whole numbers of more digits than anybody needs (converting them is quadratic), and NaN and infinities, which JSON
does not have. Configurations may hold the latter, because transformers writes them (`"time_step_limit": [0.0, Infinity]`).
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from containers.errors import BadInput
from containers.foreign_values import shown
from containers.git_lfs import is_lfs_pointer, lfs_pointer

if TYPE_CHECKING:
    from collections.abc import Callable

_DIGITS: Final = 100  # of a whole number; transformers itself writes 10**30 as `model_max_length`
_SURROGATE: Final = re.compile(rb"\\u[dD][89a-fA-F]")


INT64_MAX: Final = 2**63 - 1  # no size, offset or side of a tensor is larger


@dataclass(frozen=True)
class JsonLimits:
    """`size` in bytes, `values` in objects, arrays and what they hold, `depth` in objects and arrays inside each other.

    `finite`: NaN and infinities are refused.
    """

    size: int
    values: int
    depth: int = 64
    finite: bool = True


# A safetensors header, and the index that lists every tensor of a checkpoint. Of the published mixtures of experts the
# largest have about 140,000 tensors (61 layers of 384 experts), which is 24 MB were it all in one file; the dense 405B has
# 1,138. A header needs 8 values for each tensor that is a matrix: 262,144 tensors.
TENSORS: Final = JsonLimits(size=32 << 20, values=2 << 20)
# config.json and its like: 100 kB where the modules that are not quantized are listed one by one.
CONFIGURATION: Final = JsonLimits(size=8 << 20, values=1 << 18, finite=False)
# Manifests, indexes and configurations of images: registries must take 4 MiB (distribution specification 1.1).
DOCUMENT: Final = JsonLimits(size=8 << 20, values=1 << 18)
# A page of a hub's or a registry's listing.
LISTING: Final = JsonLimits(size=32 << 20, values=1 << 20)


def parse_json(content: bytes | str, what: str, limits: JsonLimits = DOCUMENT, *, remedy: str = "") -> Any:
    """The value of a JSON text; raises BadInput, which says `what` is wrong, for one that is not JSON within `limits`."""
    raw = content.encode("utf-8", "surrogatepass") if isinstance(content, str) else content

    def refuse(why: str) -> BadInput:
        return BadInput(f"{what} {why}", remedy=remedy)

    if len(raw) > limits.size:
        raise refuse(f"has {len(raw)} bytes, and at most {limits.size} are read")
    if raw.count(b",") + raw.count(b"[") + raw.count(b"{") > limits.values:
        raise refuse(f"holds more than {limits.values} values")
    try:
        value = json.loads(
            raw.decode(),
            object_pairs_hook=_once,
            parse_int=_whole,
            parse_float=_finite if limits.finite else float,
            parse_constant=_no_constant if limits.finite else float,
        )
        if _SURROGATE.search(raw):
            json.dumps(value, ensure_ascii=False).encode()
    except _FaultError as error:
        raise refuse(str(error)) from error
    except RecursionError as error:
        raise refuse(f"is nested more than {limits.depth} levels deep") from error
    except UnicodeEncodeError as error:
        raise refuse("is not JSON: it holds half of a surrogate pair") from error
    except ValueError as error:
        raise lfs_pointer(what) if is_lfs_pointer(raw) else refuse(f"is not JSON: {error}") from error
    if not _within(value, limits.depth):
        raise refuse(f"is nested more than {limits.depth} levels deep")
    return value


def parse_object(content: bytes | str, what: str, limits: JsonLimits = DOCUMENT, *, remedy: str = "") -> dict[str, Any]:
    """The same for a JSON object; raises BadInput for any other value, too."""
    value = parse_json(content, what, limits, remedy=remedy)
    if not isinstance(value, dict):
        raise BadInput(f"{what} is not a JSON object", remedy=remedy)
    return value


def read_at_most(limits: JsonLimits, read: Callable[[int], bytes]) -> bytes:
    """What `read(size)` gives, up to one byte more than `parse_json` takes: it then refuses it."""
    parts: list[bytes] = []
    left = limits.size + 1
    while left > 0 and (part := read(min(left, 1 << 20))):
        parts.append(part)
        left -= len(part)
    return b"".join(parts)


class _FaultError(ValueError):
    """What is wrong, as the end of a sentence."""


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        for name, _ in pairs:
            if name in seen:
                raise _FaultError(f"names {shown(name)} twice in one object")
            seen.add(name)
    return found


def _whole(digits: str) -> int:
    if len(digits) > _DIGITS:
        raise _FaultError(f"holds a whole number of {len(digits)} digits")
    return int(digits)


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise _FaultError(f"holds the number {shown(text)}, which is too large")
    return number


def _no_constant(name: str) -> float:
    raise _FaultError(f"holds {name}, which JSON does not have")


def _within(value: Any, depth: int) -> bool:
    """Whether nothing is nested deeper; level by level, without recursion."""
    level = [value]
    for _ in range(depth):
        level = [
            inner
            for one in level
            if isinstance(one, dict | list)
            for inner in (one.values() if isinstance(one, dict) else one)
            if isinstance(inner, dict | list)
        ]
        if not level:
            return True
    return False
