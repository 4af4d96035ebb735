"""Looks at the watched models and announces what changed; a trigger of quantize-and-ship answers the announcement.

One change of one product (a model, a scheme, a target) is one event, and one event starts one run. What is announced is
written down before the event leaves, so that no later look announces it again; `flows.watching.decide` has the exceptions.
Announcements go out a few at a time, and are seen to have their runs before the next ones follow: a Prefect server on SQLite
that gets twenty-five at once answers some of them late or not at all ("database is locked").
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
from flows.orchestrator.child_runs import api, deployed
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
_BATCH: Final = 5  # announcements on their way at once
_PATIENCE: Final = 20.0  # seconds for a batch to have its runs
_PAGE: Final = 200  # flow runs in one answer, the most that the server gives
_LIVING: Final = [
    StateType.SCHEDULED, StateType.PENDING, StateType.RUNNING, StateType.PAUSED, StateType.CANCELLING,
]  # fmt: skip


@flow(name="watch-releases", persist_result=False, validate_parameters=False)
def watch_releases(models: str = "", force: tuple[str, ...] = ()) -> State[Any]:
    """Look once. `models` is a path, by default that of the settings; `force` names lines whose change is announced again.

    Ends well when something could not be looked at: its last state is kept, the run says so, and nothing is rebuilt for it.
    Raises BadInput for a models.yaml that does not fit, and Temporary when there are changes and no server takes events.
    """
    now = current()
    seen = scan(load(Path(models) if models else now.settings.watch.models), now.settings, now.store)
    log = get_run_logger()
    living = changes_with_a_run()
    did: Counter[str] = Counter()
    news: list[ModelState] = []
    for one in seen:
        decision = decide(one, living, now.settings, force=one.line.name in force)
        did[decision.what] += 1
        if decision.what == "announced":
            news.append(one)
            log.info("%s", one.reason)
        elif one.problem:
            log.warning("%s: %s; nothing is rebuilt for it", one.line.name, one.problem)
        for text in filter(None, (decision.why, *one.notes)):
            log.info("%s: %s", one.line.name, text)
    create_table_artifact(key="watched", table=plan_rows(seen), description="What was looked at")
    if unheard := announce_all(news, now.store):
        log.warning(
            "%d announcements started no run: is the trigger deployed, and switched on? They are repeated in %g s at the "
            "earliest",
            unheard,
            now.settings.watch.lost_after,
        )
    message = ", ".join(f"{number} {what}" for what, number in sorted(did.items())) or "nothing to watch"
    return Completed(message=message)


def reschedule(seconds: float) -> None:
    """Let the deployment look this often. Raises BadInput when it is not deployed."""
    schedule = IntervalSchedule(interval=timedelta(seconds=seconds))
    with api() as client:
        hourly = deployed(client, DEPLOYMENT)
        for known in client.read_deployment_schedules(hourly.id):
            client.delete_deployment_schedule(hourly.id, known.id)
        client.create_deployment_schedules(hourly.id, [DeploymentScheduleCreate(schedule=schedule, active=True)])


def announce_all(news: Sequence[ModelState], store: Store) -> int:
    """Announce a few at a time, the next when these have runs or the patience ends; returns how many have none then.

    Where none of the first few has one, nobody listens, and the rest is left for a later look.
    """
    unheard = 0
    for start in range(0, len(news), _BATCH):
        batch = news[start : start + _BATCH]
        for one in batch:
            announce(one, store)
        left = len(_without_a_run(batch, store))
        if start == 0 and left == len(batch):
            return len(news)
        unheard += left
    return unheard


def announce(seen: ModelState, store: Store) -> None:
    """Write down that this change is announced, and emit its event; raises Temporary when no server takes it."""
    assert seen.wanted is not None
    if not should_emit_events():
        raise Temporary("no Prefect server takes events", remedy="set PREFECT_API_URL")
    change = seen.wanted.fingerprint
    times = seen.attempted.count + 1 if seen.attempted is not None and seen.tried else 1
    announced = Attempt(change=change, state="announced", at=datetime.now(UTC), count=times)
    records.write_attempt(store, seen.product, announced)
    emit_event(
        event=EVENT,
        id=uuid5(NAMESPACE_URL, f"carwright:{change}:{times}"),  # to be found again from the records
        resource={
            "prefect.resource.id": f"carwright.model.{seen.line.name}",
            "prefect.resource.name": seen.line.name,
            "carwright.deployment": seen.line.deployment,
        },
        payload={
            "reason": seen.reason,
            "changes": [change.model_dump(mode="json") for change in seen.changes],
            "reruns": list(seen.reruns),
            "parameters": seen.wanted.request(seen.line, seen.reason).dump(),
        },
    )


def _without_a_run(batch: Sequence[ModelState], store: Store) -> Sequence[ModelState]:
    """Those whose announcement started no run, when the patience ends; a run that has ended by then counts too."""
    deadline = time.monotonic() + _PATIENCE
    while batch and time.monotonic() < deadline:
        time.sleep(0.3)
        living = changes_with_a_run()
        batch = [one for one in batch if one.wanted is not None and one.wanted.fingerprint not in living]
    tried = [(one, records.attempt(store, one.product)) for one in batch]
    return [one for one, attempt in tried if attempt is None or attempt.state == "announced"]


def changes_with_a_run() -> frozenset[str]:
    """The changes that a run of quantize-and-ship is scheduled for or works on."""
    found: set[str] = set()
    states = FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=_LIVING)))
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
