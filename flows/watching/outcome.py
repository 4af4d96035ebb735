"""What a run of quantize-and-ship leaves for the watcher: that it began, what it shipped, or why it failed."""

from __future__ import annotations

import logging
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from containers.errors import Error
from flows.runtime import current
from flows.ship_request import ShipRequest
from flows.watching import changes, records
from flows.watching.records import Attempt, ShipRecord
from flows.watching.scan import base_digest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from prefect.client.schemas.objects import FlowRun, State
    from prefect.flows import Flow

    from flows.release.summary import Shipped
    from flows.runtime import Runtime

_MESSAGE = 500  # characters of an error that are kept
_TWICE = timedelta(minutes=10)  # two answers to one event lie no further apart


def claim(runtime: Runtime, request: ShipRequest) -> str:
    """Record that the announced change has a run now. Returns why this run has nothing to do when another has it, else "".

    Prefect may answer one event twice (its SQLite was locked, and the action is repeated a minute later).
    """
    if not request.change:
        return ""
    with _never_failing():
        store, run = runtime.store, runtime.run
        known = records.attempt(store, _product(request))
        if known is not None and known.change == request.change and known.run not in {"", run} and _owned(known):
            return f"run {known.run} has {known.state} this very change"
        started = Attempt(change=request.change, state="started", at=datetime.now(UTC), run=run)
        records.note(store, _product(request), started)
    return ""


def _owned(known: Attempt) -> bool:
    """Whether a second run of the change has nothing to do: the first shipped it, or began a moment ago."""
    return known.state == "shipped" or (known.state == "started" and datetime.now(UTC) - known.at < _TWICE)


def record_shipment(runtime: Runtime, request: ShipRequest, shipped: Shipped) -> None:
    """What was promoted is what the next scan compares with, whoever started the run."""
    with _never_failing():
        on_image = request.base not in {"busybox", "none"}
        record = ShipRecord(
            **request.model_dump() | {"model": _repository(request)},
            commit=shipped.commit,
            reference=shipped.reference,
            digest=shipped.digest,
            tags=shipped.tags,
            decision=shipped.verdict.decision,
            measures=shipped.verdict.measures,
            base_digest=base_digest(shipped.reference, runtime.settings)
            if on_image
            else changes.made_here(request.base),
            tools=changes.tools_now(request.suite),
            shipped=datetime.now(UTC),
            run=runtime.run,
        )
        records.write_shipped(runtime.store, record)
        if request.change:
            done = Attempt(change=request.change, state="shipped", at=record.shipped, run=runtime.run)
            records.note(runtime.store, _product(request), done)


def note_failure(flow: Flow[..., Any], flow_run: FlowRun, state: State[Any]) -> None:
    """A hook of the flow: an announced change that failed is known as that, and is not announced again."""
    if not flow_run.parameters.get("change"):
        return
    with _never_failing():
        request = ShipRequest.model_construct(**flow_run.parameters)  # parameters that do not fit fail a run, too
        error = state.result(raise_on_failure=False)
        failed = Attempt(
            change=request.change,
            state="failed",
            at=datetime.now(UTC),
            run=str(flow_run.id),
            message=(error.message if isinstance(error, Error) else state.message or "")[:_MESSAGE],
            temporary=state.is_crashed() or bool(getattr(error, "temporary", False)),
        )
        records.note(current().store, _product(request), failed)


def _product(request: ShipRequest) -> str:
    return records.product(_repository(request), request.scheme, request.to)


def _repository(request: ShipRequest) -> str:
    """The model without the revision that may be part of it."""
    return request.model.partition("@")[0]


@contextmanager
def _never_failing() -> Iterator[None]:
    """A record that cannot be written costs a scan that sees too little, never a run."""
    try:
        yield
    except Error as error:
        logging.getLogger(__name__).warning("this run could not be recorded for the watcher: %s", error.message)
