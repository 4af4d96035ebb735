"""The feed of quantized shards, over a store in a folder, and the layers that are pushed by it."""

from __future__ import annotations

import io
import threading
from collections import Counter
from itertools import count
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

from containers import heartbeat, shard_feed
from containers.contract import Step, StepRequest, StoreLocation
from containers.digest import Digest
from containers.errors import BadInput, Error, Temporary
from containers.events import Reporter
from containers.oci.access import open_repository
from containers.oci.layer import LayerHasher
from containers.parameters import PushOptions, PushParameters
from containers.push.work import work
from containers.settings import StepSettings, StoreSettings
from containers.shard_feed import ShardFeed, publish, shards
from containers.step import Context
from containers.store import FileEntry, Store
from tests.support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

NAME = "a" * 64


@pytest.fixture
def settings(tmp_path: Path) -> StepSettings:
    (tmp_path / "store").mkdir()
    return StepSettings(
        store=StoreSettings(endpoint="http://127.0.0.1:9", folder=tmp_path / "store", direct=True),
        cache=tmp_path / "cache",
    )


@pytest.fixture
def store(settings: StepSettings) -> Store:
    return Store.open(StoreLocation(), settings.store)


def shard(store: Store, path: str, content: bytes) -> FileEntry:
    """A shard in the store, with the digest of its layer."""
    hasher = LayerHasher(path, len(content))
    hasher.update(content)
    return FileEntry(path=path, size=len(content), sha256=store.put_bytes(content), layer=hasher.digest())


class InBackground:
    """What a function raises in a thread, None if it ends well."""

    def __init__(self, function: Callable[[], object]) -> None:
        self.error: Error | None = None
        self._function = function
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._function()
        except Error as error:
            self.error = error

    def end(self) -> Error | None:
        self._thread.join(60)
        assert not self._thread.is_alive()
        return self.error


def test_each_shard_comes_once_until_the_end(store: Store) -> None:
    """Those from before the reader, those that come twice, and two of the same bytes under two names."""
    first, second, third = (
        FileEntry(path=path, size=1, sha256=Digest.of(content))
        for path, content in (("a", b"1"), ("b", b"2"), ("c", b"2"))
    )
    came: Counter[FileEntry] = Counter()

    def read() -> None:
        for one in shards(store, NAME):
            came[one] += 1

    with ShardFeed(store, NAME) as feed:
        publish(store, NAME, first)
        reading = InBackground(read)
        until(lambda: came == {first: 1}, "the first comes")
        for one in (first, second, third, second):
            publish(store, NAME, one)
    assert reading.end() is None
    assert came == {first: 1, second: 1, third: 1}
    feed.remove()
    assert store.keys("results/shards") == []


def test_a_run_that_fails_ends_the_feed(store: Store) -> None:
    def fail() -> None:
        with ShardFeed(store, NAME):
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    with pytest.raises(Temporary, match="the quantization failed"):
        list(shards(store, NAME))


def test_the_first_end_counts(store: Store) -> None:
    """A push that comes to its turn has ended the feed well; a later failure of the run is not the feed's."""
    with pytest.raises(RuntimeError), ShardFeed(store, NAME) as feed:  # noqa: PT012
        feed.end()
        raise RuntimeError
    assert list(shards(store, NAME)) == []


def test_a_run_that_is_killed_ends_the_feed(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing says so: it only goes silent."""
    now = count(step=10)
    clock = SimpleNamespace(monotonic=lambda: next(now), sleep=lambda _: None)
    monkeypatch.setattr(heartbeat, "time", clock)
    monkeypatch.setattr(shard_feed, "time", clock)
    with pytest.raises(Temporary, match="nothing was heard of the run"):
        list(shards(store, NAME))


def test_a_notice_never_fails_the_quantization(settings: StepSettings, tmp_path: Path) -> None:
    store = Store.open(StoreLocation(), settings.store)
    (tmp_path / "store" / "carwright" / "results").write_text("in the way")
    publish(store, NAME, FileEntry(path="a", size=1, sha256=Digest.of(b"1")))
    publish(store, "", FileEntry(path="a", size=1, sha256=Digest.of(b"1")))


def push_layers(settings: StepSettings, tmp_path: Path, arriving: str = NAME) -> tuple[dict[str, float], str]:
    """The step's metrics, and what it said."""
    said = io.StringIO()
    request = StepRequest(
        step=Step.PUSH,
        run="test",
        parameters=PushParameters(action="push-layers", target=f"oci:{tmp_path}/car").dump(),
        options=PushOptions(arriving=arriving).dump(),
    )
    context = Context(settings, Reporter(said, structured=True), tmp_path, tmp_path / "result.json")
    return work(request, context).metrics, said.getvalue()


def test_layers_are_pushed_as_their_shards_come(store: Store, settings: StepSettings, tmp_path: Path) -> None:
    """The second comes only when the first layer is there; nothing is visible; pushed again, nothing is sent."""
    first, second = (shard(store, name, name.encode() * 1000) for name in ("a.safetensors", "b.safetensors"))
    with open_repository(f"oci:{tmp_path}/car", settings) as repository:
        with ShardFeed(store, NAME):
            publish(store, NAME, first)
            pushing = InBackground(lambda: push_layers(settings, tmp_path))
            until(lambda: repository.blob_size(first.layer or first.sha256), "the first layer is there")
            publish(store, NAME, second)
            publish(store, NAME, FileEntry(path="small", size=1, sha256=store.put_bytes(b"1")))  # without a layer
        assert pushing.end() is None
        assert repository.blob_size(second.layer or second.sha256)
        assert repository.tags() == ()
    assert not (tmp_path / "car/index.json").exists()
    metrics, said = push_layers(settings, tmp_path)
    assert metrics == {"pushed_bytes": 0, "layers": 2}
    assert "0 layers sent ahead, 2 were already there" in said


def test_a_layer_that_cannot_be_sent_ends_the_step(store: Store, settings: StepSettings, tmp_path: Path) -> None:
    """At the next shard, not at the end of the quantization."""
    gone = shard(store, "a.safetensors", b"a" * 1000)
    store.discard_blob(gone.sha256)
    with ShardFeed(store, NAME):
        publish(store, NAME, gone)
        pushing = InBackground(lambda: push_layers(settings, tmp_path))
        until((tmp_path / "car").exists, "the first layer is tried")
        for at in range(100):
            publish(store, NAME, FileEntry(path=f"small-{at}", size=1, sha256=Digest.of(b"1")))
            if pushing.error is not None:
                break
            threading.Event().wait(0.1)
        assert isinstance(pushing.end(), BadInput)


def test_the_step_needs_to_know_the_feed(settings: StepSettings, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="arriving"):
        push_layers(settings, tmp_path, arriving="")
