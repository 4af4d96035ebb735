"""How often and when a source is asked again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, wait_exponential, wait_random

from containers.errors import Temporary

if TYPE_CHECKING:
    from collections.abc import Callable

    from tenacity import RetryCallState
    from tenacity.wait import wait_base

ATTEMPTS: Final = 5
FIRST_WAIT: Final = 0.5  # seconds; doubled each time
_LONGEST: Final = 60.0  # seconds: whoever asks for more is answered with an error, and the flow tries again later


class Busy(Temporary):
    """The source asked for patience: `after` seconds, where it said how long."""

    def __init__(self, message: str, *, remedy: str = "", after: float | None = None) -> None:
        super().__init__(message, remedy=remedy)
        self.after = after


def retrying(sleep: Callable[[float], object] | None = None) -> Retrying:
    """Calls what it is given up to `ATTEMPTS` times while it raises Temporary; `sleep` may raise to end the waiting."""
    options = {} if sleep is None else {"sleep": sleep}
    return Retrying(
        stop=_stop,
        wait=_wait,
        retry=retry_if_exception_type(Temporary),
        reraise=True,
        **options,  # type: ignore[arg-type]
    )


def _stop(state: RetryCallState) -> bool:
    return stop_after_attempt(ATTEMPTS)(state) or (_asked(state) or 0) > _LONGEST


def _wait(state: RetryCallState) -> float:
    asked = _asked(state)
    return asked if asked is not None else _growing()(state)


def _growing() -> wait_base:
    return wait_exponential(multiplier=FIRST_WAIT, max=8) + wait_random(0, FIRST_WAIT)


def _asked(state: RetryCallState) -> float | None:
    error = state.outcome.exception() if state.outcome is not None else None
    return error.after if isinstance(error, Busy) else None
