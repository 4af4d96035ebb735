"""What a run says that fails because the Prefect server of its own command has ended."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from containers.errors import BadInput, Interrupted, NotReady
from flows.local import ship

AWAY = NotReady("the Prefect server cannot be reached", remedy="check PREFECT_API_URL", doctor="prefect")
OTHER = BadInput("there is no such model", doctor="hub")


@pytest.mark.parametrize("error", [AWAY, httpx.ConnectError("refused"), RuntimeError("a bug")])
def test_it_names_the_server_that_ended(error: Exception) -> None:
    """No setting leads to it, so there is none to be checked."""
    server: Any = SimpleNamespace(child=SimpleNamespace(poll=lambda: -9, log_file="prefect.log"))
    told: Any = ship._told(error, server)
    assert (told.exit_code, "has ended while it ran" in str(told), "prefect.log" in str(told)) == (75, True, True)
    server.child.poll = lambda: None
    assert ship._told(error, server) is error


@pytest.mark.parametrize("error", [OTHER, Interrupted("stopped"), KeyboardInterrupt()])
def test_what_has_another_cause_stays(error: BaseException) -> None:
    server: Any = SimpleNamespace(child=SimpleNamespace(poll=lambda: -9, log_file="prefect.log"))
    assert ship._told(error, server) is error


def test_it_is_said_when_the_server_ends_and_not_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """Prefect's client asks for minutes before the run itself ends of it."""
    monkeypatch.setattr(ship, "_LOOK", 0.001)
    codes = iter([None, None, -9])
    looked, said = threading.Event(), []
    server: Any = SimpleNamespace(child=SimpleNamespace(poll=lambda: next(codes), log_file="prefect.log"))

    def log(text: str) -> None:
        said.append(text)
        looked.set()

    with ship._watched(server, log):
        assert looked.wait(30)
    assert len(said) == 1
    assert "has ended (code -9; its log is prefect.log)" in said[0]


def test_nothing_is_said_of_a_server_that_lives(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ship, "_LOOK", 0.001)
    looks = threading.Semaphore(0)
    server: Any = SimpleNamespace(child=SimpleNamespace(poll=looks.release, log_file="prefect.log"))
    said: list[str] = []
    with ship._watched(server, said.append):
        for _ in range(3):
            assert looks.acquire(timeout=30)
    assert said == []
