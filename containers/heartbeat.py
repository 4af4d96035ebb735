"""Signs of life: what one side renews again and again, and another side counts as dead after a while of silence.

A *lease* is a file or folder whose modification time changes with each renewal. It serves where both sides see one folder.

A *beat* is a value under a key of the store. The store is the one thing that both sides reach: neither opens a port for the
other.

Of both only changes count and no clock is compared: the clocks of two machines may differ, and one that is set, forth or back,
ends nothing and keeps nothing alive.
"""

from __future__ import annotations

import contextlib
import threading
import time
from typing import TYPE_CHECKING, Final, Generic, Self, TypeVar

from pydantic import BaseModel, ValidationError

from containers.errors import Error

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from containers.store import Store


LEASE_INTERVAL: Final = 10.0  # seconds between two renewals of a service's lease
LEASE_SECONDS: Final = 60.0  # that it lasts without one: several may be missed, and it still ends soon enough
LEASE_KEPT: Final = 4102444800.0  # 2100-01-01 UTC: the time of "renewal" of a lease that is kept for good
_DAY: Final = 86_400.0  # seconds
_LAST: Final = 2.0**31 - 1  # of file systems whose times end in 2038, such as XFS without bigtime: they write this one


class Renewal:
    """Renews something every `interval` seconds, in a thread of its own; one try that fails is passed over."""

    def __init__(self, renew: Callable[[], None], interval: float, name: str) -> None:
        self._renew = renew
        self._interval = interval
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._repeat, daemon=True, name=name)

    def start(self) -> Self:
        """Go on renewing; the first time is after one interval."""
        self._thread.start()
        return self

    def stop(self, patience: float | None = 30.0) -> None:
        """Renew no more; safe to call twice. A renewal under way is waited for, `patience` seconds at most."""
        self._done.set()
        if self._thread.is_alive():
            self._thread.join(patience)

    def _repeat(self) -> None:
        while not self._done.wait(self._interval):
            with contextlib.suppress(Error, OSError):  # the next one may get through; the other side is patient
                self._renew()


def stays(renewed: float) -> bool:
    """Whether this is the time of a lease that is kept for good, whatever an engine makes of time zones."""
    return abs(renewed - LEASE_KEPT) <= _DAY or renewed == _LAST


class LeaseWatch:
    """Whether a lease has run out: it is gone, or was not renewed for `seconds` since it was first looked at. Without a path it
    never does, nor when it is kept for good.
    """

    def __init__(self, path: Path | None, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._path, self._seconds, self._clock = path, seconds, clock
        self._last: float | None = None
        self._changed = 0.0

    @property
    def over(self) -> bool:
        if self._path is None:
            return False
        try:
            renewed = self._path.stat().st_mtime
        except OSError:
            return True
        if renewed != self._last:
            self._last, self._changed = renewed, self._clock()
        return not stays(renewed) and self._clock() - self._changed > self._seconds


class Beat(BaseModel):
    """The base of such values: `beat` counts up, so that no two are equal."""

    beat: int


B = TypeVar("B", bound=Beat)


class BeatWriter(Generic[B]):
    """Writes a value, and again every `interval` seconds between `start` and `stop`; for several threads."""

    def __init__(self, store: Store, key: str, first: B, interval: float) -> None:
        self._store = store
        self._key = key
        self._value = first
        self._lock = threading.Lock()
        self._renewal = Renewal(self.write, interval, f"heartbeat-{key}")

    def start(self) -> None:
        """Go on writing; the first time is after one interval."""
        self._renewal.start()

    def stop(self) -> None:
        """Write no more by itself; safe to call twice."""
        self._renewal.stop()

    def change(self, change: Callable[[B], dict[str, object]]) -> None:
        """Change fields of the value; the next write takes them along."""
        with self._lock:
            self._value = self._value.model_copy(update=change(self._value))

    def write(self) -> None:
        """Write the value now, with the next number; raises what the store raises."""
        with self._lock:
            self._value = self._value.model_copy(update={"beat": self._value.beat + 1})
            content = self._value.model_dump_json(by_alias=True, exclude_none=True)
            self._store.write_key(self._key, content.encode())


class BeatWatch(Generic[B]):
    """Reads such a value, and knows for how long it has not changed."""

    def __init__(self, store: Store, key: str, kind: type[B]) -> None:
        self._store = store
        self._key = key
        self._kind = kind
        self._last: B | None = None
        self._changed = time.monotonic()

    def read(self) -> B | None:
        """The last value, None before the first. A store that does not answer counts as silence."""
        with contextlib.suppress(Error, KeyError, ValidationError):
            found = self._kind.model_validate_json(self._store.read_key(self._key))
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
