"""Fetches files into the store, over several connections. A file leaves the local disk as soon as it is stored.

A large file comes in parts, over all connections at once where nothing else is before it: so files are whole one after the
other, in their order, and what follows can begin with the first of them.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import threading
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from containers.download.partial_file import PART, Arriving, PartialFile, Rewritten
from containers.download.retries import NoRanges
from containers.download.transfer import Transfer
from containers.errors import BadInput, DiskFull, Interrupted
from containers.events import amount
from containers.sha256 import Sha256, hash_file
from containers.store import FileEntry
from containers.store.files import digest_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from concurrent.futures import Future
    from pathlib import Path

    from containers.digest import Digest
    from containers.download.origin import FileOrigin
    from containers.download.selection import Remote
    from containers.download_feed import FeedWriter
    from containers.events import Progress, Reporter
    from containers.store import Store

T = TypeVar("T")


class Fetcher:
    """One download. `folder` holds what is under way; its part `small` keeps the small files until the end.

    `feed` publishes the listing and each stored file.
    """

    def __init__(  # noqa: PLR0917
        self, origin: FileOrigin, store: Store, folder: Path, report: Reporter, parallel: int, feed: FeedWriter
    ) -> None:
        self._origin = origin
        self._store = store
        self._report = report
        self._feed = feed
        self._parallel = parallel
        self._ranges = parallel > 1  # whether files are asked for in parts; not of a source that sends them whole alone
        self._connections = ThreadPoolExecutor(parallel, thread_name_prefix="connection")
        self._stopping = threading.Event()
        self._transfer = Transfer(origin, report.log, self._stopping)
        self._lock = threading.Lock()
        self._metrics = {"bytes_read": 0.0, "bytes_stored": 0.0}
        self.small = folder / "small"
        self._large = folder / "large"

    def fetch_all(
        self, files: tuple[Remote, ...], check: Callable[[Path], None]
    ) -> tuple[tuple[FileEntry, ...], dict[str, float]]:
        """Fetch and store all files; returns their entries, sorted by path, and `bytes_read` and `bytes_stored`.

        First the small files are fetched and the headers of the weights read, then `check` is called with the folder of
        the small files, and only then is anything stored. Raises what that raises, and BadInput for a file whose bytes
        are not those that its source promised.
        """
        weights = [file for file in files if file.weights]
        rest = [file for file in files if not file.weights]
        with (
            self._report.progress("download", sum(file.size for file in files)) as progress,
            self._connections,
        ):
            digests = self._all(partial(self._fetch_small, file, progress) for file in rest)
            check(self.small)
            headers = self._all(partial(self._transfer.check_weights, file) for file in weights)
            entries = self._all(
                partial(self._put, file, self.small / file.path, digest)
                for file, digest in zip(rest, digests, strict=True)
            )
            self._check_room(weights)
            self._feed.announce(
                {file.path: file.size for file in files},
                {file.path: header for file, header in zip(weights, headers, strict=True)},
                entries,
            )
            weights.sort(key=lambda file: -file.size)  # the last to finish should be a small one
            here = all(self._origin.held(file) is not None for file in weights)
            entries += self._all(
                (partial(self._fetch_and_announce, file, progress) for file in weights),
                # Files of this machine are only hashed, and take no room.
                parallel=max(self._parallel, os.cpu_count() or 1) if here else self._parallel,
            )
        return tuple(sorted(entries, key=lambda entry: entry.path)), {**self._metrics, "files": len(entries)}

    def _check_room(self, weights: list[Remote]) -> None:
        """Raises DiskFull when the files that will be under way at once cannot lie on the disk together."""
        pending = [file for file in weights if self._origin.held(file) is None and not self._stored(file)]
        present = {file.path: self._partial(file).present for file in pending}
        needed = sum(sorted((file.size - present[file.path] for file in pending), reverse=True)[: self._parallel])
        free = shutil.disk_usage(self.small.parent).free
        if needed > free:
            raise DiskFull(
                f"{self.small.parent} has {amount(free, 'B')} free, and {amount(needed, 'B')} will be downloaded at once",
                remedy="free some space, or set CARWRIGHT_HOME to a folder on a larger disk",
            )

    def _stored(self, file: Remote) -> bool:
        return file.sha256 is not None and self._store.has_blob(file.sha256, file.size)

    def _all(self, calls: Iterable[Callable[[], T]], parallel: int = 0) -> list[T]:
        """What each of the calls returns, `parallel` of them at a time; the first error ends the others."""
        with ThreadPoolExecutor(parallel or self._parallel, thread_name_prefix="download") as pool:
            futures = [pool.submit(call) for call in calls]
            try:
                done, _ = wait(futures, return_when=FIRST_EXCEPTION)
                for future in done:
                    future.result()
            except BaseException as error:
                self._stopping.set()
                pool.shutdown(wait=True, cancel_futures=True)
                if isinstance(error, Interrupted) and (cause := _cause(futures)) is not None:
                    raise cause from None
                raise
            return [future.result() for future in futures]

    def _fetch_small(self, file: Remote, progress: Progress) -> Digest:
        partial = PartialFile(self.small / file.path, file.size)
        return self._fetch_then(file, partial, progress, lambda arriving: _verified(file, arriving).digest())

    def _fetch_and_announce(self, file: Remote, progress: Progress) -> FileEntry:
        entry = self._fetch_large(file, progress)
        self._feed.add(entry)
        return entry

    def _fetch_large(self, file: Remote, progress: Progress) -> FileEntry:
        if file.sha256 is not None and self._stored(file):
            progress.advance(file.size)
            return FileEntry(path=file.path, size=file.size, sha256=file.sha256)
        if (held := self._origin.held(file)) is not None:
            with held as local:
                return self._put_local(file, local, progress)
        return self._fetch_then(file, self._partial(file), progress, lambda arriving: self._put_large(file, arriving))

    def _partial(self, file: Remote) -> PartialFile:
        """What is on the disk of a large file."""
        checked = file.sha256 is not None or file.git is not None
        part = PART if self._ranges else None
        return PartialFile(self._large / file.path, file.size, part=part, checked=checked)

    def _fetch_then(self, file: Remote, partial: PartialFile, progress: Progress, use: Callable[[Arriving], T]) -> T:
        """Fetch a file and use it, from its first bytes on; when it is damaged and begins with what an earlier run left, or
        when it cannot be had in parts, once more from the start.
        """
        progress.advance(partial.present)
        try:
            with self._arriving(file, partial, progress) as arriving:
                return use(arriving)
        except NoRanges:
            self._ranges = False
        except _Damaged:
            if not partial.resumed:
                partial.discard()
                raise
        progress.advance(-partial.present)
        partial.discard()
        return self._fetch_then(file, partial.anew(split=self._ranges), progress, use)

    @contextmanager
    def _arriving(self, file: Remote, partial: PartialFile, progress: Progress) -> Iterator[Arriving]:
        """Transfers of all parts of a file begin; none is left when the block ends."""

        def count(size: int) -> None:
            progress.advance(size)
            with self._lock:
                self._metrics["bytes_read"] += max(0, size)

        with partial:
            arriving = Arriving(partial, self._stopping)
            try:
                arriving.begin(lambda part: self._connections.submit(self._transfer.fetch, file, part, count))
                yield arriving
            except NoRanges:
                raise
            except BaseException:
                if not arriving.ended:
                    self._stopping.set()  # this ends the whole download, and the other parts need not come first
                raise
            finally:
                arriving.end()

    def _put(self, file: Remote, path: Path, digest: Digest) -> FileEntry:
        if not self._store.has_blob(digest, file.size):
            try:
                self._store.put_file(path, digest=digest)
            except BadInput as error:
                if digest_of(path) == digest:
                    raise
                raise _damaged(file) from error
            with self._lock:
                self._metrics["bytes_stored"] += file.size
        return FileEntry(path=file.path, size=file.size, sha256=digest)

    def _put_large(self, file: Remote, arriving: Arriving) -> FileEntry:
        """A file that is not needed here any more."""
        partial, digest = arriving.file, file.sha256
        if digest is not None and not self._store.here:
            arriving.wait()
            entry = self._put(file, partial.path, digest)  # checked against what its source promised while it is stored
        else:
            hashed = _verified(file, arriving)
            digest = hashed.digest()
            if not self._store.has_blob(digest, file.size):
                self._store.take_file(partial.path, digest, midstates=hashed.midstates)
                with self._lock:
                    self._metrics["bytes_stored"] += file.size
            entry = FileEntry(path=file.path, size=file.size, sha256=digest)
        partial.discard()
        return entry

    def _put_local(self, file: Remote, path: Path, progress: Progress) -> FileEntry:
        """A file of this machine goes straight into the store, unless it changes meanwhile."""
        try:
            hashed = hash_file(path)
            digest = hashed.digest()
            if not self._store.has_blob(digest, file.size):
                self._store.share_file(path, digest, midstates=hashed.midstates)
                with self._lock:
                    self._metrics["bytes_stored"] += file.size
            entry = FileEntry(path=file.path, size=file.size, sha256=digest)
            state = path.stat()
        except OSError as error:
            raise BadInput(f"cannot read {file.path}: {error.strerror}") from error
        if (state.st_size, str(state.st_mtime_ns)) != (file.size, file.mark):
            raise BadInput(f"{file.path} changed while it was read", remedy="run again to use the new version")
        progress.advance(file.size)
        with self._lock:
            self._metrics["bytes_read"] += file.size
        return entry


class _Damaged(BadInput):
    """The received bytes are not those that the source promised."""


def _damaged(file: Remote) -> _Damaged:
    return _Damaged(
        f"{file.path} is damaged: its bytes do not match the digest from its source",
        remedy="try again later; if it happens again, the file is damaged at its source",
    )


def _verified(file: Remote, arriving: Arriving) -> Sha256:
    """The file, hashed while it arrives; raises _Damaged when the source promised other bytes, and what its transfer raises."""
    try:
        return _hashed(file, arriving.pieces())
    except Rewritten:
        return _hashed(file, arriving.again())


def _hashed(file: Remote, pieces: Iterable[memoryview]) -> Sha256:
    """Files that are not in LFS come with git's own digest: sha1 over a header and the content (Pro Git, 10.2)."""
    sha256 = Sha256()
    git = hashlib.sha1(f"blob {file.size}\0".encode(), usedforsecurity=False)
    for piece in pieces:
        sha256.update(piece)
        if file.git is not None:
            git.update(piece)
    if sha256.size != file.size or (file.git is not None and git.hexdigest() != file.git):
        raise _damaged(file)
    if file.sha256 is not None and sha256.digest() != file.sha256:
        raise _damaged(file)
    return sha256


def _cause(futures: Iterable[Future[Any]]) -> BaseException | None:
    """The error for which the others were stopped."""
    errors = (future.exception() for future in futures if future.done() and not future.cancelled())
    return next((error for error in errors if error is not None and not isinstance(error, Interrupted)), None)
