"""Scans the watched models and announces changes as events; a trigger of quantize-and-ship starts a run for each event.

One change of one product (a model, a scheme, a target) is one event, and one event starts one run. The announcement is
recorded before the event is sent, so that no later scan repeats it; `flows.watching.decide` has the exceptions. Events are
sent in small batches, each after the runs of the one before were seen: a Prefect server on SQLite that gets twenty-five at
once starts some runs late or never ("database is locked").
"""

from __future__ import annotations

import time
from collections import Counter
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from uuid import NAMESPACE_URL, uuid5

from prefect import flow
from prefect.artifacts import create_table_artifact
from prefect.client.schemas.actions import DeploymentScheduleCreate
from prefect.client.schemas.filters import (
    FlowFilter,
    FlowFilterName,
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import StateType
from prefect.client.schemas.schedules import IntervalSchedule
from prefect.events import emit_event
from prefect.events.worker import should_emit_events
from prefect.logging import get_run_logger
from prefect.states import Completed

from containers.errors import Temporary
from flows.orchestrator.child_runs import api, find_deployment
from flows.runtime import current
from flows.watching import records
from flows.watching.decide import decide
from flows.watching.models import load
from flows.watching.records import Attempt
from flows.watching.scan import scan
from flows.watching.view import plan_rows

if TYPE_CHECKING:
    from collections.abc import Sequence

    from prefect.client.schemas.objects import State

    from containers.store import Store
    from flows.watching.scan import ModelState

DEPLOYMENT: Final = "watch-releases/hourly"
EVENT: Final = "carwright.model.changed"
_BATCH: Final = 5  # announcements sent at once
_BATCH_TIMEOUT: Final = 20.0  # seconds until every change of a batch must have a run
_PAGE: Final = 200  # flow runs in one answer, the most that the server gives
_ACTIVE: Final = [
    StateType.SCHEDULED, StateType.PENDING, StateType.RUNNING, StateType.PAUSED, StateType.CANCELLING,
]  # fmt: skip


@flow(name="watch-releases", persist_result=False, validate_parameters=False)
def watch_releases(models: str = "", force: tuple[str, ...] = ()) -> State[Any]:
    """Scan once. `models` is a path, by default the setting; `force` names entries whose change is announced again.

    A model that cannot be checked does not fail the run: the run logs it and nothing is rebuilt for it. Raises BadInput
    for an invalid models.yaml, and Temporary if there are changes and no Prefect server to send events to.
    """
    now = current()
    states = scan(load(Path(models) if models else now.settings.watch.models), now.settings, now.store)
    log = get_run_logger()
    active = changes_with_an_active_run()
    did: Counter[str] = Counter()
    news: list[ModelState] = []
    for one in states:
        decision = decide(one, active, now.settings, force=one.entry.name in force)
        did[decision.what] += 1
        if decision.what == "announced":
            news.append(one)
            log.info("%s", one.reason)
        elif one.problem:
            log.warning("%s: %s; nothing is rebuilt for it", one.entry.name, one.problem)
        for text in filter(None, (decision.why, *one.notes)):
            log.info("%s: %s", one.entry.name, text)
    create_table_artifact(key="watched", table=plan_rows(states), description="State of the watched models")
    if without_run := announce_all(news, now.store):
        log.warning(
            "%d announcements started no run: is the trigger deployed and enabled? They are repeated after %g s at the "
            "earliest",
            without_run,
            now.settings.watch.lost_after,
        )
    message = ", ".join(f"{number} {what}" for what, number in sorted(did.items())) or "nothing to watch"
    return Completed(message=message)


def reschedule(seconds: float) -> None:
    """Set the interval of the deployment. Raises BadInput if it does not exist."""
    schedule = IntervalSchedule(interval=timedelta(seconds=seconds))
    with api() as client:
        hourly = find_deployment(client, DEPLOYMENT)
        for known in client.read_deployment_schedules(hourly.id):
            client.delete_deployment_schedule(hourly.id, known.id)
        client.create_deployment_schedules(hourly.id, [DeploymentScheduleCreate(schedule=schedule, active=True)])


def announce_all(news: Sequence[ModelState], store: Store) -> int:
    """Announce in batches, each when the one before has its runs or timed out; returns how many changes have no run.

    If no change of the first batch gets a run, no trigger is active, and the rest is left for a later scan.
    """
    without_run = 0
    for start in range(0, len(news), _BATCH):
        batch = news[start : start + _BATCH]
        for one in batch:
            announce(one, store)
        left = len(_without_a_run(batch, store))
        if start == 0 and left == len(batch):
            return len(news)
        without_run += left
    return without_run


def announce(state: ModelState, store: Store) -> None:
    """Record the announcement and emit the event; raises Temporary if there is no server to send it to."""
    assert state.wanted is not None
    if not should_emit_events():
        raise Temporary("there is no Prefect server to send events to", remedy="set PREFECT_API_URL")
    change = state.wanted.fingerprint
    times = state.attempt.count + 1 if state.attempt is not None and state.announced_before else 1
    announced = Attempt(change=change, state="announced", at=datetime.now(UTC), count=times)
    records.write_attempt(store, state.product, announced)
    emit_event(
        event=EVENT,
        id=uuid5(NAMESPACE_URL, f"carwright:{change}:{times}"),  # can be derived from the records
        resource={
            "prefect.resource.id": f"carwright.model.{state.entry.name}",
            "prefect.resource.name": state.entry.name,
            "carwright.deployment": state.entry.deployment,
        },
        payload={
            "reason": state.reason,
            "changes": [change.model_dump(mode="json") for change in state.changes],
            "reruns": list(state.reruns),
            "parameters": state.wanted.request(state.entry, state.reason).dump(),
        },
    )


def _without_a_run(batch: Sequence[ModelState], store: Store) -> Sequence[ModelState]:
    """Those whose announcement started no run in time; a run that has already ended counts."""
    deadline = time.monotonic() + _BATCH_TIMEOUT
    while batch and time.monotonic() < deadline:
        time.sleep(0.3)
        active = changes_with_an_active_run()
        batch = [one for one in batch if one.wanted is not None and one.wanted.fingerprint not in active]
    tried = [(one, records.read_attempt(store, one.product)) for one in batch]
    return [one for one, attempt in tried if attempt is None or attempt.state == "announced"]


def changes_with_an_active_run() -> frozenset[str]:
    """The fingerprints of all changes with a scheduled or running run of quantize-and-ship."""
    found: set[str] = set()
    states = FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=_ACTIVE)))
    with api() as client:
        for start in count(step=_PAGE):
            page = client.read_flow_runs(
                flow_filter=FlowFilter(name=FlowFilterName(any_=["quantize-and-ship"])),
                flow_run_filter=states,
                limit=_PAGE,
                offset=start,
            )
            found |= {str(run.parameters.get("change", "")) for run in page}
            if len(page) < _PAGE:
                break
    return frozenset(found)
