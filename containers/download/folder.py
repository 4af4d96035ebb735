"""Checkpoints in a folder of this machine."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, BinaryIO, Final

from containers.download.selection import Remote
from containers.errors import BadInput
from containers.folder_files import SourceFolder

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path

    from containers.sources import FolderSource

_PIECE: Final = 1 << 20


class FolderOrigin:
    """Files below a folder by the rule of `containers.folder_files`; hidden ones are passed over."""

    def __init__(self, source: FolderSource) -> None:
        self._path = source.folder

    @property
    def believed(self) -> bool:
        return False  # it names no commits

    def commit(self) -> str | None:
        return None

    def files(self, commit: str | None) -> list[Remote]:
        found = self._folder().files(skip=lambda name: name.startswith("."))
        return [Remote(file.path, file.state.st_size, mark=str(file.state.st_mtime_ns)) for file in found]

    @contextmanager
    def open(self, file: Remote, start: int, stop: int) -> Iterator[tuple[int, Iterator[bytes]]]:
        with self._folder().open(file.path, start) as stream:
            try:
                yield start, _pieces(stream, stop - start)
            except OSError as error:
                raise BadInput(f"cannot read {self._path / file.path}: {error.strerror}") from error

    def held(self, file: Remote) -> AbstractContextManager[Path] | None:
        return self._folder().held(file.path)

    def _folder(self) -> SourceFolder:
        if not self._path.is_dir():
            raise BadInput(f"there is no folder {self._path}", remedy="check the path after file://")
        return SourceFolder(self._path)


def _pieces(stream: BinaryIO, count: int) -> Iterator[bytes]:
    while count and (piece := stream.read(min(_PIECE, count))):
        count -= len(piece)
        yield piece
