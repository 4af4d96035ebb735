"""How patient the download is, and who says so."""

from __future__ import annotations

import pytest

from containers.download.retries import ATTEMPTS, Busy, retrying
from containers.errors import BadInput, Temporary
from containers.hub_http import retry_after


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"Retry-After": "7"}, 7.0),
        ({"Retry-After": "Wed, 21 Oct 2026 07:28:00 GMT"}, None),
        ({"RateLimit": '"api";r=0;t=55', "Retry-After": "7"}, 55.0),
        ({"RateLimit": '"api";r=12;t=55'}, None),
    ],
)
def test_how_long_the_hub_asks_to_wait(headers: dict[str, str], seconds: float | None) -> None:
    """Its RateLimit header when nothing is left, else Retry-After in seconds."""
    assert retry_after(headers) == seconds


def failing(error: Exception, times: int) -> tuple[list[int], object]:
    calls: list[int] = []

    def call() -> str:
        calls.append(1)
        if len(calls) <= times:
            raise error
        return "done"

    return calls, call


def test_what_passes_is_tried_again() -> None:
    waits: list[float] = []
    calls, call = failing(Temporary("away"), 2)
    assert retrying(print, waits.append)(call) == "done"
    assert len(calls) == 3
    assert len(waits) == 2


def test_it_gives_up() -> None:
    """With the last error itself, not with one of the retrying library."""
    calls, call = failing(Temporary("away"), 99)
    with pytest.raises(Temporary, match="away"):
        retrying(print, lambda _: None)(call)
    assert len(calls) == ATTEMPTS


def test_bad_input_is_not_tried_again() -> None:
    calls, call = failing(BadInput("no such model"), 99)
    with pytest.raises(BadInput):
        retrying(print, lambda _: None)(call)
    assert len(calls) == 1


def test_a_wait_that_was_asked_for_is_kept_and_told() -> None:
    waits: list[float] = []
    said: list[str] = []
    _, call = failing(Busy("the hub is busy", after=42), 1)
    retrying(said.append, waits.append)(call)
    assert waits == [42]
    assert said == ["the hub is busy: retrying in 42 s"]


def test_who_asks_for_too_much_is_answered_with_the_error() -> None:
    """An hour is for the flow to wait, not for a step that holds a machine."""
    calls, call = failing(Busy("the hub is busy", after=3600), 1)
    with pytest.raises(Busy):
        retrying(print, lambda _: None)(call)
    assert len(calls) == 1


def test_waiting_can_be_ended() -> None:
    """What `sleep` raises leaves at once."""

    def stop(_: float) -> None:
        raise KeyboardInterrupt

    calls, call = failing(Temporary("away"), 99)
    with pytest.raises(KeyboardInterrupt):
        retrying(print, stop)(call)
    assert len(calls) == 1
