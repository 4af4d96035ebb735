"""The tar of a base layer: a function of names, modes and contents, and of nothing on the machine that writes it."""

from __future__ import annotations

import io
import tarfile
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

FOLDER: Final = tarfile.DIRTYPE
FILE: Final = tarfile.REGTYPE
LINK: Final = tarfile.SYMTYPE

Entry = tuple[str, bytes, int, bytes | str]  # path, type, mode, a file's content or a link's target


def base_tar(entries: Iterable[Entry]) -> bytes:
    """GNU tar of the entries, in this order, as of the epoch and owned by root; parents must come before what they hold."""
    out = io.BytesIO()
    for name, kind, mode, content in entries:
        info = tarfile.TarInfo(name)
        info.type, info.mode = kind, mode
        data = content if isinstance(content, bytes) else b""
        info.linkname = content if isinstance(content, str) else ""
        info.size = len(data)
        out.write(info.tobuf(tarfile.GNU_FORMAT, "utf-8", "strict"))
        out.write(data + bytes(-len(data) % tarfile.BLOCKSIZE))
    out.write(bytes(2 * tarfile.BLOCKSIZE))
    return out.getvalue()
