"""Heartbeats between a run and its child run, through the store: each writes one key and watches the other's.

Only changes count and no clock is compared, so that the clocks of two machines may differ. The store is the one thing
that both sides reach: neither opens a port for the other.
"""

from __future__ import annotations

import contextlib
import threading
import time
from typing import TYPE_CHECKING, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from containers.errors import Error
from containers.events import Event

if TYPE_CHECKING:
    from containers.store import Store

Command = Literal["on", "end", "keep"]


class Beat(BaseModel):
    """One heartbeat, numbered so that no two are equal.

    `command` tells the other side to go on, to end, or (a service) to stay up without heartbeats. `progress` is the last
    one of the step at work.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", populate_by_name=True)

    # The aliases are the keys in the store, where a worker of an earlier version reads them.
    number: int = Field(alias="beat")
    command: Command = Field(default="on", alias="word")
    progress: Event | None = None


class Heartbeat:
    """Writes a heartbeat every `every` seconds while the block lasts."""

    def __init__(self, store: Store, key: str, every: float) -> None:
        self._store = store
        self._key = key
        self._every = every
        self._last = Beat(number=0)
        self._lock = threading.Lock()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True, name=f"heartbeat-{key}")

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        self.write()
        self._thread.start()

    def stop(self) -> None:
        """Write no more; safe to call twice."""
        self._done.set()
        if self._thread.is_alive():
            self._thread.join(timeout=30)

    def progress(self, event: Event) -> None:
        """Send it with the next heartbeat."""
        with self._lock:
            self._last = self._last.model_copy(update={"progress": event})

    def send(self, command: Command) -> None:
        """Write a command, now and with every heartbeat after it; raises what the store raises."""
        with self._lock:
            self._last = self._last.model_copy(update={"command": command})
        self.write()

    def write(self) -> None:
        with self._lock:
            self._last = self._last.model_copy(update={"number": self._last.number + 1})
            self._store.write_key(self._key, self._last.model_dump_json(by_alias=True, exclude_none=True).encode())

    def _beat(self) -> None:
        while not self._done.wait(self._every):
            with contextlib.suppress(Error):  # the next one may get through; the other side is patient
                self.write()


class HeartbeatWatch:
    """Reads the heartbeats of the other side, and knows how long it has been silent."""

    def __init__(self, store: Store, key: str) -> None:
        self._store = store
        self._key = key
        self._last: Beat | None = None
        self._changed = time.monotonic()

    def read(self) -> Beat | None:
        """The last heartbeat, None before the first. A store that does not answer counts as silence."""
        with contextlib.suppress(Error, KeyError, ValidationError):
            found = Beat.model_validate_json(self._store.read_key(self._key))
            if found != self._last:
                self._last, self._changed = found, time.monotonic()
        return self._last

    def restart(self) -> None:
        """Count the silence from now on."""
        self._changed = time.monotonic()

    @property
    def silence(self) -> float:
        """Seconds since the last change that was seen, or since the (re)start."""
        return time.monotonic() - self._changed
