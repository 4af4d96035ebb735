"""Which files of a repository can decide what a checkpoint is, and which cannot."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Final

from containers.checkpoint_files import is_legal
from containers.contract import Frozen

if TYPE_CHECKING:
    from collections.abc import Mapping

# Words, pictures and weights in other formats. A suffix that is not here counts: rather a rebuild too many.
_OTHERS: Final = frozenset(
    {
        ".md",
        ".png",
        ".jpg",
        ".jpeg",
        ".gif",
        ".svg",
        ".webp",
        ".gguf",
        ".bin",
        ".pt",
        ".pth",
        ".onnx",
        ".h5",
        ".msgpack",
    }
)


class ListingDifference(Frozen):
    """Paths that were added, removed or changed between two commits: those that decide, and those that do not."""

    decisive: tuple[str, ...] = ()
    other: tuple[str, ...] = ()


def decides(path: str) -> bool:
    """Whether a file can change the checkpoint that is made of a repository; the licence and its kin travel with it."""
    parts = PurePosixPath(path)
    if any(part.startswith(".") for part in parts.parts):
        return False
    return is_legal(path) or parts.suffix.lower() not in _OTHERS


def difference(before: Mapping[str, str], after: Mapping[str, str]) -> ListingDifference:
    """What differs between two listings (`Hub.listing`)."""
    paths = sorted(path for path in before.keys() | after.keys() if before.get(path) != after.get(path))
    return ListingDifference(
        decisive=tuple(path for path in paths if decides(path)),
        other=tuple(path for path in paths if not decides(path)),
    )
