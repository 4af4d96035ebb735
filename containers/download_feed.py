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

from pydantic import Field, ValidationError

from containers.contract import Frozen
from containers.digest import Digest
from containers.errors import Error, Temporary

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from containers.store import FileEntry, Store

_BEAT: Final = 4.0  # seconds between two notices when nothing arrives
_SILENCE: Final = 30.0  # seconds without a new notice after which the download counts as dead
_LOOK: Final = 0.5  # seconds between two looks


class DownloadFeed(Frozen):
    """`files` are path and size (bytes) of all that will come, none before that is known; `headers` name blobs with the front of each shard, up to
    its first tensor; `arrived` are the files in the store. `beat` changes with every notice.
    """

    beat: int
    files: dict[str, int] = Field(default_factory=dict)
    headers: dict[str, Digest] = Field(default_factory=dict)
    arrived: dict[str, Digest] = Field(default_factory=dict)
    ended: bool = False


class FeedWriter:
    """The download's side; its notices never fail a download, and with `on` False there are none. Leave the block to say that nothing more will come."""

    def __init__(self, store: Store, fingerprint: str, *, on: bool = True) -> None:
        self._store = store
        self._on = on
        self._key = _key(fingerprint)
        self._arrivals = DownloadFeed(beat=time.time_ns())
        self._lock = threading.Lock()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True, name="arrivals")

    def __enter__(self) -> Self:
        if self._on:
            self._tell()
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._on:
            self._done.set()
            self._thread.join(timeout=30)
            self._tell(ended=True)

    def coming(self, files: Mapping[str, int], fronts: Mapping[str, bytes], arrived: Iterable[FileEntry] = ()) -> None:
        """All files with their sizes, the headers of the weights, and what is stored already."""
        if not self._on:
            return
        with contextlib.suppress(Error):
            headers = {path: self._store.put_bytes(front) for path, front in fronts.items()}
            there = {entry.path: entry.sha256 for entry in arrived}
            with self._lock:
                news = {"files": dict(files), "headers": headers, "arrived": there}
                self._arrivals = self._arrivals.model_copy(update=news)
            self._tell()

    def arrived(self, entry: FileEntry) -> None:
        """A file is in the store."""
        if not self._on:
            return
        with self._lock:
            there = {**self._arrivals.arrived, entry.path: entry.sha256}
            self._arrivals = self._arrivals.model_copy(update={"arrived": there})
        self._tell()

    def _tell(self, *, ended: bool = False) -> None:
        with self._lock, contextlib.suppress(Error):
            beat = self._arrivals.beat + 1
            self._arrivals = self._arrivals.model_copy(update={"beat": beat, "ended": ended})
            self._store.write_key(self._key, self._arrivals.model_dump_json().encode())

    def _beat(self) -> None:
        while not self._done.wait(_BEAT):
            self._tell()


class FeedReader:
    """The other side: what has arrived, for several threads."""

    def __init__(self, store: Store, fingerprint: str) -> None:
        self._store = store
        self._key = _key(fingerprint)
        self._lock = threading.Lock()
        self._last: DownloadFeed | None = None
        self._looked = 0.0
        self._changed = time.monotonic()

    def coming(self, patience: float) -> DownloadFeed:
        """What will come; raises Temporary when no download says so within `patience` seconds, or when it ends before."""
        deadline = time.monotonic() + patience
        while time.monotonic() < deadline:
            found = self._look()
            if found is not None and found.files:
                return found
            if self._is_over(found):
                raise Temporary("the download ended before it could say what would come", remedy="run it again")
            time.sleep(_LOOK)
        raise Temporary("no download has said what will come", remedy="quantize when the download is done")

    def digest(self, path: str, stop: threading.Event) -> Digest | None:
        """Wait for a file and return its digest; None when `stop` is set. Raises Temporary when it will not come."""
        while not stop.is_set():
            found = self._look()
            if found is not None and path in found.arrived:
                return found.arrived[path]
            if self._is_over(found):
                raise Temporary(f"the download ended before it brought {path}", remedy="run it again: it goes on")
            stop.wait(_LOOK)
        return None

    def _is_over(self, found: DownloadFeed | None) -> bool:
        return found is not None and (found.ended or time.monotonic() - self._changed > _SILENCE)

    def _look(self) -> DownloadFeed | None:
        with self._lock:
            if time.monotonic() - self._looked < _LOOK:
                return self._last
            self._looked = time.monotonic()
            with contextlib.suppress(Error, KeyError, ValidationError):
                found = DownloadFeed.model_validate_json(self._store.read_key(self._key))
                if found != self._last:
                    self._last, self._changed = found, time.monotonic()
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
