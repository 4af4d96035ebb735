"""Sends blobs to a repository from several threads, and skips those that are there."""

from __future__ import annotations

import threading
from concurrent.futures import FIRST_EXCEPTION, wait
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from containers.errors import BadInput

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator
    from concurrent.futures import Future

    from containers.digest import Digest
    from containers.oci.repository import Blob, Repository


class Sender:
    """`sent` are the bytes that went out, `skipped` the names of the blobs that need not. `on_bytes` gets bytes as they go."""

    def __init__(self, repository: Repository, on_bytes: Callable[[int], None]) -> None:
        self.sent = 0
        self.skipped: list[str] = []
        self._repository = repository
        self._report = on_bytes
        self._stop = threading.Event()
        self._lock = threading.Lock()

    def put(self, blob: Blob) -> Digest:
        """Send a blob unless it is there; raises what its source and the repository raise."""
        if blob.digest is not None and self._repository.blob_size(blob.digest) == blob.size:
            with self._lock:
                self.skipped.append(blob.name)
            return blob.digest
        return self._repository.put_blob(replace(blob, chunks=lambda offset: self._watched(blob, offset)), self._count)

    def raise_failure(self, futures: Collection[Future[Any]]) -> None:
        """Raise the error of one that has failed, if any has."""
        for one in futures:
            if one.done():
                one.result()

    def wait(self, futures: Collection[Future[Any]]) -> None:
        """Wait for all; at the first failure, and at Ctrl-C, tell the others to stop, and raise it."""
        try:
            for one in wait(futures, return_when=FIRST_EXCEPTION).done:
                one.result()
        except BaseException:
            self.stop(futures)
            raise

    def stop(self, futures: Collection[Future[Any]]) -> None:
        """End what is on its way soon, and do not begin the rest."""
        self._stop.set()
        for one in futures:
            one.cancel()

    def _watched(self, blob: Blob, offset: int) -> Iterator[bytes]:
        for chunk in blob.chunks(offset):
            if self._stop.is_set():
                raise BadInput(f"{blob.name} was not sent: another part of the push failed")
            yield chunk

    def _count(self, size: int) -> None:
        with self._lock:
            self.sent += size
        self._report(size)
