"""The quantized shards of a run, published through the store so that their layers can be pushed before the last is done.

Each shard has a key of its own, written by whichever process quantized it, and the run itself says in another key that
more may come. These are only notices: the checkpoint's manifest, written last, stays the one thing that says a checkpoint
is whole.
"""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING, Final, Self

from pydantic import ConfigDict, ValidationError

from containers.digest import Digest
from containers.errors import Error, Temporary
from containers.heartbeat import Beat, BeatWatch, BeatWriter
from containers.store import FileEntry

if TYPE_CHECKING:
    from collections.abc import Iterator

    from containers.store import Store

_INTERVAL: Final = 4.0  # seconds between two signs of life of the run
_SILENCE: Final = 30.0  # seconds without one after which the run counts as dead
_IDLE: Final = 1800.0  # seconds without a shard: the quantization may be waiting for the place that its reader takes
_POLL: Final = 0.5  # seconds between two looks
_POLL_HERE: Final = 0.1  # where a look is one into a folder


class _RunBeat(Beat):
    """Whether the quantization has ended, and whether it has failed."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    ended: bool = False
    failed: bool = False


class ShardFeed:
    """The run's side: the feed is open inside the block, and has failed if the block does. Its notices are removed by `remove`."""

    def __init__(self, store: Store, name: str) -> None:
        self._store = store
        self._name = name
        self._writer = BeatWriter(store, _key(name), _RunBeat(beat=time.time_ns()), _INTERVAL)

    def __enter__(self) -> Self:
        with contextlib.suppress(Error):
            self._writer.write()
        self._writer.start()
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self.end(failed=kind is not None)

    def end(self, *, failed: bool = False) -> None:
        """Say that every shard is published, or that no more will be; the first call counts."""
        self._writer.stop()
        self._writer.change(lambda run: {} if run.ended else {"ended": True, "failed": failed})
        with contextlib.suppress(Error):
            self._writer.write()

    def remove(self) -> None:
        """Remove all that was published; a failure leaves a few small keys."""
        with contextlib.suppress(Error):
            for key in (*self._store.keys(_folder(self._name)), _key(self._name)):
                self._store.delete_key(key)


def publish(store: Store, name: str, shard: FileEntry) -> None:
    """Publish that a quantized shard is in the store, unless `name` is empty. A failed notice never fails the quantization."""
    if name:
        key = f"{_folder(name)}/{Digest.of(shard.path.encode()).hex}.json"
        with contextlib.suppress(Error):
            store.write_key(key, shard.model_dump_json().encode())


def shards(store: Store, name: str) -> Iterator[FileEntry]:
    """Each shard of the feed once, as they come, until it ends. Raises Temporary when the run fails or goes silent."""
    watch = BeatWatch(store, _key(name), _RunBeat)
    seen: set[str] = set()
    came = time.monotonic()
    while True:
        run = watch.read()  # before the look at the shards: what came before the end is found then
        for shard in _new(store, name, seen):
            came = time.monotonic()
            yield shard
        if run is not None and run.ended and not run.failed:
            return
        if run is not None and run.failed:
            raise Temporary("the quantization failed", remedy="run it again: it continues")
        if watch.silence > _SILENCE:
            raise Temporary("nothing was heard of the run that quantizes", remedy="run it again: it continues")
        if time.monotonic() - came > _IDLE:
            raise Temporary(f"no shard was quantized within {_IDLE:.0f} s", remedy="push when the quantization is done")
        time.sleep(_POLL_HERE if store.here else _POLL)


def _new(store: Store, name: str, seen: set[str]) -> list[FileEntry]:
    """The shards that are not in `seen`, which then has them. A store that does not answer has none."""
    found = []
    with contextlib.suppress(Error):
        for key in set(store.keys(_folder(name))) - seen:
            with contextlib.suppress(KeyError, ValidationError):
                found.append(FileEntry.model_validate_json(store.read_key(key)))
            seen.add(key)
    return found


def _key(name: str) -> str:
    return f"results/shards/{name}.json"


def _folder(name: str) -> str:
    return f"results/shards/{name}"
