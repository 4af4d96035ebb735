"""Signs of life through a store: what each side concludes from the other's."""

from __future__ import annotations

import threading
import time

import pytest

from containers.errors import Temporary
from containers.events import Event
from containers.heartbeat import Renewal
from flows.orchestrator.heartbeat import Heartbeat, HeartbeatWatch
from tests.support.waiting import until


class Keys:
    """A store's keys; `down` makes it unreachable."""

    def __init__(self) -> None:
        self.values: dict[str, bytes] = {}
        self.down = False

    def write_key(self, key: str, content: bytes) -> None:
        if self.down:
            raise Temporary("the store cannot be reached")
        self.values[key] = content

    def read_key(self, key: str) -> bytes:
        if self.down:
            raise Temporary("the store cannot be reached")
        return self.values[key]


@pytest.fixture
def keys() -> Keys:
    return Keys()


def test_signs_are_seen_and_their_end_is_silence(keys):
    """No two heartbeats are equal, so that the watcher needs no clock of the other side."""
    watch = HeartbeatWatch(keys, "k")
    assert watch.read() is None
    with Heartbeat(keys, "k", 0.02) as heartbeat:
        heartbeat.progress(Event(event="progress", task="quantize", done=5, total=10))
        last = until(lambda: (seen := watch.read()) is not None and seen.beat >= 3 and seen.progress and seen)
        assert last.command == "on"
        assert last.progress is not None
        assert last.progress.done == 5
    watch.read()
    before = watch.silence
    time.sleep(0.1)
    watch.read()
    assert watch.silence > before
    watch.restart()
    assert watch.silence < before + 0.1


def test_a_word_is_written_at_once_and_stays(keys):
    """Also when the beat goes on after it."""
    watch = HeartbeatWatch(keys, "k")
    with Heartbeat(keys, "k", 60) as heartbeat:
        heartbeat.send("end")
        assert watch.read().command == "end"
        heartbeat.write()
        assert watch.read().command == "end"


def test_a_store_that_is_away_is_no_sign_and_no_error(keys):
    """The last heartbeat stays what it was, the silence grows, and the heartbeat goes on when the store is back."""
    with Heartbeat(keys, "k", 0.02):
        watch = HeartbeatWatch(keys, "k")
        assert watch.read() is not None
        keys.down = True
        seen = watch.read()
        time.sleep(0.1)
        assert watch.read() == seen
        assert watch.silence >= 0.1
        keys.down = False
        until(lambda: watch.read() != seen)


def test_a_renewal_under_way_is_waited_for():
    """Whoever stops it may rely on it: no late renewal takes back what comes after. One that fails is passed over."""
    begun, again, go_on, done = threading.Event(), threading.Event(), threading.Event(), []

    def renew():
        if not begun.is_set():
            begun.set()
            raise Temporary("the engine is away")
        again.set()
        go_on.wait(10)
        done.append(1)

    renewal = Renewal(renew, 0.01, "test").start()
    assert again.wait(10)
    threading.Timer(0.2, go_on.set).start()
    renewal.stop(None)
    assert done == [1]
    renewal.stop()
    time.sleep(0.1)
    assert done == [1]


def test_nonsense_under_the_key_is_no_sign(keys):
    """Somebody else's bytes, or half of them."""
    keys.values["k"] = b"{"
    assert HeartbeatWatch(keys, "k").read() is None
