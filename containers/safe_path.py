"""One rule for names of files and folders that somebody else chose: they stay inside the folder that they are meant for."""

from __future__ import annotations

from typing import Final

_LONGEST: Final = 1024  # bytes of a path
_LONGEST_NAME: Final = 255  # bytes of one part of it, the limit of Linux's file systems


def path_fault(path: str) -> str:
    """Why this is no path inside a folder, as the end of a sentence; empty when it is one.

    Such a path is relative, has no part `.`, `..` or without a letter, no control character, and is UTF-8 of a length that
    file systems take.
    """
    try:
        parts = [part.encode() for part in path.split("/")]
    except UnicodeEncodeError:
        return "is not UTF-8"
    if path.startswith(("/", "~")):
        return "is not relative to the folder"
    if ".." in path.split("/"):
        return "leaves its folder"
    if any(part in {b"", b"."} for part in parts):
        return "is not a plain path"
    if not path.isprintable() or "\\" in path:
        return "holds a character that no file name should have"
    if sum(map(len, parts)) > _LONGEST or any(len(part) > _LONGEST_NAME for part in parts):
        return f"is too long (at most {_LONGEST_NAME} bytes a name, {_LONGEST} in all)"
    return ""


def name_fault(name: str) -> str:
    """Why this is no name of one file or folder, as the end of a sentence; empty when it is one."""
    return path_fault(name) or ("is a path, not a name" if "/" in name else "")
