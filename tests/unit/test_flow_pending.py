"""Work that is done beside other work of a run, or when its result is asked for."""

from __future__ import annotations

import threading
from contextvars import ContextVar

import pytest

from flows.orchestrator.pending import Pending

WHO: ContextVar[str] = ContextVar("who")


def test_it_waits_until_it_is_asked_for() -> None:
    did: list[str] = []
    pending = Pending(lambda: did.append("work") or "result")
    with pending.beginning(now=False):
        did.append("other")
        pending.ensure()
        pending.ensure()
        assert pending.result() == "result"
    assert did == ["other", "work"]
    assert not pending.beside


def test_it_goes_on_beside_the_block_in_the_callers_context() -> None:
    go = threading.Event()

    def work() -> str:
        assert go.wait(30)
        return WHO.get()

    WHO.set("the run")
    pending = Pending(work)
    with pending.beginning(now=True):
        pending.ensure()  # has begun: returns at once
        go.set()
        assert pending.result() == "the run"
    assert pending.beside


@pytest.mark.parametrize("now", [True, False])
def test_its_error_is_the_results(now: bool) -> None:
    def work() -> str:
        raise ValueError("no")

    pending = Pending(work)
    with pytest.raises(ValueError, match="no"), pending.beginning(now=now):
        pending.result()


def test_it_is_stopped_when_the_block_fails() -> None:
    """What it holds is ended, also what it gets only later."""
    begun, stopped, late = threading.Event(), threading.Event(), threading.Event()

    def work() -> None:
        pending.on_stop(stopped.set)
        begun.set()
        assert stopped.wait(30)
        pending.on_stop(late.set)

    def push() -> None:
        assert begun.wait(30)
        raise RuntimeError("push failed")

    pending = Pending(work)
    with pytest.raises(RuntimeError, match="push failed"), pending.beginning(now=True):
        push()
    assert stopped.is_set()
    assert late.is_set()
