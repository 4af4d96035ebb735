"""Measures a subject, for the flow and the command line. It is served only if the store has no measurement of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from containers.contract import Kind
from flows.requests import fingerprint

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from containers.contract import StepRequest
    from containers.store import Store
    from flows.requests import Requests, Subject
    from flows.runners.service import Lease

T = TypeVar("T")


def measure(
    subject: Subject,
    suite: str,
    *,
    requests: Requests,
    store: Store,
    run: Callable[[StepRequest], T],
    serve: Callable[[Subject], AbstractContextManager[Lease]],
    always_serve: bool = False,
) -> tuple[T, Lease | None]:
    """The result of `run` for the measurement, and the lease of the served model, if one was needed.

    `serve` serves the subject for the length of its block. With `always_serve` it is served even if the store has a
    measurement; otherwise `run` gets a request without an endpoint, which the store answers.
    """
    subject = subject.fitting(suite)
    lookup = requests.measure(subject, suite)
    if not always_serve and store.find(Kind.MEASUREMENT, fingerprint(lookup)) is not None:
        return run(lookup), None
    with serve(subject) as lease:
        return run(requests.measure(subject, suite, lease.endpoint)), lease
