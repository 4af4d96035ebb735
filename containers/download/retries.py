"""When and how often a request to a source is retried."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, wait_exponential, wait_random

from containers.errors import Error, Temporary
from containers.web.limits import TooSlow

if TYPE_CHECKING:
    from collections.abc import Callable

    from tenacity import RetryCallState
    from tenacity.wait import wait_base

ATTEMPTS: Final = 5
FIRST_WAIT: Final = 0.5  # seconds; doubled each time
_LONGEST: Final = 300.0  # seconds: the hub's rate limits count over five minutes; who asks for more gets an error
_NOTICED: Final = 2.0  # seconds


class Busy(Temporary):
    """The source asks clients to wait: `after` seconds, where it says how long."""

    def __init__(self, message: str, *, remedy: str = "", after: float | None = None) -> None:
        super().__init__(message, remedy=remedy)
        self.after = after


class NoRanges(Error):
    """The source cannot start in the middle of a file."""


class StartOver(Temporary):
    """The source does not go on from where a file was left: it is fetched again from its first byte."""


def retrying(say: Callable[[str], object], sleep: Callable[[float], None] = time.sleep) -> Retrying:
    """Calls a function up to `ATTEMPTS` times while it raises Temporary.

    `say` reports waits long enough to notice; `sleep` may raise to stop waiting.
    """

    def report_wait(state: RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome is not None else None
        if state.upcoming_sleep >= _NOTICED and isinstance(error, Temporary):
            say(f"{error.message}: retrying in {state.upcoming_sleep:.0f} s")

    return Retrying(
        stop=_stop,
        wait=_wait,
        retry=retry_if_exception_type(Temporary),
        before_sleep=report_wait,
        sleep=sleep,
        reraise=True,
    )


def _stop(state: RetryCallState) -> bool:
    error = state.outcome.exception() if state.outcome is not None else None
    # Who is too slow has had its time already.
    return stop_after_attempt(ATTEMPTS)(state) or (_retry_after(state) or 0) > _LONGEST or isinstance(error, TooSlow)


def _wait(state: RetryCallState) -> float:
    after = _retry_after(state)
    return after if after is not None else _backoff()(state)


def _backoff() -> wait_base:
    return wait_exponential(multiplier=FIRST_WAIT, max=8) + wait_random(0, FIRST_WAIT)


def _retry_after(state: RetryCallState) -> float | None:
    error = state.outcome.exception() if state.outcome is not None else None
    return error.after if isinstance(error, Busy) else None
