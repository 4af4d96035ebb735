"""Waiting for what another thread, process or server does: by looking at it, never by guessing how long it takes."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

PATIENCE = 100.0  # seconds: how long a slow machine may take; no test waits for it to pass


def until(look: Callable[[], T], what: str | Callable[[], object] = "", *, within: float = PATIENCE) -> T:
    """The first answer of `look` that is true. Fails after `within` seconds; `what` was waited for, or says what there is."""
    deadline = time.monotonic() + within
    while not (found := look()):
        assert time.monotonic() < deadline, f"waited in vain: {what() if callable(what) else what}"
        time.sleep(0.02)
    return found
