"""A run whose own Prefect server ends: it is started again, and what a run says that fails of it."""

from __future__ import annotations

import errno
import os
import threading
from typing import Any

import httpx
import pytest
from prefect.exceptions import CrashedRun

from containers.errors import BadInput, Interrupted, NotReady
from flows.local import embedded, ship

AWAY = NotReady("the Prefect server cannot be reached", remedy="check PREFECT_API_URL", doctor="prefect")
OTHER = BadInput("there is no such model", doctor="hub")


class Child:
    """Of a server that ends with these codes one after the other; None is a look at one that lives."""

    log_file = "prefect.log"

    def __init__(self, *codes: int | None) -> None:
        self._codes, self.starts, self.looked = list(codes), 0, threading.Event()

    def poll(self) -> int | None:
        if len(self._codes) > 1:
            return self._codes.pop(0)
        self.looked.set()
        return self._codes[0]

    def start(self) -> None:
        self.starts += 1


def server(*codes: int | None, endings: tuple[int, ...] = ()) -> Any:
    child: Any = Child(*codes)
    return embedded.PrefectServer(child, "http://127.0.0.1:1", "me:secret", list(endings))


@pytest.mark.parametrize("error", [AWAY, httpx.ConnectError("refused"), RuntimeError("a bug")])
def test_it_names_the_server_that_ended(error: Exception) -> None:
    """No setting leads to it, so there is none to be checked."""
    told: Any = ship._told(error, server(-9))
    assert (told.exit_code, "has ended while it ran" in str(told), "prefect.log" in str(told)) == (75, True, True)
    assert ship._told(error, server(None)) is error


@pytest.mark.parametrize("error", [AWAY, httpx.ReadError("reset"), CrashedRun("of a task")])
def test_it_names_the_server_that_was_started_again(error: Exception) -> None:
    told: Any = ship._told(error, server(None, endings=(-9,)))
    assert (told.exit_code, "has ended while it ran" in str(told)) == (75, True)


@pytest.mark.parametrize("error", [OTHER, Interrupted("stopped"), KeyboardInterrupt()])
def test_what_has_another_cause_stays(error: BaseException) -> None:
    assert ship._told(error, server(-9)) is error
    assert ship._told(error, server(None, endings=(-9,))) is error


def test_a_bug_beside_a_server_that_was_started_again_stays_a_bug() -> None:
    bug = RuntimeError("a bug")
    assert ship._told(bug, server(None, endings=(-9,))) is bug


@pytest.fixture(autouse=True)
def _often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "_LOOK", 0.001)


def test_a_server_that_ends_is_started_again() -> None:
    """Prefect's clients ask again, so the run goes on."""
    said: list[str] = []
    kept = server(None, -9, None, 0, None)
    with kept.kept(said.append):
        assert kept.child.looked.wait(30)
    assert (kept.child.starts, kept.endings) == (2, [-9, 0])
    assert ["started again" in line for line in said] == [True, True]
    assert "has ended (code -9; its log is prefect.log)" in said[0]


def test_one_that_ends_again_and_again_stays_away() -> None:
    said: list[str] = []
    kept = server(1, 1, 1, 1, None)
    with kept.kept(said.append):
        for _ in range(30_000):
            if len(said) > embedded._RESTARTS:
                break
            threading.Event().wait(0.001)
    assert (kept.child.starts, len(said)) == (embedded._RESTARTS, embedded._RESTARTS + 1)
    assert "the run ends, too" in said[-1]


def test_one_that_cannot_be_started_again_is_said_to_be(monkeypatch: pytest.MonkeyPatch) -> None:
    """What ended the first, too little memory for one, may keep the second from starting."""

    def no_memory() -> None:
        raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))

    told, kept = threading.Event(), server(-9, None)
    said: list[str] = []

    def say(text: str) -> None:
        said.append(text)
        if len(said) == 2:
            told.set()

    monkeypatch.setattr(kept.child, "start", no_memory)
    with kept.kept(say):
        assert told.wait(30)
    assert said[1] == "the Prefect server cannot be started again: [Errno 12] Cannot allocate memory"


def test_nothing_is_done_to_a_server_that_lives() -> None:
    said: list[str] = []
    kept = server(None)
    with kept.kept(said.append):
        assert kept.child.looked.wait(30)
    assert (kept.child.starts, kept.endings, said) == (0, [], [])
