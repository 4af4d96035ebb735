"""Looks at the watched models and announces what changed; a trigger of quantize-and-ship answers the announcement.

One change of one product (a model, a scheme, a target) is one event, and one event starts one run. What was announced is
written down before the event leaves, so that a second look does not announce it again:

- a run that failed is not tried again on the same input, unless a person forces it or the failure may pass (a network, a
  full disk): then three times at most;
- an announcement that started no run (nobody listened, or the server lost it) is repeated after `watch.lost_after`.
"""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal
from uuid import NAMESPACE_URL, uuid5

from prefect import flow
from prefect.artifacts import create_table_artifact
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import (
    FlowFilter,
    FlowFilterName,
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import StateType
from prefect.events import emit_event
from prefect.events.worker import should_emit_events
from prefect.logging import get_run_logger
from prefect.states import Completed

from containers.contract import Frozen
from containers.errors import Temporary
from flows.runtime import current
from flows.watching import records
from flows.watching.look import Seen, look
from flows.watching.models import load
from flows.watching.records import Attempt
from flows.watching.view import plan_rows

if TYPE_CHECKING:
    from prefect.client.schemas.objects import State

    from containers.settings import Settings

EVENT: Final = "carwright.model.changed"
TIMES: Final = 3  # announcements of one change that came to nothing by no fault of its own
_PAGE: Final = 200  # flow runs in one answer, the most that the server gives
_LIVING: Final = [
    StateType.SCHEDULED, StateType.PENDING, StateType.RUNNING, StateType.PAUSED, StateType.CANCELLING,
]  # fmt: skip


class Decision(Frozen):
    """What is done about one product. `why` is for people, where it is not plain."""

    what: Literal["announce", "nothing", "waiting", "given up", "unknown"]
    why: str = ""


@flow(name="watch-releases", persist_result=False, validate_parameters=False)
def watch_releases(models: str = "", force: tuple[str, ...] = ()) -> State[Any]:
    """Look once. `models` is a path, by default that of the settings; `force` names lines whose change is announced again.

    Ends well when something could not be looked at: its last state is kept, the run says so, and nothing is rebuilt for it.
    Raises BadInput for a models.yaml that does not fit.
    """
    now = current()
    seen = look(load(Path(models) if models else now.settings.watch.models), now.settings, now.store)
    log = get_run_logger()
    living = changes_with_a_run()
    did: Counter[str] = Counter()
    for one in seen:
        decision = decide(one, living, now.settings, force=one.line.name in force)
        did[decision.what] += 1
        if decision.what == "announce":
            announce(one)
            log.info("%s", one.reason)
        elif one.problem:
            log.warning("%s: %s; nothing is rebuilt for it", one.line.name, one.problem)
        for text in (decision.why, *one.notes):
            if text:
                log.info("%s: %s", one.line.name, text)
    create_table_artifact(key="watched", table=plan_rows(seen), description="What was looked at")
    message = ", ".join(f"{number} {what}" for what, number in sorted(did.items())) or "no models"
    return Completed(message=f"{len(seen)} products: {message}")


def decide(seen: Seen, living: frozenset[str], settings: Settings, *, force: bool = False) -> Decision:
    """Whether to announce. `living` are the changes whose run is waiting or working."""
    if seen.problem or seen.wanted is None:
        return Decision(what="unknown")
    if seen.wanted.fingerprint in living:
        return Decision(what="waiting", why="its run is on the way")
    if not seen.changes:
        return Decision(what="nothing")
    if force or not seen.tried or seen.attempted is None:
        return Decision(what="announce")
    return _again(seen.attempted, settings)


def _again(tried: Attempt, settings: Settings) -> Decision:
    """About a change that was announced before and is still there, with no run on the way."""
    when = f"{tried.at:%Y-%m-%d %H:%M}"
    if tried.state == "shipped":
        return Decision(what="given up", why="it was shipped and still differs: is the worker's Carwright another one?")
    if tried.state == "failed" and not tried.temporary:
        return Decision(what="given up", why=f"the same change failed {when}: {tried.message}")
    if tried.count >= TIMES:
        return Decision(what="given up", why=f"announced {tried.count} times and came to nothing: {tried.message}")
    if datetime.now(UTC) - tried.at < timedelta(seconds=settings.watch.lost_after):
        return Decision(what="waiting", why=f"{tried.state} {when}")
    return Decision(what="announce", why="again: the last announcement came to nothing")


def announce(seen: Seen) -> None:
    """Write down that this change is announced, and emit its event; raises Temporary when no server takes it."""
    assert seen.wanted is not None
    if not should_emit_events():
        raise Temporary("no Prefect server takes events", remedy="set PREFECT_API_URL")
    change = seen.wanted.fingerprint
    times = seen.attempted.count + 1 if seen.attempted is not None and seen.tried else 1
    announced = Attempt(change=change, state="announced", at=datetime.now(UTC), count=times)
    records.write_attempt(current().store, seen.product, announced)
    emit_event(
        event=EVENT,
        # Two looks at once give one event: the id is that of the change.
        id=uuid5(NAMESPACE_URL, f"carwright:{change}:{times}"),
        resource={
            "prefect.resource.id": f"carwright.model.{seen.line.name}",
            "prefect.resource.name": seen.line.name,
            "carwright.deployment": seen.line.deployment,
        },
        payload={
            "reason": seen.reason,
            "changes": [change.model_dump(mode="json") for change in seen.changes],
            "reruns": list(seen.reruns),
            "parameters": seen.wanted.parameters(seen.line, seen.reason),
        },
    )


def changes_with_a_run() -> frozenset[str]:
    """The changes that a run of quantize-and-ship is scheduled for or works on."""
    found: set[str] = set()
    states = FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=_LIVING)))
    with get_client(sync_client=True) as client:
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
