"""What a run of quantize-and-ship leaves for the watcher: that it began, what it shipped, or why it failed."""

from __future__ import annotations

import logging
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from containers.errors import Error
from flows.runtime import current
from flows.watching import changes, records
from flows.watching.records import Attempt, ShipRecord
from flows.watching.scan import base_digest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from prefect.client.schemas.objects import FlowRun, State
    from prefect.flows import Flow

    from flows.release.summary import Shipped

_MESSAGE = 500  # characters of an error that are kept
_TWICE = timedelta(minutes=10)  # two answers to one event lie no further apart


def began(model: str, scheme: str, to: str, change: str) -> str:
    """The announced change has a run now. Returns what is to be said when another run has it already, else "".

    Prefect may answer one event twice (its SQLite was locked, and the action is repeated a minute later).
    """
    if not change:
        return ""
    with _never_failing():
        now = current()
        known = records.attempt(now.store, _product(model, scheme, to))
        if known is not None and known.change == change and known.run not in {"", now.run} and _owned(known):
            return f"run {known.run} has {known.state} this very change"
        _note(model, scheme, to, Attempt(change=change, state="started", at=datetime.now(UTC), run=now.run))
    return ""


def _owned(known: Attempt) -> bool:
    """Whether a second run of the change has nothing to do: the first shipped it, or began a moment ago."""
    return known.state == "shipped" or (known.state == "started" and datetime.now(UTC) - known.at < _TWICE)


def remember(
    shipped: Shipped, *, model: str, revision: str | None, to: str, base: str, suite: str, change: str
) -> None:
    """What was promoted is what the next look compares with, whoever started the run."""
    now = current()
    with _never_failing():
        on_image = base not in {"busybox", "none"}
        record = ShipRecord(
            model=model.partition("@")[0],
            scheme=shipped.scheme,
            to=to,
            suite=suite,
            commit=shipped.commit,
            revision=revision,
            reference=shipped.reference,
            digest=shipped.digest,
            tags=shipped.tags,
            decision=shipped.verdict.decision,
            measures=shipped.verdict.measures,
            base=base,
            base_digest=base_digest(shipped.reference, now.settings) if on_image else changes.made_here(base),
            tools=changes.tools_now(suite),
            shipped=datetime.now(UTC),
            run=now.run,
            reason=shipped.reason,
        )
        records.write_shipped(now.store, record)
        if change:
            done = Attempt(change=change, state="shipped", at=record.shipped, run=now.run)
            _note(model, shipped.scheme, to, done)


def note_failure(flow: Flow[..., Any], flow_run: FlowRun, state: State[Any]) -> None:
    """A hook of the flow: an announced change that failed is known as that, and is not announced again."""
    given = {"scheme": "FP8_DYNAMIC", "to": "", "change": ""} | flow_run.parameters
    if not given["change"]:
        return
    with _never_failing():
        error = state.result(raise_on_failure=False)
        failed = Attempt(
            change=given["change"],
            state="failed",
            at=datetime.now(UTC),
            run=str(flow_run.id),
            message=(error.message if isinstance(error, Error) else state.message or "")[:_MESSAGE],
            temporary=state.is_crashed() or bool(getattr(error, "temporary", False)),
        )
        _note(given["model"], given["scheme"], given["to"], failed)


def _note(model: str, scheme: str, to: str, attempted: Attempt) -> None:
    records.note(current().store, _product(model, scheme, to), attempted)


def _product(model: str, scheme: str, to: str) -> str:
    return records.product(model.partition("@")[0], scheme, to)


@contextmanager
def _never_failing() -> Iterator[None]:
    """A word for the watcher that cannot be written costs a look that sees too little, never a run."""
    try:
        yield
    except Error as error:
        logging.getLogger(__name__).warning("the watcher was not told of this run: %s", error.message)
