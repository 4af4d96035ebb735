"""What a download under way has brought so far, told through the store: a quantization may begin before its end.

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


class DownloadFeed(Beat):
    """`files` are path and size (bytes) of all that will come, none before that is known; `headers` name blobs with the front of each shard, up to
    its first tensor; `arrived` are the files in the store.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    files: dict[str, int] = Field(default_factory=dict)
    headers: dict[str, Digest] = Field(default_factory=dict)
    arrived: dict[str, Digest] = Field(default_factory=dict)
    ended: bool = False


class FeedWriter:
    """The download's side; its notices never fail a download, and with `on` False there are none. Leave the block to say that nothing more will come."""

    def __init__(self, store: Store, fingerprint: str, *, on: bool = True) -> None:
        self._store = store
        self._on = on
        self._writer = BeatWriter(store, _key(fingerprint), DownloadFeed(beat=time.time_ns()), _INTERVAL)

    def __enter__(self) -> Self:
        if self._on:
            self._write()
            self._writer.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._on:
            self._writer.stop()
            self._writer.change(lambda _: {"ended": True})
            self._write()

    def coming(self, files: Mapping[str, int], fronts: Mapping[str, bytes], arrived: Iterable[FileEntry] = ()) -> None:
        """All files with their sizes, the headers of the weights, and what is stored already."""
        if not self._on:
            return
        with contextlib.suppress(Error):
            headers = {path: self._store.put_bytes(front) for path, front in fronts.items()}
            there = {entry.path: entry.sha256 for entry in arrived}
            self._writer.change(lambda _: {"files": dict(files), "headers": headers, "arrived": there})
            self._write()

    def arrived(self, entry: FileEntry) -> None:
        """A file is in the store."""
        if self._on:
            self._writer.change(lambda feed: {"arrived": {**feed.arrived, entry.path: entry.sha256}})
            self._write()

    def _write(self) -> None:
        with contextlib.suppress(Error):
            self._writer.write()


class FeedReader:
    """The other side: what has arrived, for several threads."""

    def __init__(self, store: Store, fingerprint: str) -> None:
        self._watch = BeatWatch(store, _key(fingerprint), DownloadFeed)
        self._lock = threading.Lock()
        self._last: DownloadFeed | None = None
        self._last_read = 0.0

    def coming(self, patience: float) -> DownloadFeed:
        """What will come; raises Temporary when no download says so within `patience` seconds, or when it ends before."""
        deadline = time.monotonic() + patience
        while time.monotonic() < deadline:
            found = self._read()
            if found is not None and found.files:
                return found
            if self._is_over(found):
                raise Temporary("the download ended before it could say what would come", remedy="run it again")
            time.sleep(_POLL)
        raise Temporary("no download has said what will come", remedy="quantize when the download is done")

    def digest(self, path: str, stop: threading.Event) -> Digest | None:
        """Wait for a file and return its digest; None when `stop` is set. Raises Temporary when it will not come."""
        while not stop.is_set():
            found = self._read()
            if found is not None and path in found.arrived:
                return found.arrived[path]
            if self._is_over(found):
                raise Temporary(f"the download ended before it brought {path}", remedy="run it again: it goes on")
            stop.wait(_POLL)
        return None

    def _is_over(self, found: DownloadFeed | None) -> bool:
        return found is not None and (found.ended or self._watch.silence > _SILENCE)

    def _read(self) -> DownloadFeed | None:
        with self._lock:
            if time.monotonic() - self._last_read >= _POLL:
                self._last_read = time.monotonic()
                self._last = self._watch.read()
            return self._last


def begin(store: Store, fingerprint: str) -> None:
    """Forget what an earlier download has said; called before a new one and its quantization are started."""
    store.delete_key(_key(fingerprint))


def end(store: Store, fingerprint: str) -> None:
    """Say in the place of a download that may not have come to its first word that nothing will come."""
    with contextlib.suppress(Error):
        store.write_key(_key(fingerprint), DownloadFeed(beat=time.time_ns(), ended=True).model_dump_json().encode())


def _key(fingerprint: str) -> str:
    return f"results/arrivals/{fingerprint}.json"
