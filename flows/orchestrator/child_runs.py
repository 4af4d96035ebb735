"""Child runs of a deployment of `run-step`: start, follow and end them; their outcome becomes a result or an error."""

from __future__ import annotations

import contextlib
import json
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Self
from uuid import uuid4

import httpx
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import (
    DeploymentFilter,
    DeploymentFilterId,
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import StateType, WorkerStatus
from prefect.deployments import run_deployment
from prefect.exceptions import ObjectNotFound, PrefectException
from prefect.settings import PREFECT_API_URL
from prefect.states import Cancelled, Cancelling

from containers.errors import BadInput, Error, Interrupted, NotReady, StepFailed, Temporary
from containers.events import Event
from flows.orchestrator.child_protocol import STEP_LOGGER, ChildOutcome, child_key, heartbeat_interval
from flows.orchestrator.heartbeat import Heartbeat, HeartbeatWatch
from flows.orchestrator.run_log import RunLog, level_name

if TYPE_CHECKING:
    from collections.abc import Iterator
    from uuid import UUID

    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.objects import State
    from prefect.client.schemas.responses import DeploymentResponse

    from containers.contract import StepRequest, StepResult
    from containers.events import OnEvent
    from containers.store import Store
    from flows.orchestrator.heartbeat import Command
    from infra.settings import PlacementSettings, Settings

POLL: Final = 1.0  # seconds between two requests for a child run's state
_SLOW_POLL: Final = 5.0  # seconds between two requests for its log and the work pool
_GRACE: Final = 20.0  # seconds for a child run to end by itself
_DEPLOY: Final = (
    "deploy it: `prefect deploy --all --prefect-file infra/prefect.yaml`; `prefect deployment ls` lists the deployments"
)
_WAITING: Final = (StateType.SCHEDULED, StateType.PENDING, StateType.PAUSED)


@contextlib.contextmanager
def api() -> Iterator[SyncPrefectClient]:
    """A client of the Prefect server; raises what `server_errors` does."""
    with server_errors(), get_client(sync_client=True) as client:
        yield client


@contextlib.contextmanager
def server_errors() -> Iterator[None]:
    """Says in our own errors what went wrong between Prefect's client and its server.

    Raises NotReady if the server cannot be reached, is overrun or in trouble, or if something else answers in its place;
    BadInput if it rejects the login.
    """
    try:
        yield
    except httpx.HTTPStatusError as error:
        if passes(error):
            raise NotReady(
                f"the Prefect server at {PREFECT_API_URL.value()} answers {error.response.status_code}",
                remedy="see its log, or try again in a while",
                doctor="prefect",
            ) from error
        if error.response.status_code != httpx.codes.UNAUTHORIZED:
            raise
        raise BadInput(
            f"the Prefect server at {error.request.url.netloc.decode()} rejects the login",
            remedy='set PREFECT_API_AUTH_STRING; for the dry run: eval "$(carwright dry-run login)"',
            doctor="prefect",
        ) from error
    except httpx.TransportError as error:
        raise NotReady(
            f"the Prefect server cannot be reached: {error}", remedy="check PREFECT_API_URL", doctor="prefect"
        ) from error
    except json.JSONDecodeError as error:
        raise NotReady(
            f"what answers at {PREFECT_API_URL.value()} is not the Prefect server: {error}",
            remedy="check PREFECT_API_URL, and for a proxy or a login page before the server",
            doctor="prefect",
        ) from error


def passes(error: httpx.HTTPStatusError) -> bool:
    """Whether a server may answer otherwise after a while: it is overrun, or in trouble."""
    status = error.response.status_code
    return status >= httpx.codes.INTERNAL_SERVER_ERROR or status in {
        httpx.codes.REQUEST_TIMEOUT,
        httpx.codes.TOO_MANY_REQUESTS,
    }


def check_server() -> str:
    """The URL of the Prefect API.

    Raises BadInput if none is set or the server rejects the login, and Temporary if no server answers.
    """
    url = PREFECT_API_URL.value()
    remedy = "set PREFECT_API_URL=http://HOST:4200/api, or start a server with `make dry-run`"
    if not url:
        raise BadInput("PREFECT_API_URL is not set", remedy=remedy)
    try:
        httpx.get(f"{url}/health", timeout=10).raise_for_status()
    except httpx.HTTPError as error:
        raise Temporary(
            f"no Prefect server answers at {url}: {error or type(error).__name__}", remedy=remedy, doctor="prefect"
        ) from error
    with api() as client:
        client.api_version()  # unlike the health check, this needs the login
    return str(url)


def find_deployment(client: SyncPrefectClient, name: str, *, remedy: str = _DEPLOY) -> DeploymentResponse:
    """The deployment `flow/name`; raises BadInput if the server has none of that name."""
    try:
        if name.count("/") == 1:  # Prefect raises a ValueError otherwise, as it does for an answer that it cannot read
            return client.read_deployment_by_name(name)
    except ObjectNotFound:
        pass
    raise BadInput(f"the Prefect server has no deployment {name!r}", remedy=remedy)


@dataclass
class ChildRun:
    """One child run. Call `poll` until it returns a result or raises; leaving the block, or `end`, ends the run."""

    run_id: UUID
    key: str
    step: str
    pool: str
    store: Store
    placement: PlacementSettings
    heartbeat: Heartbeat
    listen: OnEvent
    waiting: bool = field(init=False, default=False)
    _watch: HeartbeatWatch = field(init=False)
    _log: RunLog = field(init=False)
    _began: float = field(init=False, default_factory=time.monotonic)
    _pending: float = 0.0
    _runs: float = 0.0
    _log_read: float = 0.0
    _progress: Event | None = None
    _over: bool = False

    def __post_init__(self) -> None:
        self._watch = HeartbeatWatch(self.store, child_key(self.key, "child"))
        self._log = RunLog(self.run_id)

    def poll(self) -> StepResult | None:
        """The result; None while the run works.

        Raises StepFailed with the step's exit code and message; with 75 (temporary) if the run crashed, was lost or did
        not start. Raises NotReady if the work pool has no live worker. Network errors are ignored until the next poll.
        """
        try:
            with api() as client:
                state = client.read_flow_run(self.run_id).state
                if time.monotonic() - self._log_read > _SLOW_POLL or state is None or state.is_final():
                    self._log_read = time.monotonic()
                    self._forward_log(client)
        except ObjectNotFound as error:
            self._over = True
            self.send("end")  # its process may live on
            self.heartbeat.stop()
            raise StepFailed(self.step, 75, f"the child run {self.run_id} was deleted on the Prefect server") from error
        except (Temporary, httpx.HTTPStatusError):
            return None
        if state is None:
            return None
        if state.is_final():
            self._over = True
            self.heartbeat.stop()
            return self._outcome(state)
        self.waiting = state.type in _WAITING
        if self.waiting:
            self._check_start(state)
        else:
            self._check_alive()
        return None

    @property
    def seconds(self) -> float:
        """Seconds since the run was first seen running."""
        return time.monotonic() - self._runs if self._runs else 0.0

    def wait(self) -> StepResult:
        """Poll until the run ends."""
        while (result := self.poll()) is None:
            time.sleep(POLL)
        return result

    def send(self, command: Command) -> None:
        """Send `end` or `keep` to the child run. If the store fails, the child ends when the heartbeats stop."""
        with contextlib.suppress(Error):
            self.heartbeat.send(command)

    def end(self) -> None:
        """End the run: by command, and after a grace period by cancelling. Safe to call twice, and after its end."""
        if self._over:
            self._delete_heartbeats()
            return
        self._over = True
        self.send("end")
        with contextlib.suppress(Error, PrefectException, httpx.HTTPError), api() as client:
            deadline = time.monotonic() + _GRACE
            while (state := client.read_flow_run(self.run_id).state) is not None and not state.is_final():
                if state.type in _WAITING:
                    client.set_flow_run_state(self.run_id, Cancelled(message="its parent run has ended"), force=True)
                elif self._watch.silence > self.placement.silence or time.monotonic() > deadline:
                    client.set_flow_run_state(self.run_id, Cancelling(message="its parent run has ended"))
                    break
                time.sleep(POLL / 2)
            else:
                self._delete_heartbeats()
        self.heartbeat.stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def _delete_heartbeats(self) -> None:
        """Delete the heartbeats and the endpoint from the store; the outcome stays."""
        self.heartbeat.stop()
        for what in ("parent", "child", "endpoint"):
            with contextlib.suppress(Error):
                self.store.delete_key(child_key(self.key, what))

    def _outcome(self, state: State[Any]) -> StepResult:
        try:
            outcome = ChildOutcome.model_validate_json(self.store.read_key(child_key(self.key, "outcome")))
        except KeyError:
            outcome = ChildOutcome()
        if outcome.result is not None:
            return outcome.result
        where = f"the child run {self.run_id}"
        if outcome.failure is not None:
            failed = outcome.failure
            if failed.exit_code == Interrupted.exit_code:
                raise Interrupted(f"{where}: {failed.message}", remedy=failed.remedy)
            raise StepFailed(self.step, failed.exit_code, failed.message, remedy=f"{failed.remedy} ({where})".strip())
        if state.is_cancelled():
            raise Interrupted(
                f"{where} ({self.step}) was cancelled", remedy="start the run again: it continues from there"
            )
        if state.is_completed():
            raise StepFailed(
                self.step,
                1,
                f"{where} succeeded but left no result in the store",
                remedy="set the same store (endpoint, bucket and prefix) for the worker as for this run",
            )
        message = state.message or state.name
        raise StepFailed(
            self.step, 75, f"{where} ended without a result: {message}", remedy="its log is in the Prefect UI"
        )

    def _check_start(self, state: State[Any]) -> None:
        """Raises if the run will not start: there is no live worker, or the worker that took it does not start it."""
        if state.type is StateType.PENDING:
            self._pending = self._pending or time.monotonic()
            if time.monotonic() - self._pending > self.placement.start_timeout:
                raise StepFailed(
                    self.step,
                    75,
                    f"a worker of {self.pool} took the child run {self.run_id} but did not start it within "
                    f"{self.placement.start_timeout:.0f} s",
                    remedy="see the worker's log, or raise CARWRIGHT_PLACEMENT__START_TIMEOUT",
                )
        elif time.monotonic() - self._began > _SLOW_POLL:
            check_pool(self.pool, self.placement.patience)
            self._began = time.monotonic()

    def _check_alive(self) -> None:
        if not self._runs:
            self._runs = time.monotonic()
            self._watch.restart()
        last = self._watch.read()
        if last is not None and last.progress is not None and last.progress != self._progress:
            self._progress = last.progress
            self.listen(last.progress)
        if self._watch.silence > self.placement.silence:
            raise StepFailed(
                self.step,
                75,
                f"the child run {self.run_id} sent no heartbeat for {self.placement.silence:.0f} s",
                remedy=f"check the worker of {self.pool} and its machine",
            )

    def _forward_log(self, client: SyncPrefectClient) -> None:
        """Pass on each line of the step once; lines of Prefect itself are skipped."""
        for line in self._log.read(client):
            if line.name.endswith(f".{STEP_LOGGER}"):
                self.listen(Event(event="log", level=level_name(line.level), message=line.message))


@dataclass(frozen=True)
class Children:
    """Starts child runs."""

    store: Store
    settings: Settings

    def start(self, deployment: str, request: StepRequest, label: str, listen: OnEvent) -> ChildRun:
        """Start a child run for a request; its events go to `listen`.

        Raises BadInput if the deployment does not exist, and NotReady if its work pool has no live worker after
        `placement.patience` seconds. Neither leaves anything behind.
        """
        pool = _pool_of(deployment)
        check_pool(pool, self.settings.placement.patience)
        key = uuid4().hex
        heartbeat = Heartbeat(self.store, child_key(key, "parent"), heartbeat_interval(self.settings))
        heartbeat.start()
        try:
            with server_errors():
                run: Any = run_deployment(
                    deployment,
                    parameters={"request": request.model_dump(mode="json"), "key": key, "label": label},
                    timeout=0,
                )
        except BaseException:
            heartbeat.stop()
            raise
        listen(Event(event="log", message=f"{label}: child run {run.name} ({run.id}) in {pool or deployment}"))
        placement = self.settings.placement
        return ChildRun(run.id, key, request.step.value, pool, self.store, placement, heartbeat, listen)

    def kept(self, deployment: str, listen: OnEvent) -> Iterator[tuple[dict[str, Any], ChildRun]]:
        """The child runs of a deployment that were told to stay, whoever started them, and the requests (JSON) they answer."""
        with api() as client:
            found = client.read_flow_runs(
                deployment_filter=DeploymentFilter(
                    id=DeploymentFilterId(any_=[find_deployment(client, deployment).id])
                ),
                flow_run_filter=FlowRunFilter(
                    state=FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.RUNNING]))
                ),
            )
        for run in found:
            key = str(run.parameters.get("key", ""))
            last = HeartbeatWatch(self.store, child_key(key, "parent")).read()
            if last is not None and last.command == "keep":
                heartbeat = Heartbeat(self.store, child_key(key, "parent"), heartbeat_interval(self.settings))
                placement, pool, request = self.settings.placement, run.work_pool_name or "", run.parameters["request"]
                yield request, ChildRun(run.id, key, request["step"], pool, self.store, placement, heartbeat, listen)


def _pool_of(deployment: str) -> str:
    """The work pool of a deployment; empty for a deployment without one."""
    remedy = (
        "CARWRIGHT_PLACEMENT__... places steps there: deploy it (`prefect deploy --name gpu`), or change that setting"
    )
    with api() as client:
        return find_deployment(client, deployment, remedy=remedy).work_pool_name or ""


def check_pool(pool: str, patience: float) -> None:
    """Wait until a worker of the pool is live; raises NotReady after `patience` seconds."""
    deadline = time.monotonic() + patience
    while True:
        why = pool_problem(pool)
        if not why:
            return
        if time.monotonic() > deadline:
            start = f"python -m flows.orchestrator.prefect_worker --pool {pool}"
            raise NotReady(why, remedy=f"start one with `{start}`, or resume the pool")
        time.sleep(POLL)


def pool_problem(pool: str) -> str:
    """Why nothing in the pool would start a run now; empty when a worker is live, and for a run without a pool."""
    if not pool:
        return ""
    with api() as client:
        try:
            found = client.read_work_pool(pool)
        except ObjectNotFound:
            return f"the work pool {pool} does not exist"
        if found.is_paused:
            return f"the work pool {pool} is paused"
        workers = client.read_workers_for_work_pool(pool)
    if any(worker.status is WorkerStatus.ONLINE for worker in workers):
        return ""
    return f"the work pool {pool} has no live worker ({len(workers)} registered)"
