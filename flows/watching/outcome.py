"""What a run of quantize-and-ship records for the watcher: that it started, what it shipped, or why it failed."""

from __future__ import annotations

import logging
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from containers.errors import Error
from containers.parameters import BASES
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

_MESSAGE = 500  # characters of a stored error message
_SAME_EVENT = timedelta(minutes=10)  # two runs of one event start within this


def claim(runtime: Runtime, request: ShipRequest) -> str:
    """Record that this run builds the announced change. Returns the reason if another run already does, else "".

    Prefect may start two runs for one event: with its SQLite locked, it repeats the action a minute later.
    """
    if not request.change:
        return ""
    with _logging_errors():
        store, run = runtime.store, runtime.run
        known = records.read_attempt(store, _product(request))
        if known is not None and known.change == request.change and known.run not in {"", run} and _taken(known):
            return f"run {known.run} has already {known.state} this change"
        started = Attempt(change=request.change, state="started", at=datetime.now(UTC), run=run)
        records.update_attempt(store, _product(request), started)
    return ""


def _taken(known: Attempt) -> bool:
    """Whether another run has shipped the change, or started on it a moment ago."""
    moment_ago = abs(datetime.now(UTC) - known.at) < _SAME_EVENT  # by the clock of whichever machine runs it
    return known.state == "shipped" or (known.state == "started" and moment_ago)


def record_shipment(runtime: Runtime, request: ShipRequest, shipped: Shipped) -> None:
    """Record what was promoted: the next scan compares with it, however the run was started."""
    with _logging_errors():
        on_image = request.base not in BASES
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
            else changes.built_in_base(request.base),
            tools=changes.tools_now(request.suite),
            shipped=datetime.now(UTC),
            run=runtime.run,
            artifacts=shipped.artifacts,
        )
        records.write_shipped(runtime.store, record)
        if request.change:
            done = Attempt(change=request.change, state="shipped", at=record.shipped, run=runtime.run)
            records.update_attempt(runtime.store, _product(request), done)


def record_failure(flow: Flow[..., Any], flow_run: FlowRun, state: State[Any]) -> None:
    """Flow hook: record that an announced change failed, so that it is not announced again."""
    if not flow_run.parameters.get("change"):
        return
    with _logging_errors():
        request = ShipRequest.model_construct(**flow_run.parameters)  # invalid parameters make a run fail, too
        error = state.result(raise_on_failure=False)
        failed = Attempt(
            change=request.change,
            state="failed",
            at=datetime.now(UTC),
            run=str(flow_run.id),
            message=(error.message if isinstance(error, Error) else state.message or "")[:_MESSAGE],
            temporary=state.is_crashed() or bool(getattr(error, "temporary", False)),
        )
        records.update_attempt(current().store, _product(request), failed)


def _product(request: ShipRequest) -> str:
    return records.product(_repository(request), request.scheme, request.to)


def _repository(request: ShipRequest) -> str:
    """The model without its revision."""
    return request.model.partition("@")[0]


@contextmanager
def _logging_errors() -> Iterator[None]:
    """Log an error instead of raising it: a missing record must not fail a run."""
    try:
        yield
    except Error as error:
        logging.getLogger(__name__).warning("this run could not be recorded for the watcher: %s", error.message)
