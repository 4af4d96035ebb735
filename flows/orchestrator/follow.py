"""Starts a run of a deployment on a Prefect server and follows its states, log lines, progress and outcome."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, Final

import httpx
from prefect.client.schemas.filters import (
    ArtifactFilter,
    ArtifactFilterType,
    FlowRunFilter,
    FlowRunFilterId,
)
from prefect.client.schemas.objects import StateType
from prefect.client.schemas.sorting import ArtifactSort
from prefect.exceptions import ObjectNotFound, PrefectHTTPStatusError
from prefect.settings import PREFECT_API_URL, PREFECT_UI_URL
from prefect.states import Cancelling

from containers.errors import BadInput, Error, Interrupted, NotReady, Temporary
from containers.events import Event
from flows.orchestrator.child_runs import api, check_pool, check_server, find_deployment, passes, pool_problem
from flows.orchestrator.failure import Failure
from flows.orchestrator.run_artifacts import FAILURE, OUTCOME
from flows.orchestrator.run_log import RunLog, level_name
from flows.release.summary import NotPromoted, Shipped

if TYPE_CHECKING:
    from collections.abc import Mapping
    from uuid import UUID

    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.objects import State

    from flows.runtime import Listener

_POLL: Final = 1.0  # seconds between two requests
_POOL_POLL: Final = 5.0  # seconds between two checks of the work pool while a run waits for a worker
_WORKER_TIMEOUT: Final = 30.0  # seconds for a worker that may just be starting
_OUTAGE: Final = 60.0  # seconds without an answer of the server until following fails
_CANCEL_TIMEOUT: Final = 60.0  # seconds for a cancelled run to end


def run_url(run: UUID) -> str:
    """The page of the run in the Prefect UI."""
    site = PREFECT_UI_URL.value() or str(PREFECT_API_URL.value()).removesuffix("/api")
    return f"{site.rstrip('/')}/runs/flow-run/{run}"


def start(deployment: str, parameters: dict[str, Any], listener: Listener) -> FollowedRun:
    """Start a run of `flow/deployment`.

    Raises BadInput for an unknown deployment or invalid parameters, NotReady if its work pool has no live worker within
    half a minute, and Temporary if the server cannot be reached.
    """
    check_server()
    with api() as client:
        found = find_deployment(client, deployment)
        if found.paused:
            raise BadInput(
                f"the deployment {deployment} is paused", remedy=f"`prefect deployment resume {deployment}` resumes it"
            )
        _check(deployment, parameters, found.parameter_openapi_schema or {})
        check_pool(found.work_pool_name or "", _WORKER_TIMEOUT)
        try:
            run = client.create_flow_run_from_deployment(found.id, parameters=parameters)
        except PrefectHTTPStatusError as error:
            if passes(error):
                raise
            raise BadInput(f"{deployment} does not take these parameters: {_detail(error)}") from error
    listener("run", Event(event="log", message=f"{run.name} of {deployment}: {run_url(run.id)}"))
    return FollowedRun(run.id, found.work_pool_name or "", listener)


def _check(deployment: str, parameters: dict[str, Any], schema: dict[str, Any]) -> None:
    """Raises BadInput for an unknown parameter: the server only checks values, and the run would crash."""
    known = schema.get("properties", {})
    for name in parameters.keys() - known.keys():
        near = get_close_matches(name, known, 1)
        raise BadInput(
            f"{deployment} has no parameter {name}",
            remedy=f"did you mean {near[0]}?" if near else f"it has {', '.join(sorted(known))}",
        )


def _detail(error: PrefectHTTPStatusError) -> str:
    try:
        return str(error.response.json()["detail"])
    except (ValueError, KeyError, TypeError):
        return error.response.text


@dataclass
class FollowedRun:
    """A run that a command follows."""

    run: UUID
    pool: str
    listener: Listener
    _names: dict[UUID, str] = field(default_factory=dict)
    _lines: RunLog = field(init=False)
    _shown_progress: dict[UUID, float] = field(default_factory=dict)
    _state: str = ""
    _worker_missed: bool = False
    _pool_checked: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self._lines = RunLog(self.run)

    def wait(self) -> Shipped:
        """Follow the run to its end. Ctrl-C cancels it.

        Raises NotPromoted if the gate stopped the candidate, the step's error (with its exit code) if a step failed,
        Interrupted if the run was cancelled, Temporary if it crashed.
        """
        answered = time.monotonic()
        try:
            while True:
                try:
                    with api() as client:
                        state = self._poll(client)
                        left = self._left(client) if state.is_final() else {}
                except ObjectNotFound as error:
                    raise Temporary(
                        "the run was deleted on the Prefect server while it was followed",
                        remedy="another run continues from what it had stored",
                    ) from error
                except (Temporary, httpx.HTTPStatusError) as error:
                    if isinstance(error, _NoWorker) or time.monotonic() - answered > _OUTAGE:
                        raise
                else:
                    answered = time.monotonic()
                    if state.is_final():
                        return _outcome(state, left, run_url(self.run))
                time.sleep(_POLL)
        except KeyboardInterrupt:
            self.cancel()
            raise
        except Error as error:
            error.log = run_url(self.run)
            raise

    def cancel(self) -> None:
        """Cancel the run and wait up to a minute for its end."""
        self._say("cancelling the run and removing its containers")
        with api() as client:
            client.set_flow_run_state(self.run, Cancelling(message="cancelled by the command that started it"))
            deadline = time.monotonic() + _CANCEL_TIMEOUT
            while time.monotonic() < deadline:
                state = client.read_flow_run(self.run).state
                if state is not None and state.is_final():
                    return
                time.sleep(_POLL)
        self._say(f"the run has not ended yet: see {run_url(self.run)}", "warning")

    def _poll(self, client: SyncPrefectClient) -> State[Any]:
        state = client.read_flow_run(self.run).state
        assert state is not None  # a run of a deployment always has one
        if state.is_running() or state.is_final():
            self._progress(client)
        self._log(client)
        if state.name != self._state:
            self._state = state.name or ""
            self._say(f"{self._state}" + (f": {state.message}" if state.message and not state.is_failed() else ""))
        elif (
            state.type in {StateType.SCHEDULED, StateType.PENDING}
            and time.monotonic() - self._pool_checked > _POOL_POLL
        ):
            self._pool_checked = time.monotonic()
            self._check_worker(client)
        elif state.is_running() and time.monotonic() - self._pool_checked > _OUTAGE:
            self._pool_checked = time.monotonic()
            self._miss_worker()
        return state

    def _miss_worker(self) -> None:
        """Warn once when nobody may be left to say how the run ends; it goes on where a worker only lost its server."""
        if not self._worker_missed and (why := pool_problem(self.pool)):
            self._worker_missed = True
            self._say(f"{why}: if the run died with its worker, its state here stays {self._state}", "warning")

    def _check_worker(self, client: SyncPrefectClient) -> None:
        try:
            check_pool(self.pool, _WORKER_TIMEOUT)
        except NotReady as error:
            client.set_flow_run_state(self.run, Cancelling(message=error.message))
            raise _NoWorker(f"{error.message}; the run was cancelled", remedy=error.remedy) from error

    def _log(self, client: SyncPrefectClient) -> None:
        """Pass on each log line once, under the name of its task."""
        for line in self._lines.read(client):
            level = level_name(line.level)
            name = "run" if line.task_run_id is None else self._task(client, line.task_run_id)
            if "Traceback (most" in line.message or (line.task_run_id is None and level == "info"):
                level = "debug"  # Prefect's own messages; an error is shown once, at the end
            self.listener(name, Event(event="log", level=level, message=line.message))

    def _task(self, client: SyncPrefectClient, task_run: UUID) -> str:
        if task_run not in self._names:
            try:
                name = client.read_task_run(task_run).name
            except ObjectNotFound:  # a task run is recorded from an event, which may come after its first log line
                return "run"
            self._names[task_run] = name.partition(" ")[0]
        return self._names[task_run]

    def _progress(self, client: SyncPrefectClient) -> None:
        artifacts = client.read_artifacts(
            artifact_filter=ArtifactFilter(type=ArtifactFilterType(any_=["progress"])),
            flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=[self.run])),
            sort=ArtifactSort.CREATED_DESC,
            limit=10,
        )
        for artifact in artifacts:
            done = float(artifact.data or 0) if isinstance(artifact.data, (int, float, str)) else 0.0
            if artifact.task_run_id is not None and self._shown_progress.get(artifact.id) != done:
                self._shown_progress[artifact.id] = done
                event = Event(event="progress", task=artifact.description or "", done=done, total=100, unit="%")
                self.listener(self._task(client, artifact.task_run_id), event)

    def _left(self, client: SyncPrefectClient) -> dict[str, Any]:
        """What the run has published at its end, by type; passes the last lines of its log on, which arrive after its end."""
        self._log(client)
        artifacts = client.read_artifacts(
            artifact_filter=ArtifactFilter(type=ArtifactFilterType(any_=[OUTCOME, FAILURE])),
            flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=[self.run])),
        )
        return {artifact.type or "": artifact.data for artifact in artifacts}

    def _say(self, text: str, level: Any = "info") -> None:
        self.listener("run", Event(event="log", level=level, message=text))


def _outcome(state: State[Any], left: Mapping[str, Any], url: str) -> Shipped:
    if OUTCOME in left:
        shipped = Shipped.model_validate(_decoded(left[OUTCOME]))
        if not shipped.tags:
            raise NotPromoted(shipped)
        if state.is_completed():
            return shipped
    if state.is_cancelled():
        raise Interrupted(f"the run was cancelled: {state.message or ''}", remedy="another run continues from there")
    if FAILURE in left:
        raise Failure.model_validate(_decoded(left[FAILURE])).error()
    where = f"see {url}"
    if state.is_crashed():
        raise Temporary(f"the run crashed: {state.message}", remedy=f"another run continues from there; {where}")
    raise Error(f"the run ended with the state {state.name}: {state.message}", remedy=where)


def _decoded(data: Any) -> Any:
    """An artifact's data; Prefect may return JSON text encoded twice."""
    while isinstance(data, str):
        data = json.loads(data)
    return data


class _NoWorker(NotReady):
    """The work pool of a waiting run has no live worker."""
