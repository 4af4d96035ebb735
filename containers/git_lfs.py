"""Pointers that git-LFS keeps in place of large files: what a clone without `git lfs pull` has where a shard should be.

Format: a text file of less than 1024 bytes whose first line is the version (git-lfs, docs/spec.md, "The Pointer").
"""

from __future__ import annotations

from typing import Final

from containers.errors import BadInput

POINTER_MAX: Final = 1024  # bytes
_FIRST_LINES: Final = (b"version https://git-lfs.github.com/spec/", b"version https://hawser.github.com/spec/")


def is_lfs_pointer(front: bytes) -> bool:
    """Whether a file that begins so only says what git-LFS would put in its place."""
    return front.startswith(_FIRST_LINES)


def lfs_pointer(path: str) -> BadInput:
    """The error of a file that is a pointer."""
    return BadInput(
        f"{path} is a git-LFS pointer and not the file itself",
        remedy="fetch the files in their repository: git lfs install && git lfs pull",
    )
