"""A child run: what one that serves tells others about where it can be reached, and when it ends."""

from __future__ import annotations

import json
import time

import pytest

from containers.errors import Interrupted
from containers.parameters import Endpoint
from flows.run_step import advertised, ended_with_parent


@pytest.mark.parametrize(
    ("url", "host", "told"),
    [
        ("http://127.0.0.1:8000/v1", "", "http://127.0.0.1:8000/v1"),
        ("http://127.0.0.1:8000/v1", "gpu-7", "http://gpu-7:8000/v1"),
        ("http://0.0.0.0:41234/v1", "10.0.0.7", "http://10.0.0.7:41234/v1"),
        ("http://carwright-serve-1:8000/v1", "gpu-7", "http://carwright-serve-1:8000/v1"),
    ],
)
def test_theadvertised_name_takes_the_place_of_this_machine(url, host, told):
    """A name that is not this machine's own, as of a container in a network of the engine's, stays."""
    endpoint = Endpoint(url=url, served_model_name="m", server="vllm")
    assert advertised(endpoint, host).url == told


class Keys:
    """A store's key of the parent's heartbeats."""

    def __init__(self, word: str) -> None:
        self.beat = 0
        self.say(word)

    def say(self, word: str) -> None:
        self.beat += 1
        self.content = json.dumps({"beat": self.beat, "word": word}).encode()

    def read_key(self, key: str) -> bytes:
        return self.content


def test_a_silent_parent_ends_it():
    """Its last word was to go on."""
    with pytest.raises(Interrupted, match="no heartbeat"), ended_with_parent(Keys("on"), "key", 0.1, 0.02):
        time.sleep(10)


def test_what_is_kept_outlives_its_parent_until_it_is_told_to_end():
    """By whoever writes in the parent's place."""
    keys = Keys("keep")
    served = []

    def serve():
        time.sleep(0.5)
        served.append("in silence")
        keys.say("end")
        time.sleep(10)

    with pytest.raises(Interrupted, match="ended this run"), ended_with_parent(keys, "key", 0.1, 0.02):
        serve()
    assert served
