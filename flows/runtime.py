"""The context of a flow run: settings, store, launcher, services, and a listener for events.

There is one per run, in a context variable, so that the parameters of tasks are only what determines their output. Only
flows, tasks and Prefect hooks read it from there (`current`) and pass it to the functions they call.
"""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING

from containers.contract import Step
from containers.errors import BadInput
from containers.store import Store
from flows.requests import Requests
from flows.runners.backends import BACKENDS
from flows.unread_output import outlive_worker
from infra.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from containers.contract import StoreLocation
    from containers.events import Event
    from flows.runners.launcher import Launcher
    from flows.runners.service import Services

    Listener = Callable[[str, Event], None]


@dataclass(frozen=True)
class Runtime:
    """`listener` receives every event with the name of its task; `run` identifies the run.

    `worked` collects the seconds in which a step or the start of a service was at work, those of two at once a single time.
    The rest of the run's wall time is the overhead of the flow.
    """

    settings: Settings
    store: Store
    launcher: Launcher
    services: Services
    listener: Listener
    run: str
    worked: list[float] = field(default_factory=list)
    _at_work: list[float] = field(default_factory=list)  # when each block that goes on now began
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @contextmanager
    def working(self) -> Iterator[None]:
        """Count the time of the block as work of a step."""
        with self._lock:
            self._at_work.append(self._at_work[0] if self._at_work else time.monotonic())
        try:
            yield
        finally:
            with self._lock:
                began = self._at_work.pop()
                if not self._at_work:
                    self.worked.append(time.monotonic() - began)

    @property
    def location(self) -> StoreLocation:
        return location(self.settings)

    @property
    def requests(self) -> Requests:
        """Makes the requests of this run."""
        return Requests(self.run, self.location, self.settings, self.store.put_bytes)


def location(settings: Settings) -> StoreLocation:
    """The location of the store, without secrets."""
    return settings.store.location


def open_runtime(settings: Settings, listener: Listener, run: str) -> Runtime:
    """A runtime with the launcher and services that `settings.launcher` names; the store must be up."""
    launcher, services = _parts(settings)
    return Runtime(
        settings=settings,
        store=Store.open(location(settings), settings.store),
        launcher=launcher,
        services=services,
        listener=listener,
        run=run,
    )


def _parts(settings: Settings) -> tuple[Launcher, Services]:
    parts = _local_parts(settings)
    if not settings.placement.used:
        return parts
    from flows.runners.remote.launcher import PlacedLauncher
    from flows.runners.remote.services import PlacedServices

    return PlacedLauncher(settings, parts[0]), PlacedServices(settings, parts[1])


def _local_parts(settings: Settings) -> tuple[Launcher, Services]:
    backend = BACKENDS[settings.launcher]
    return backend.launcher(settings), backend.services(settings)


_current: ContextVar[Runtime] = ContextVar("carwright_runtime")


@contextmanager
def use(runtime: Runtime) -> Iterator[Runtime]:
    """Make `current` return this runtime inside the block."""
    token = _current.set(runtime)
    try:
        yield runtime
    finally:
        _current.reset(token)


def current() -> Runtime:
    """The current runtime; in a run started by a worker, one made from the worker's settings."""
    return _current.get(None) or _of_this_process()


def without_placement() -> Runtime:
    """The current runtime without placement: a child run does its step itself, whatever the settings say."""
    now = current()
    if not now.settings.placement.used:
        return now
    placement = now.settings.placement.model_copy(update=dict.fromkeys(Step, ""))
    return open_runtime(now.settings.model_copy(update={"placement": placement}), now.listener, now.run)


@cache
def _of_this_process() -> Runtime:
    """The runtime of a flow run in its own process. Raises BadInput if the settings name no external store."""
    from prefect.runtime import flow_run

    outlive_worker()
    settings = Settings()
    if settings.store.endpoint is None:
        raise BadInput(
            "a deployed flow needs an external object store",
            remedy="set CARWRIGHT_STORE__ENDPOINT, ..._ACCESS_KEY_ID and ..._SECRET_ACCESS_KEY for the worker's runs",
        )
    return open_runtime(settings, lambda task, event: None, str(flow_run.id))
