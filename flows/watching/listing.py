"""Tells the files of a repository that affect the checkpoint from those that do not."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Final

from containers.checkpoint_files import is_legal
from containers.contract import Frozen
from containers.errors import BadInput
from containers.foreign_json import LISTING, parse_json

if TYPE_CHECKING:
    from collections.abc import Mapping

# Text, pictures and weights in other formats. An unknown suffix counts as decisive: one rebuild too many does no harm.
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
    """Paths that were added, removed or changed between two commits: those that affect the checkpoint, and the others."""

    decisive: tuple[str, ...] = ()
    other: tuple[str, ...] = ()


def read_page(content: bytes, endpoint: str) -> dict[str, str]:
    """The files of a page of a hub's listing with their hashes: sha256 for an LFS file, git's hash for any other.

    Raises BadInput for what no hub answers.
    """
    entries = parse_json(content, f"the listing of {endpoint}", LISTING)
    try:
        files = {
            one["path"]: one["lfs"]["oid"] if one.get("lfs") else one["oid"] for one in entries if one["type"] == "file"
        }
    except (KeyError, TypeError, AttributeError) as error:
        raise not_a_hub(endpoint, error) from error
    if not all(isinstance(text, str) for text in (*files, *files.values())):
        raise not_a_hub(endpoint, TypeError("a path or a hash is not text"))
    return files


def not_a_hub(endpoint: str, error: Exception) -> BadInput:
    return BadInput(
        f"{endpoint} does not answer as a Hugging Face hub does: {type(error).__name__}: {error}",
        remedy="check CARWRIGHT_HUB_ENDPOINT (HF_ENDPOINT)",
    )


def is_decisive(path: str) -> bool:
    """Whether a file affects the checkpoint. Licences and notices do: they travel with the weights."""
    parts = PurePosixPath(path)
    if any(part.startswith(".") for part in parts.parts):
        return False
    return is_legal(path) or parts.suffix.lower() not in _OTHERS


def difference(before: Mapping[str, str], after: Mapping[str, str]) -> ListingDifference:
    """The differences between two listings (`HubClient.listing`)."""
    paths = sorted(path for path in before.keys() | after.keys() if before.get(path) != after.get(path))
    return ListingDifference(
        decisive=tuple(path for path in paths if is_decisive(path)),
        other=tuple(path for path in paths if not is_decisive(path)),
    )
