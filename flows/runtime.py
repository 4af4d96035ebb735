"""What a flow run works with: settings, store, launcher, services, and somebody who listens.

One value per run, held in a context variable, so that tasks take what makes the output as parameters and nothing else.
"""

from __future__ import annotations

import time
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from containers.contract import StoreLocation
from containers.store import Store
from flows.launchers.process import ProcessLauncher
from flows.services.process import ProcessServices

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from containers.events import Event
    from containers.settings import Settings
    from flows.launchers import Launcher
    from flows.services import Services

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


def location(settings: Settings) -> StoreLocation:
    """The part of the store's settings that may be written down."""
    store = settings.store
    return StoreLocation(endpoint=store.endpoint, bucket=store.bucket, prefix=store.prefix, region=store.region)


def on_this_machine(settings: Settings, listener: Listener, run: str) -> Runtime:
    """Steps and services as processes; `settings` must name a store that is up."""
    return Runtime(
        settings=settings,
        store=Store.open(location(settings), settings.store),
        launcher=ProcessLauncher(settings),
        services=ProcessServices(settings),
        listener=listener,
        run=run,
    )


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
    return _current.get()
