"""The flow that runs one step on a worker's machine: deployed as `run-step/gpu`, started by a parent run.

The outcome, a StepResult or the error with its exit code, is stored as JSON for the parent
(`flows.orchestrator.child_protocol`). The run sends heartbeats and watches those of its parent: it ends when the parent
tells it to, or is silent for too long.
"""

from __future__ import annotations

import signal
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit, urlunsplit

from prefect import flow
from prefect.logging import get_run_logger

from containers.contract import Step, StepRequest, StepResult
from containers.errors import Error, Interrupted, NotReady
from containers.network import LOOPBACK_NAMES
from containers.parameters import Endpoint, ServeOptions
from flows import runtime
from flows.orchestrator.child_protocol import STEP_LOGGER, ChildOutcome, child_key, heartbeat_interval
from flows.orchestrator.failure import Failure
from flows.orchestrator.heartbeat import Heartbeat, HeartbeatWatch

if TYPE_CHECKING:
    from collections.abc import Iterator

    from containers.events import Event, OnEvent
    from containers.store import Store

POLL: Final = 2.0  # seconds between two reads of the parent's heartbeat, and of the service's state
_HERE: Final = (*LOOPBACK_NAMES, "0.0.0.0")  # noqa: S104 - compared with


@flow(name="run-step", flow_run_name="{label}", persist_result=False, validate_parameters=False)
def run_step(request: dict[str, Any], key: str, label: str = "step") -> None:
    """Run a StepRequest (as JSON) and store the outcome under `key`.

    For a request to serve, the outcome is an endpoint, and the run continues until the parent's heartbeats end. Raises
    the step's error, so that Prefect shows the run as failed.
    """
    del label
    now = runtime.without_placement()
    asked = StepRequest.model_validate(request).model_copy(update={"store": now.location})
    silence = now.settings.placement.silence
    with (
        Heartbeat(now.store, child_key(key, "child"), heartbeat_interval(now.settings)) as heartbeat,
        ended_with_parent(now.store, key, silence),
    ):
        listen = _listener(heartbeat)
        try:
            result = (_serve if asked.step is Step.SERVE else _answer)(asked, now, key, listen)
        except Error as error:
            _store_outcome(now.store, key, ChildOutcome(failure=Failure.of(error)))
            raise
        _store_outcome(now.store, key, ChildOutcome(result=result))


def _answer(request: StepRequest, now: runtime.Runtime, key: str, listen: OnEvent) -> StepResult:
    del key
    return now.launcher.run(request, listen)


def _serve(request: StepRequest, now: runtime.Runtime, key: str, listen: OnEvent) -> StepResult:
    """Publish the endpoint and serve until the parent ends this run; raises NotReady if the service ends first."""
    host = now.settings.serve.advertise
    if host:  # others are to reach it, so it must listen to them
        options = ServeOptions.read(request.options).model_copy(update={"host": "0.0.0.0"})  # noqa: S104
        request = request.model_copy(update={"options": options.dump()})
    lease = now.services.start(request, listen)
    endpoint = advertised(lease.endpoint, host)
    try:
        now.store.write_key(child_key(key, "endpoint"), endpoint.model_dump_json().encode())
        while lease.serves:
            time.sleep(POLL)
    except _ParentGoneError:
        return StepResult(step=Step.SERVE, values=endpoint.dump())
    finally:
        lease.end()
    raise NotReady(f"{endpoint.served_model_name} ended unexpectedly", remedy="its log is on the worker's machine")


def advertised(endpoint: Endpoint, host: str) -> Endpoint:
    """The endpoint with the host name that other machines use, if one is set."""
    url = urlsplit(endpoint.url)
    if not host or url.hostname not in _HERE:
        return endpoint
    return endpoint.model_copy(update={"url": urlunsplit(url._replace(netloc=f"{host}:{url.port}"))})


def _store_outcome(store: Store, key: str, outcome: ChildOutcome) -> None:
    store.write_key(child_key(key, "outcome"), outcome.model_dump_json(exclude_none=True).encode())


def _listener(heartbeat: Heartbeat) -> OnEvent:
    logger: Any = get_run_logger()
    logger = logger.getChild(STEP_LOGGER)

    def listen(event: Event) -> None:
        if event.event == "progress":
            heartbeat.progress(event)
        else:
            logger.log(event.severity, event.text())

    return listen


class _ParentGoneError(Interrupted):
    """The parent run has ended this one, or has died."""


@contextmanager
def ended_with_parent(store: Store, key: str, patience: float, poll: float = POLL) -> Iterator[None]:
    """Interrupt the block, in the main thread, when the parent ends this run or is silent for `patience` seconds.

    A service that is to be kept outlives its parent's silence; whoever stops it then says so in the parent's place.
    """
    watch = HeartbeatWatch(store, child_key(key, "parent"))
    done = threading.Event()
    why: list[str] = []

    def watch_parent() -> None:
        while not done.wait(poll):
            last = watch.read()
            command = last.command if last is not None else "on"
            if command == "end":
                why.append("the parent run ended this run")
            elif command == "on" and watch.silence > patience:
                why.append(f"the parent run sent no heartbeat for {patience:.0f} s")
            if why and not done.is_set():
                signal.pthread_kill(main, signal.SIGUSR1)
                return

    def leave(number: int, frame: object) -> None:
        del number, frame
        if not done.is_set():
            raise _ParentGoneError(why[0], remedy="start the parent run again")

    main = threading.main_thread().ident or 0
    before = signal.signal(signal.SIGUSR1, leave)
    thread = threading.Thread(target=watch_parent, daemon=True, name=f"watch-{key}")
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join(timeout=30)
        signal.signal(signal.SIGUSR1, before)
