"""The progress of a download, published through the store so that quantization can start before the download ends.

One key for each download, named by its fingerprint: the files that will come, the headers of the weights (as blobs), and
the digest of each file that is in the store already. It is only a notice: the checkpoint's manifest, written last, stays
the one thing that says a checkpoint is whole.
"""

from __future__ import annotations

import contextlib
import threading
import time
from typing import TYPE_CHECKING, Final, Self

from pydantic import ConfigDict, Field

from containers.digest import Digest
from containers.errors import Error, Temporary
from containers.heartbeat import Beat, BeatWatch, BeatWriter

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from containers.store import FileEntry, Store

_INTERVAL: Final = 4.0  # seconds between two notices when nothing arrives
_SILENCE: Final = 30.0  # seconds without a new notice after which the download counts as dead
_POLL: Final = 0.5  # seconds between two reads
_POLL_HERE: Final = 0.1  # where a read is one of a file


class DownloadFeed(Beat):
    """`files` maps every path to its size in bytes and is empty until the listing is known. `headers` names the blob with each
    shard's header. `arrived` are the files in the store.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    files: dict[str, int] = Field(default_factory=dict)
    headers: dict[str, Digest] = Field(default_factory=dict)
    arrived: dict[str, Digest] = Field(default_factory=dict)
    ended: bool = False


class FeedWriter:
    """The download's side. A failed notice never fails the download; leaving the block ends the feed. Not `enabled`: no notices."""

    def __init__(self, store: Store, fingerprint: str, *, enabled: bool = True) -> None:
        self._store = store
        self._enabled = enabled
        self._writer = BeatWriter(store, _key(fingerprint), DownloadFeed(beat=time.time_ns()), _INTERVAL)

    def __enter__(self) -> Self:
        if self._enabled:
            self._write()
            self._writer.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._enabled:
            self._writer.stop()
            self._writer.change(lambda _: {"ended": True})
            self._write()

    def announce(
        self, files: Mapping[str, int], headers: Mapping[str, bytes], stored: Iterable[FileEntry] = ()
    ) -> None:
        """Publish all files with their sizes, the headers of the weights, and the files that are stored already."""
        if not self._enabled:
            return
        with contextlib.suppress(Error):
            blobs = {path: self._store.put_bytes(header) for path, header in headers.items()}
            arrived = {entry.path: entry.sha256 for entry in stored}
            self._writer.change(lambda _: {"files": dict(files), "headers": blobs, "arrived": arrived})
            self._write()

    def add(self, entry: FileEntry) -> None:
        """Publish that a file is in the store."""
        if self._enabled:
            self._writer.change(lambda feed: {"arrived": {**feed.arrived, entry.path: entry.sha256}})
            self._write()

    def _write(self) -> None:
        with contextlib.suppress(Error):
            self._writer.write()


class FeedReader:
    """The reader's side; safe to use from several threads."""

    def __init__(self, store: Store, fingerprint: str) -> None:
        self._watch = BeatWatch(store, _key(fingerprint), DownloadFeed)
        self._poll = _POLL_HERE if store.here else _POLL
        self._lock = threading.Lock()
        self._last: DownloadFeed | None = None
        self._last_read = 0.0

    def wait_for_listing(self, timeout: float) -> DownloadFeed:
        """Wait for the listing; raises Temporary after `timeout` seconds, or when the download ends before it."""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            found = self._read()
            if found is not None and found.files:
                return found
            if self._ended(found):
                raise Temporary("the download ended before it listed its files", remedy="run it again")
            time.sleep(self._poll)
        raise Temporary(
            f"no download listed its files within {timeout:.0f} s", remedy="quantize when the download is done"
        )

    def digest(self, path: str, stop: threading.Event) -> Digest | None:
        """Wait for a file and return its digest; None when `stop` is set. Raises Temporary when the download ends without it."""
        while not stop.is_set():
            found = self._read()
            if found is not None and path in found.arrived:
                return found.arrived[path]
            if self._ended(found):
                raise Temporary(f"the download ended before {path} arrived", remedy="run it again: it continues")
            stop.wait(self._poll)
        return None

    def _ended(self, found: DownloadFeed | None) -> bool:
        return found is not None and (found.ended or self._watch.silence > _SILENCE)

    def _read(self) -> DownloadFeed | None:
        with self._lock:
            if time.monotonic() - self._last_read >= self._poll:
                self._last_read = time.monotonic()
                self._last = self._watch.read()
            return self._last


def reset(store: Store, fingerprint: str) -> None:
    """Remove the feed of an earlier download, before a new one and its quantization start."""
    store.delete_key(_key(fingerprint))


def close(store: Store, fingerprint: str) -> None:
    """End the feed of a download that may have failed before it wrote anything."""
    with contextlib.suppress(Error):
        store.write_key(_key(fingerprint), DownloadFeed(beat=time.time_ns(), ended=True).model_dump_json().encode())


def _key(fingerprint: str) -> str:
    return f"results/arrivals/{fingerprint}.json"
