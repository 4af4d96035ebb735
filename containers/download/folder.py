"""Checkpoints in a folder of this machine."""

from __future__ import annotations

import os
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from containers.download.selection import Remote
from containers.errors import BadInput

if TYPE_CHECKING:
    from collections.abc import Iterator

    from containers.download.sources import FolderSource

_PIECE: Final = 1 << 20


class FolderOrigin:
    """Regular files below a folder, and links to files (the hub's own cache is made of them); no linked folders."""

    def __init__(self, source: FolderSource) -> None:
        self._folder = source.folder

    @property
    def believed(self) -> bool:
        return False  # it names no commits

    def commit(self) -> str | None:
        return None

    def files(self, commit: str | None) -> list[Remote]:
        if not self._folder.is_dir():
            raise BadInput(f"there is no folder {self._folder}", remedy="check the path behind file://")
        found: list[Remote] = []
        for parent, _, names in os.walk(self._folder, onerror=_unreadable):
            for path in (Path(parent, name) for name in names):
                if path.is_file():
                    state = path.stat()
                    name = path.relative_to(self._folder).as_posix()
                    found.append(Remote(name, state.st_size, mark=str(state.st_mtime_ns)))
        return found

    @contextmanager
    def open(self, file: Remote, start: int, stop: int) -> Iterator[tuple[int, Iterator[bytes]]]:
        path = self._folder / file.path
        try:
            with path.open("rb", buffering=0) as stream:
                stream.seek(start)
                yield start, _pieces(stream, stop - start)
        except OSError as error:
            raise BadInput(f"cannot read {path}: {error.strerror}") from error

    def path(self, file: Remote) -> Path | None:
        return self._folder / file.path


def _unreadable(error: OSError) -> None:
    raise BadInput(f"cannot read the folder {error.filename}: {error.strerror}") from error


def _pieces(stream: object, count: int) -> Iterator[bytes]:
    read = stream.read  # type: ignore[attr-defined]
    while count and (piece := read(min(_PIECE, count))):
        count -= len(piece)
        yield piece
