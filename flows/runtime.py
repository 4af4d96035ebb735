"""What a flow run works with: settings, store, launcher, services, and a listener for events.

One value per run, held in a context variable, so that tasks take what makes the output as parameters and nothing else. Only
flows, tasks and Prefect's hooks read it there (`current`); everything that they call is given it.
"""

from __future__ import annotations

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
    """`listener` gets every event with the name of the task that it belongs to; `run` identifies the run.

    `worked` collects the seconds that each start of a step or a service took: what is left of the run's wall time is
    the flow's own cost.
    """

    settings: Settings
    store: Store
    launcher: Launcher
    services: Services
    listener: Listener
    run: str
    worked: list[float] = field(default_factory=list)

    @contextmanager
    def working(self) -> Iterator[None]:
        """Count the time of the block as a step's work."""
        started = time.monotonic()
        try:
            yield
        finally:
            self.worked.append(time.monotonic() - started)

    @property
    def location(self) -> StoreLocation:
        return location(self.settings)

    @property
    def requests(self) -> Requests:
        """Makes the requests of this run."""
        return Requests(self.run, self.location, self.settings)


def location(settings: Settings) -> StoreLocation:
    """The part of the store's settings that may be written down."""
    return settings.store.location


def open_runtime(settings: Settings, listener: Listener, run: str) -> Runtime:
    """What `settings.launcher` says: steps and services as processes or as containers; the store must be up."""
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
    parts = _started_here(settings)
    if not settings.placement.used:
        return parts
    from flows.runners.remote.launcher import PlacedLauncher
    from flows.runners.remote.services import PlacedServices

    return PlacedLauncher(settings, parts[0]), PlacedServices(settings, parts[1])


def _started_here(settings: Settings) -> tuple[Launcher, Services]:
    backend = BACKENDS[settings.launcher]
    return backend.launcher(settings), backend.services(settings)


_current: ContextVar[Runtime] = ContextVar("carwright_runtime")


@contextmanager
def use(runtime: Runtime) -> Iterator[Runtime]:
    """Make it the one that `current` returns inside the block."""
    token = _current.set(runtime)
    try:
        yield runtime
    finally:
        _current.reset(token)


def current() -> Runtime:
    """The runtime in use; in a run that a worker started, one made of the worker's settings."""
    return _current.get(None) or _of_this_process()


def here() -> Runtime:
    """The same without placement: a child run does its step itself, whatever the settings around it say."""
    now = current()
    if not now.settings.placement.used:
        return now
    placement = now.settings.placement.model_copy(update=dict.fromkeys(Step, ""))
    return open_runtime(now.settings.model_copy(update={"placement": placement}), now.listener, now.run)


@cache
def _of_this_process() -> Runtime:
    """Of a flow run in a process of its own. Raises BadInput when the settings name no store that others reach, too."""
    from prefect.runtime import flow_run

    settings = Settings()
    if settings.store.endpoint is None:
        raise BadInput(
            "a deployed flow needs an object store that outlives it",
            remedy="set CARWRIGHT_STORE__ENDPOINT, ..._ACCESS_KEY_ID and ..._SECRET_ACCESS_KEY for the worker's runs",
        )
    return open_runtime(settings, lambda task, event: None, str(flow_run.id))
