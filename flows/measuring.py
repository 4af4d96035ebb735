"""How a subject is measured, by the flow and by the command line: it is served only while its measurement is not known."""

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
    anew: bool = False,
) -> tuple[T, Lease | None]:
    """What `run` returns for the measurement, and the lease of what was served for it.

    `run` answers a request that the store has a measurement for without an endpoint. `serve` serves the subject for the
    length of its block; with `anew` it is served whatever the store has.
    """
    subject = subject.fitting(suite)
    lookup = requests.measure(subject, suite)
    if not anew and store.find(Kind.MEASUREMENT, fingerprint(lookup)) is not None:
        return run(lookup), None
    with serve(subject) as lease:
        return run(requests.measure(subject, suite, lease.endpoint)), lease
