"""Signs of life through a store: what each side concludes from the other's."""

from __future__ import annotations

import time

import pytest

from containers.errors import Temporary
from containers.events import Event
from flows.orchestrator.heartbeat import Heartbeat, HeartbeatWatch


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
    """Every sign is another one, so that the watcher needs no clock of the other side."""
    watch = HeartbeatWatch(keys, "k")
    assert watch.look() is None
    with Heartbeat(keys, "k", 0.02) as pulse:
        pulse.progress(Event(event="progress", task="quantize", done=5, total=10))
        deadline = time.monotonic() + 10
        while (sign := watch.look()) is None or sign.beat < 3:
            assert time.monotonic() < deadline
        assert sign.word == "on"
        assert sign.progress is not None
        assert sign.progress.done == 5
    watch.look()
    before = watch.silence
    time.sleep(0.1)
    watch.look()
    assert watch.silence > before
    watch.restart()
    assert watch.silence < before + 0.1


def test_a_word_is_written_at_once_and_stays(keys):
    """Also when the beat goes on after it."""
    watch = HeartbeatWatch(keys, "k")
    with Heartbeat(keys, "k", 60) as pulse:
        pulse.say("end")
        assert watch.look().word == "end"
        pulse.write()
        assert watch.look().word == "end"


def test_a_store_that_is_away_is_no_sign_and_no_error(keys):
    """The last sign stays what it was, the silence grows, and the pulse goes on when the store is back."""
    with Heartbeat(keys, "k", 0.02):
        watch = HeartbeatWatch(keys, "k")
        assert watch.look() is not None
        keys.down = True
        seen = watch.look()
        time.sleep(0.1)
        assert watch.look() == seen
        assert watch.silence >= 0.1
        keys.down = False
        deadline = time.monotonic() + 10
        while watch.look() == seen:
            assert time.monotonic() < deadline


def test_nonsense_under_the_key_is_no_sign(keys):
    """Somebody else's bytes, or half of them."""
    keys.values["k"] = b"{"
    assert HeartbeatWatch(keys, "k").look() is None
