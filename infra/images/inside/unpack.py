"""Unpack what comes without an installer: Debian packages, as they would lie in a system with a merged /usr, and uv itself.

    python unpack.py CONTEXT FOLDER UV

deb(5): an ar archive with data.tar.xz. No maintainer script runs, and of the documentation only the copyright stays.
"""

from __future__ import annotations

import io
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_MERGED = ("bin/", "sbin/", "lib/", "lib64/")
_LEFT_OUT = (
    "usr/share/man/",
    "usr/share/locale/",
    "usr/share/lintian/",
    "usr/share/bash-completion/",
    "usr/share/zsh/",
)


def main(context: Path, folder: Path, uv: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for wheel in context.glob("wheels/uv-*.whl"):
        with zipfile.ZipFile(wheel) as archive:
            (program,) = (name for name in archive.namelist() if name.endswith(".data/scripts/uv"))
            uv.write_bytes(archive.read(program))
            uv.chmod(0o755)
    for package in sorted(context.glob("debs/*.deb")):
        with tarfile.open(fileobj=io.BytesIO(_data(package.read_bytes(), package.name))) as archive:
            archive.extraction_filter = lambda found, _: found  # as it is: its hash was checked
            archive.extractall(folder, members=_wanted(archive))  # noqa: S202 - likewise


def member(package: Path, name: str) -> bytes:
    """One file out of a Debian package."""
    with tarfile.open(fileobj=io.BytesIO(_data(package.read_bytes(), package.name))) as archive:
        file = archive.extractfile(f"./{name}")
        if file is None:
            raise SystemExit(f"{package.name} has no file {name}")
        return file.read()


def _wanted(archive: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    for member in archive:
        name = member.name.removeprefix("./")
        if member.isdir() or name.startswith(_LEFT_OUT):
            continue
        if name.startswith("usr/share/doc/") and not name.endswith("/copyright"):
            continue
        member.name = f"usr/{name}" if name.startswith(_MERGED) else name
        yield member


def _data(archive: bytes, name: str) -> bytes:
    """The data member of an ar archive (ar(5): 60 byte headers, contents padded to two bytes)."""
    at = 8
    while at + 60 <= len(archive):
        header = archive[at : at + 60]
        size = int(header[48:58])
        if header.startswith(b"data.tar"):
            return archive[at + 60 : at + 60 + size]
        at += 60 + size + size % 2
    raise SystemExit(f"{name} is no Debian package")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:4]))
