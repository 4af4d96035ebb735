"""What deployments to one host share: waiting until a server is ready, and saying what was put back when it is not."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from containers.errors import BadInput, Error, NotReady
from containers.serve_health import health_url, is_healthy

if TYPE_CHECKING:
    from collections.abc import Callable

    from flows.targets.description import Deployment

PULL: Final = 4 * 3600.0  # seconds for the images, weights included
LAST_LINES: Final = 20  # lines of a container's log that an error carries
_POLL: Final = 1.0  # seconds


def wait(
    url: str, timeout: float, alive: Callable[[], bool], log: Callable[[], str], say: Callable[[str], None]
) -> None:
    """Until /health answers; raises, with the last lines, NotReady when the time is over and BadInput when it has ended."""
    deadline = time.monotonic() + timeout
    say(f"waiting for {health_url(url)}")
    while not is_healthy(url):
        if not alive():
            raise BadInput(f"vLLM ended before it was ready; its last lines:\n{_last(log())}")
        if time.monotonic() > deadline:
            raise NotReady(f"{url} was not ready after {timeout:.0f} s; the last lines:\n{_last(log())}")
        time.sleep(_POLL)


def _last(text: str) -> str:
    return "\n".join(text.splitlines()[-LAST_LINES:])


def reached(deployment: Deployment) -> str:
    return "127.0.0.1" if deployment.listen in ("0.0.0.0", "") else deployment.listen  # noqa: S104 -- compared, not bound


def since(started: float) -> float:
    return round(time.monotonic() - started, 1)


def note_rollback(error: BaseException, word: str) -> None:
    if isinstance(error, Error):
        error.message += f"\nrolled back: {word}"
