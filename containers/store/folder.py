"""The bucket of an embedded store, used where it lies: a folder of this machine instead of a server in front of it.

Keys are paths below the bucket's folder, as `rclone serve s3` lays them out, so that server and folder can be used side by
side (a server sees what is written here within five seconds). A blob need not be written again to be in the store: a file
that a step has made is moved in, and a file of somebody else's is shared with it.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import stat
import uuid
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final

from containers.store.client import Bucket, Listed, Seen
from containers.store.failures import translated
from containers.store.files import NO_LINKS, link_or_copy, replacing

if TYPE_CHECKING:
    from collections.abc import Iterator

    from containers.contract import StoreLocation
    from containers.settings import StoreSettings

_FICLONE: Final = 0x40049409  # ioctl_ficlone(2): share the extents of a whole file, copy on write
_NOT_HERE: Final = (errno.EXDEV, errno.EMLINK, errno.EACCES, *NO_LINKS)


class FolderBucket(Bucket):
    """As `Bucket`, with the same errors."""

    def __init__(self, location: StoreLocation, settings: StoreSettings) -> None:
        super().__init__(location, settings)
        assert self._folder is not None
        self._root = self._folder / location.bucket / self._prefix

    def path(self, key: str) -> Path:
        """Where the object of a key is, or would be."""
        return self._root / key

    def ensure(self) -> None:
        with translated("opening the store", self.name):
            self._root.mkdir(parents=True, exist_ok=True, mode=0o700)

    def size(self, key: str) -> int | None:
        try:
            state = self.path(key).stat()
        except (FileNotFoundError, NotADirectoryError):
            return None
        return state.st_size if stat.S_ISREG(state.st_mode) else None

    def look(self, key: str) -> Seen | None:
        size = self.size(key)
        with translated(f"looking for {key}", self.name), suppress(FileNotFoundError, NotADirectoryError):
            modified = datetime.fromtimestamp(self.path(key).lstat().st_mtime, UTC)
            return None if size is None else Seen(size, modified, datetime.now(UTC) - modified)
        return None

    def read(self, key: str) -> bytes | None:
        with translated(f"reading {key}", self.name), suppress(FileNotFoundError, NotADirectoryError):
            return self.path(key).read_bytes()
        return None

    def open(self, key: str) -> BinaryIO:
        """The object's bytes; raises FileNotFoundError when there is none."""
        return self.path(key).open("rb", buffering=0)

    def write(self, key: str, content: bytes) -> None:
        with self.writing(key) as file:
            file.write(content)

    def write_new(self, key: str, content: bytes) -> bool:
        destination = self.path(key)
        with translated(f"writing {key}", self.name):
            destination.parent.mkdir(parents=True, exist_ok=True)
            with _name_beside(destination) as name:
                name.write_bytes(content)
                try:
                    os.link(name, destination)
                except FileExistsError:
                    return False
                except OSError as error:
                    if error.errno not in _NOT_HERE:
                        raise
                    name.replace(destination)  # a file system without links: whoever is last counts
        return True

    @contextmanager
    def writing(self, key: str) -> Iterator[BinaryIO]:
        """A file that is the key's object when the block has ended well."""
        with translated(f"writing {key}", self.name), replacing(self.path(key)) as file:
            yield file

    def delete(self, key: str) -> None:
        with translated(f"deleting {key}", self.name):
            self.path(key).unlink(missing_ok=True)

    def listing(self, prefix: str) -> Iterator[Listed]:
        """As for a server. A link that leads nowhere any more has no bytes."""
        with translated(f"listing {prefix}", self.name):
            yield from self._below(self.path(prefix.rstrip("/")))

    def _below(self, folder: Path) -> Iterator[Listed]:
        try:
            entries = list(os.scandir(folder))
        except (FileNotFoundError, NotADirectoryError):
            return
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                yield from self._below(Path(entry.path))
            elif not entry.name.startswith("."):
                with suppress(FileNotFoundError):  # removed meanwhile
                    own = entry.stat(follow_symlinks=False)
                    size = own.st_size
                    if entry.is_symlink():
                        size = entry.stat().st_size if Path(entry.path).exists() else 0
                    key = Path(entry.path).relative_to(self._root).as_posix()
                    shared = entry.is_symlink() or own.st_nlink > 1
                    yield Listed(key, size, datetime.fromtimestamp(own.st_mtime, UTC), shared)

    def move_in(self, key: str, path: Path) -> None:
        """Make a file the key's object. It is moved within a file system, and copied between two."""
        with translated(f"writing {key}", self.name):
            destination = self.path(key)
            destination.parent.mkdir(parents=True, exist_ok=True)
            try:
                path.replace(destination)
            except OSError as error:
                if error.errno != errno.EXDEV:
                    raise
                with replacing(destination) as file, path.open("rb") as source:
                    shutil.copyfileobj(source, file, 1 << 20)

    def share(self, key: str, path: Path) -> None:
        """Make the bytes of a file that stays where it is the key's object, without a second copy of them.

        The file system's own copy on write is best: what happens to the file later does not matter. Else it is a hard link
        or, from another file system, a symbolic one, and a later change shows when the digest is checked. Where there are no
        links at all it is copied.
        """
        with translated(f"writing {key}", self.name):
            destination = self.path(key)
            destination.parent.mkdir(parents=True, exist_ok=True)
            with _name_beside(destination) as name:
                if not _cloned(path, name) and not _linked(path, name):
                    link_or_copy(path.resolve(), name)
                name.replace(destination)


@contextmanager
def _name_beside(destination: Path) -> Iterator[Path]:
    """A name that nobody has, in the same folder; removed if it is still there at the end."""
    name = destination.with_name(f".carwright-{uuid.uuid4().hex}.part")
    try:
        yield name
    finally:
        name.unlink(missing_ok=True)


def _cloned(path: Path, name: Path) -> bool:
    with path.open("rb") as source, name.open("xb") as copy:
        try:
            fcntl.ioctl(copy.fileno(), _FICLONE, source.fileno())
        except OSError:  # of many kinds where a file system has no such thing
            name.unlink()
            return False
    return True


def _linked(path: Path, name: Path) -> bool:
    try:
        os.link(path.resolve(), name)
    except OSError as error:
        if error.errno not in _NOT_HERE:
            raise
        return False
    return True
