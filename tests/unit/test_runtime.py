"""The seconds in which steps were at work: those of two at once count a single time."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest

from flows import runtime as runtime_module
from flows.runtime import Runtime
from infra.settings import Settings


@dataclass
class Clock:
    now: float = 100.0


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(runtime_module, "time", SimpleNamespace(monotonic=lambda: clock.now))
    return clock


@pytest.fixture
def runtime() -> Runtime:
    none: Any = None
    return Runtime(Settings(), none, none, none, none, "run")


def test_blocks_after_each_other_count_each(runtime: Runtime, clock: Clock) -> None:
    for seconds in (2.0, 5.0):
        with runtime.working():
            clock.now += seconds
        clock.now += 1000
    assert runtime.worked == [2.0, 5.0]


def test_a_block_within_another_adds_nothing(runtime: Runtime, clock: Clock) -> None:
    with runtime.working():
        clock.now += 1
        with runtime.working():
            clock.now += 2
        clock.now += 4
    assert runtime.worked == [7.0]


def test_overlapping_blocks_count_from_the_first_begin_to_the_last_end(runtime: Runtime, clock: Clock) -> None:
    """The one that began first ends first, as a baseline beside a quantization does."""
    baseline, quantize = runtime.working(), runtime.working()
    baseline.__enter__()
    clock.now += 1
    quantize.__enter__()
    clock.now += 2
    baseline.__exit__(None, None, None)
    assert runtime.worked == []
    clock.now += 4
    quantize.__exit__(None, None, None)
    assert runtime.worked == [7.0]


def test_the_time_of_a_block_that_fails_counts(runtime: Runtime, clock: Clock) -> None:
    def fails() -> None:
        with runtime.working():
            clock.now += 3
            raise KeyError

    with pytest.raises(KeyError):
        fails()
    assert runtime.worked == [3.0]
