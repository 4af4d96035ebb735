"""Files that appear whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import shutil
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final

from containers.digest import Digest

if TYPE_CHECKING:
    from collections.abc import Iterator

NO_LINKS: Final = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS)  # symlink(2), and what FUSE answers
_PREFIX: Final = ".carwright-"
_SUFFIX: Final = ".part"


@contextmanager
def replacing(destination: Path) -> Iterator[BinaryIO]:
    """A new file that takes the place of `destination` when the block ends well, and vanishes when it does not.

    It is locked while it is written, so that `remove_leftovers` can tell what a killed process has left.
    """
    destination.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=destination.parent, prefix=_PREFIX, suffix=_SUFFIX)
    try:
        with os.fdopen(handle, "wb") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            os.fchmod(handle, 0o666 & ~_umask())
            yield file
            file.flush()
            Path(name).replace(destination)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def link_or_copy(target: Path, path: Path) -> None:
    """A symbolic link to a file, in place of what is at `path`; a copy where the file system has no links."""
    path.unlink(missing_ok=True)
    try:
        path.symlink_to(target)
    except OSError as error:
        if error.errno not in NO_LINKS:
            raise
        with replacing(path) as copy, target.open("rb") as source:
            shutil.copyfileobj(source, copy, 1 << 20)


def remove_leftovers(folder: Path) -> None:
    """Remove the unfinished files of processes that were killed; those of living ones stay."""
    for path in folder.rglob(f"{_PREFIX}*{_SUFFIX}"):
        with contextlib.suppress(OSError), path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink()


def digest_of(path: Path) -> Digest:
    """The digest of a file, read once with bounded memory."""
    with path.open("rb") as file:
        return Digest(hashlib.file_digest(file, "sha256").hexdigest())


def _umask() -> int:
    """The process's umask, which can only be read by setting it (umask(2)); Linux shows it in /proc as well."""
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/self/status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith("Umask:")).split()[1], 8)
    mask = os.umask(0o022)
    os.umask(mask)
    return mask
