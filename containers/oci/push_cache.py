"""What a push remembers between runs on one machine, so that unchanged bytes are neither read nor sent again.

A cache, never the truth: losing it costs time. Digests of files are kept under what the kernel says of them (device,
inode, size, mtime and ctime, as git's index does): a write moves the ctime, and nobody can set that back.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from contextlib import closing, suppress
from typing import TYPE_CHECKING, Final

from containers.digest import Digest
from containers.process import start_time

if TYPE_CHECKING:
    from pathlib import Path

SETTLED: Final = 2_000_000_000  # ns; a younger file may change again within one tick of the clock
_UPLOAD_LIFE: Final = 24 * 3600.0  # seconds; registries drop unfinished uploads after a day to a week
_BLOB_LIFE: Final = 14 * 24 * 3600.0  # seconds; a wrong guess costs one request
_TABLES: Final = (
    "create table if not exists file (stat text primary key, digest text not null)",
    "create table if not exists layer (files text primary key, digest text not null)",
    "create table if not exists upload (blob text primary key, location text not null, owner text not null, time real)",
    """create table if not exists blob (registry text, digest text, repository text, time real not null,
    primary key (registry, digest, repository))""",
)


class PushCache:
    """One SQLite file under the cache folder, shared by threads and by other runs.

    Without a folder, or where it cannot be written, it lives in main memory and forgets at the end.
    """

    def __init__(self, folder: Path | None) -> None:
        self._lock = threading.Lock()
        self._base = self._open(folder)

    @staticmethod
    def _open(folder: Path | None) -> sqlite3.Connection:
        if folder is not None:
            with suppress(OSError, sqlite3.Error):
                folder.mkdir(parents=True, exist_ok=True)
                (folder / "oci.sqlite").touch(mode=0o600)  # the state of an upload can let others go on with it
                base = sqlite3.connect(folder / "oci.sqlite", timeout=10, check_same_thread=False, isolation_level=None)
                base.execute("pragma journal_mode = wal")
                for table in _TABLES:
                    base.execute(table)
                return base
        base = sqlite3.connect(":memory:", check_same_thread=False, isolation_level=None)
        for table in _TABLES:
            base.execute(table)
        return base

    def close(self) -> None:
        self._base.close()

    def file(self, stat: os.stat_result) -> Digest | None:
        """The digest of a file that has not changed since it was remembered."""
        return _digest(self._one("select digest from file where stat = ?", _stat(stat)))

    def remember_file(self, stat: os.stat_result, digest: Digest) -> None:
        """`stat` was taken before the first byte was read and was the same after the last."""
        if time.time_ns() - max(stat.st_mtime_ns, stat.st_ctime_ns) > SETTLED:
            self._do("insert or replace into file values (?, ?)", _stat(stat), str(digest))

    def layer(self, files: str) -> Digest | None:
        """The digest of a layer, by the canonical JSON of its files (see `containers.oci.plan`)."""
        return _digest(self._one("select digest from layer where files = ?", files))

    def remember_layer(self, files: str, digest: Digest) -> None:
        self._do("insert or replace into layer values (?, ?)", files, str(digest))

    def take_upload(self, blob: str) -> str | None:
        """Where an upload can go on whose process is gone; `blob` is registry/repository@digest. Only one caller gets it."""
        with self._lock, closing(self._base.cursor()) as cursor, suppress(sqlite3.Error):
            row = cursor.execute(
                "select location, owner from upload where blob = ? and time > ?", (blob, time.time() - _UPLOAD_LIFE)
            ).fetchone()
            if row is None or _alive(row[1]):
                return None
            cursor.execute("delete from upload where blob = ? and owner = ?", (blob, row[1]))
            return str(row[0]) if cursor.rowcount == 1 else None
        return None

    def remember_upload(self, blob: str, location: str) -> None:
        owner = f"{os.getpid()}:{start_time(os.getpid())}"
        self._do("insert or replace into upload values (?, ?, ?, ?)", blob, location, owner, time.time())

    def forget_upload(self, blob: str) -> None:
        self._do("delete from upload where blob = ?", blob)

    def repositories(self, registry: str, digest: Digest) -> tuple[str, ...]:
        """Repositories of the registry that were seen to hold the blob, the latest first."""
        with self._lock, closing(self._base.cursor()) as cursor, suppress(sqlite3.Error):
            rows = cursor.execute(
                "select repository from blob where registry = ? and digest = ? and time > ? order by time desc limit 2",
                (registry, str(digest), time.time() - _BLOB_LIFE),
            )
            return tuple(str(row[0]) for row in rows)
        return ()

    def remember_blob(self, registry: str, repository: str, digest: Digest) -> None:
        self._do("insert or replace into blob values (?, ?, ?, ?)", registry, str(digest), repository, time.time())

    def _one(self, query: str, *values: object) -> str | None:
        with self._lock, closing(self._base.cursor()) as cursor, suppress(sqlite3.Error):
            row = cursor.execute(query, values).fetchone()
            return None if row is None else str(row[0])
        return None

    def _do(self, statement: str, *values: object) -> None:
        with self._lock, suppress(sqlite3.Error):
            self._base.execute(statement, values)


def _alive(owner: str) -> bool:
    pid, _, started = owner.partition(":")
    return start_time(int(pid)) == started


def _stat(stat: os.stat_result) -> str:
    return f"{stat.st_dev}:{stat.st_ino}:{stat.st_size}:{stat.st_mtime_ns}:{stat.st_ctime_ns}"


def _digest(text: str | None) -> Digest | None:
    return Digest.parse(text) if text else None
