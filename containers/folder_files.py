"""The files of a folder that a person named as a checkpoint: one rule for all that read one.

A link is followed when it ends at a regular file inside the folder, or, where the folder is a snapshot of the hub's cache
(`models--ORG--NAME/snapshots/COMMIT`), inside that repository's folder, in whose `blobs` the files lie. Every other link,
one to a folder included, and whatever is neither a file nor a folder is refused: a checkpoint that somebody else made must
not take a file of this machine along.

Nobody can put a link in place between the look and the reading: a file is first opened without reading it (O_PATH, which
has no effect on devices and pipes), then looked at where it really is, and only then read, through that same handle.
"""

from __future__ import annotations

import os
import stat
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final

from containers.errors import BadInput
from containers.foreign_values import shown

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_REPOSITORY: Final = "models--"  # the hub's cache, huggingface_hub's guide "Manage the cache"
_SNAPSHOTS: Final = "snapshots"


@dataclass(frozen=True, slots=True)
class FolderFile:
    """A file by its path in the folder, with slashes; and the state of what is really read."""

    path: str
    state: os.stat_result


class SourceFolder:
    """A folder to be read by the rule. Methods raise BadInput for what breaks it and for what cannot be read."""

    def __init__(self, root: Path) -> None:
        if not root.is_dir():
            raise BadInput(f"{root} is not a folder", remedy="name a folder with a checkpoint in Hugging Face layout")
        self.root = root
        self._allowed = tuple(_allowed(Path(os.path.realpath(root))))

    def files(self, skip: Callable[[str], bool] = lambda _: False) -> tuple[FolderFile, ...]:
        """Every file, sorted by the bytes of its path; `skip` says by its name which file or folder is passed over."""
        found: list[FolderFile] = []
        for parent, folders, names in os.walk(self.root, onerror=_unreadable):
            folders[:] = [name for name in folders if not skip(name)]
            for name in [*folders, *(name for name in names if not skip(name))]:
                full = Path(parent, name)
                path = full.relative_to(self.root).as_posix()
                state = full.lstat()
                if stat.S_ISDIR(state.st_mode):
                    continue
                found.append(FolderFile(path, state if stat.S_ISREG(state.st_mode) else self.state(path)))
        return tuple(sorted(found, key=lambda file: os.fsencode(file.path)))

    def state(self, path: str) -> os.stat_result:
        """The state of the file that would be read."""
        with self._handle(path) as handle:
            return os.fstat(handle)

    def open(self, path: str, offset: int = 0) -> BinaryIO:
        """The bytes of a file from `offset` on, unbuffered."""
        with self._handle(path) as handle:
            try:
                file = Path(_by_handle(handle)).open("rb", buffering=0)  # noqa: SIM115 -- who asked closes it
            except OSError as error:
                raise self._unreadable(path, error) from error
        file.seek(offset)
        return file

    @contextmanager
    def held(self, path: str) -> Iterator[Path]:
        """A name under which the file, and no other, can be opened and looked at within the block."""
        with self._handle(path) as handle:
            yield Path(_by_handle(handle))

    @contextmanager
    def _handle(self, path: str) -> Iterator[int]:
        try:
            handle = os.open(self.root / path, os.O_PATH | os.O_CLOEXEC)
        except OSError as error:
            raise self._unreadable(path, error) from error
        try:
            self._check(path, os.fstat(handle).st_mode, Path(_by_handle(handle)).readlink())
            yield handle
        finally:
            os.close(handle)

    def _check(self, path: str, mode: int, target: Path) -> None:
        if not any(target.is_relative_to(allowed) for allowed in self._allowed):
            where = shown(str(target)) if stat.S_ISREG(mode) or stat.S_ISDIR(mode) else "something that is not a file"
            raise BadInput(
                f"{shown(path)} is a link that leads out of {self.root}, to {where}",
                remedy="replace the link with a copy of the file (`cp -rL` copies a whole folder so); only links within the "
                "folder are followed, and those of the hub's cache to the blobs of the same model",
            )
        if stat.S_ISDIR(mode):
            raise BadInput(f"{shown(path)} is a link to a folder", remedy="replace the link with a copy of the folder")
        if not stat.S_ISREG(mode):
            raise BadInput(f"{shown(path)} is not a regular file", remedy="remove it from the checkpoint")

    def _unreadable(self, path: str, error: OSError) -> BadInput:
        return BadInput(
            f"cannot read {self.root / shown(path)}: {error.strerror}",
            remedy="a link must lead to a file that exists, and the file must be readable",
        )


def _allowed(root: Path) -> Iterator[Path]:
    """The folder, and the folder of its repository in the hub's cache."""
    yield root
    for folder in root.parents:
        if folder.name == _SNAPSHOTS and folder.parent.name.startswith(_REPOSITORY):
            yield folder.parent


def _by_handle(handle: int) -> str:
    return f"/proc/self/fd/{handle}"


def _unreadable(error: OSError) -> None:
    raise BadInput(f"cannot read the folder {error.filename}: {error.strerror}") from error
