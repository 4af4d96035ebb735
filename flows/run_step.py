"""The flow that answers one step's request on the machine of a worker: deployed as `run-step/gpu`, started by a parent.

What comes of it is stored as JSON under the child's key, where the parent looks for it (`flows.orchestrator.child_runs`): a StepResult,
or the error with its exit code. While it works it shows signs of life and watches those of its parent: when the parent
says so, or is silent for too long, it ends.
"""

from __future__ import annotations

import logging
import signal
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit, urlunsplit

from prefect import flow
from prefect.logging import get_run_logger
from pydantic import BaseModel, ConfigDict

from containers.contract import Endpoint, ServeOptions, Step, StepRequest, StepResult
from containers.errors import Error, Interrupted, NotReady
from flows import runtime
from flows.orchestrator.heartbeat import Heartbeat, HeartbeatWatch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from containers.events import Event
    from containers.settings import Settings
    from containers.store import Store

LOGGER: Final = "step"  # the part of the log's name that marks a step's own lines
_LOOK: Final = 2.0  # seconds between two looks at the parent
_HERE: Final = ("127.0.0.1", "0.0.0.0", "localhost")  # noqa: S104 - compared with
_LEVELS: Final = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}


class Failure(BaseModel):
    """An error on its way to the parent."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    exit_code: int
    message: str
    remedy: str = ""


class ChildOutcome(BaseModel):
    """What a child run leaves: a result or a failure."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    result: StepResult | None = None
    failure: Failure | None = None


def child_key(key: str, what: str) -> str:
    """Where in the store a child run's `outcome`, `endpoint`, or the signs of `child` and `parent` are."""
    return f"results/children/{key}/{what}.json"


@flow(name="run-step", flow_run_name="{label}", persist_result=False, validate_parameters=False)
def run_step(request: dict[str, Any], key: str, label: str = "step") -> None:
    """Answer a StepRequest (as JSON) and store the outcome under `key`.

    A request to serve is answered with an endpoint, and the run goes on until the parent's signs end. Raises the
    step's error, so that the run is shown as failed.
    """
    del label
    now = runtime.here()
    asked = StepRequest.model_validate(request).model_copy(update={"store": now.location})
    silence = now.settings.placement.silence
    with (
        Heartbeat(now.store, child_key(key, "child"), beat(now.settings)) as heartbeat,
        _watched(now.store, key, silence),
    ):
        listen = _listener(heartbeat)
        try:
            result = (_serve if asked.step is Step.SERVE else _answer)(asked, now, key, listen)
        except Error as error:
            failure = Failure(exit_code=error.exit_code, message=error.message, remedy=error.remedy)
            _leave(now.store, key, ChildOutcome(failure=failure))
            raise
        _leave(now.store, key, ChildOutcome(result=result))


def beat(settings: Settings) -> float:
    """Seconds between two signs of life: several may be lost before their silence is noticed."""
    return min(10.0, settings.placement.silence / 5)


def _answer(request: StepRequest, now: runtime.Runtime, key: str, listen: Callable[[Event], None]) -> StepResult:
    del key
    return now.launcher.run(request, listen)


def _serve(request: StepRequest, now: runtime.Runtime, key: str, listen: Callable[[Event], None]) -> StepResult:
    """Publish the endpoint and stay; ends well when the parent says so, and raises NotReady when the service ends first."""
    host = now.settings.serve.advertise
    if host:  # others are to reach it, so it must listen to them
        options = ServeOptions.read(request.options).model_copy(update={"host": "0.0.0.0"})  # noqa: S104
        request = request.model_copy(update={"options": options.dump()})
    lease = now.services.start(request, listen)
    endpoint = _advertised(lease.endpoint, host)
    try:
        now.store.write_key(child_key(key, "endpoint"), endpoint.model_dump_json().encode())
        while lease.serves:
            time.sleep(_LOOK)
    except _ParentGoneError:
        return StepResult(step=Step.SERVE, values=endpoint.dump())
    finally:
        lease.end()
    raise NotReady(f"{endpoint.served_model_name} ended by itself", remedy="its log is on the worker's machine")


def _advertised(endpoint: Endpoint, host: str) -> Endpoint:
    """An endpoint of this machine under the name by which others reach it, where one is set."""
    url = urlsplit(endpoint.url)
    if not host or url.hostname not in _HERE:
        return endpoint
    return endpoint.model_copy(update={"url": urlunsplit(url._replace(netloc=f"{host}:{url.port}"))})


def _leave(store: Store, key: str, outcome: ChildOutcome) -> None:
    store.write_key(child_key(key, "outcome"), outcome.model_dump_json(exclude_none=True).encode())


def _listener(heartbeat: Heartbeat) -> Callable[[Event], None]:
    logger: Any = get_run_logger()
    logger = logger.getChild(LOGGER)

    def listen(event: Event) -> None:
        if event.event == "progress":
            heartbeat.progress(event)
        else:
            logger.log(_LEVELS[event.level], event.text())

    return listen


class _ParentGoneError(Interrupted):
    """The parent run wants this one no more, or is dead."""


@contextmanager
def _watched(store: Store, key: str, patience: float) -> Iterator[None]:
    """End the block (in this process's main thread) when the parent says so or is silent for `patience` seconds."""
    watch = HeartbeatWatch(store, child_key(key, "parent"))
    done = threading.Event()
    why: list[str] = []

    def look() -> None:
        while not done.wait(_LOOK):
            sign = watch.look()
            if sign is not None and sign.word == "keep":
                return
            if sign is not None and sign.word == "end":
                why.append("the parent run wants this one no more")
            elif watch.silence > patience:
                why.append(f"the parent run gave no sign of life for {patience:.0f} s")
            if why and not done.is_set():
                signal.pthread_kill(main, signal.SIGUSR1)
                return

    def leave(number: int, frame: object) -> None:
        del number, frame
        if not done.is_set():
            raise _ParentGoneError(why[0], remedy="start the parent run again")

    main = threading.main_thread().ident or 0
    before = signal.signal(signal.SIGUSR1, leave)
    thread = threading.Thread(target=look, daemon=True, name=f"watch-{key}")
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join(timeout=30)
        signal.signal(signal.SIGUSR1, before)
