"""Measures a subject, for the flow and the command line. It is served only if the store has no measurement of it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final, TypeVar

from containers.contract import Kind
from containers.errors import Error
from containers.serve_health import is_healthy
from flows.requests import fingerprint

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from containers.contract import StepRequest
    from containers.store import Store
    from flows.requests import Requests, Subject
    from flows.runners.service import Lease

T = TypeVar("T")
_DYING: Final = 10.0  # seconds
_POLL: Final = 0.25  # seconds


def measure(
    subject: Subject,
    suite: str,
    *,
    requests: Requests,
    store: Store,
    run: Callable[[StepRequest], T],
    serve: Callable[[Subject], AbstractContextManager[Lease]],
    always_serve: bool = False,
    look: int = 0,
) -> tuple[T, Lease | None]:
    """The result of `run` for the measurement, and the lease of the served model, if one was needed.

    `serve` serves the subject for the length of its block. With `always_serve` it is served even if the store has a
    measurement; otherwise `run` gets a request without an endpoint, which the store answers. Raises the server's own error
    when it ends while it is measured. `look` is one after the first, in a suite with looks.
    """
    subject = subject.fitting(suite)
    lookup = requests.measure(subject, suite, look=look)
    if not always_serve and store.find(Kind.MEASUREMENT, fingerprint(lookup)) is not None:
        return run(lookup), None
    with serve(subject) as lease:
        try:
            return run(requests.measure(subject, suite, lease.endpoint, look=look)), lease
        except Error as error:
            if (why := _server_ended(lease, error)) is not None:
                raise why from error
            raise


def _server_ended(lease: Lease, error: Error) -> Error | None:
    """Why the server ended, which it knows better than who asked it; None if it goes on, or this is no matter of its.

    A server whose engine has died takes a while to end.
    """
    endpoint = lease.endpoint
    if not error.temporary or is_healthy(endpoint.published or endpoint.url):
        return None
    deadline = time.monotonic() + _DYING
    while lease.serves and time.monotonic() < deadline:
        time.sleep(_POLL)
    return None if lease.serves else lease.why_ended()
