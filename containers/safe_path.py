"""One rule for names of files and folders that somebody else chose: they stay inside the folder that they are meant for."""

from __future__ import annotations

from typing import Final

_LONGEST: Final = 1024  # bytes of a path
_LONGEST_NAME: Final = 255  # bytes of one part of it, the limit of Linux's file systems


def path_fault(path: str) -> str:
    """Why this is no path inside a folder, as the end of a sentence; empty when it is one.

    Such a path is relative, has no part `.`, `..` or without a letter, only printable characters, and a length that file
    systems take.
    """
    parts = path.split("/")
    faults = {
        "is not relative to the folder": path.startswith(("/", "~")),
        "leaves its folder": ".." in parts,
        "is not a plain path": "" in parts or "." in parts,
        "holds a character that no file name should have": not path.isprintable() or "\\" in path,
        f"is too long (at most {_LONGEST_NAME} bytes a name, {_LONGEST} in all)": (
            len(_bytes(path)) > _LONGEST or any(len(_bytes(part)) > _LONGEST_NAME for part in parts)
        ),
    }
    return next((fault for fault, found in faults.items() if found), "")


def _bytes(text: str) -> bytes:
    return text.encode(errors="surrogatepass")


def name_fault(name: str) -> str:
    """Why this is no name of one file or folder, as the end of a sentence; empty when it is one."""
    return path_fault(name) or ("is a path, not a name" if "/" in name else "")
