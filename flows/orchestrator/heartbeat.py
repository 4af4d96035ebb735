"""Signs of life between a run and its child run, through the store: each writes one key and watches the other's.

Only changes count and no clock is compared, so that the clocks of two machines may differ. The store is the one thing
that both sides reach: neither opens a port for the other.
"""

from __future__ import annotations

import contextlib
import threading
import time
from typing import TYPE_CHECKING, Literal, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from containers.errors import Error
from containers.events import Event

if TYPE_CHECKING:
    from containers.store import Store

Word = Literal["on", "end", "keep"]


class Sign(BaseModel):
    """`word`: go on, end, or (to a service) stay without signs. `progress` is the last one of the step at work."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    beat: int
    word: Word = "on"
    progress: Event | None = None


class Heartbeat:
    """Writes a sign every `every` seconds while the block lasts."""

    def __init__(self, store: Store, key: str, every: float) -> None:
        self._store = store
        self._key = key
        self._every = every
        self._sign = Sign(beat=0)
        self._lock = threading.Lock()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True, name=f"pulse-{key}")

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
        """Take it along with the next sign."""
        with self._lock:
            self._sign = self._sign.model_copy(update={"progress": event})

    def say(self, word: Word) -> None:
        """Write a word, now and with every sign after it; raises what the store raises."""
        with self._lock:
            self._sign = self._sign.model_copy(update={"word": word})
        self.write()

    def write(self) -> None:
        with self._lock:
            self._sign = self._sign.model_copy(update={"beat": self._sign.beat + 1})
            self._store.write_key(self._key, self._sign.model_dump_json(exclude_none=True).encode())

    def _beat(self) -> None:
        while not self._done.wait(self._every):
            with contextlib.suppress(Error):  # the next one may get through; the other side is patient
                self.write()


class HeartbeatWatch:
    """Looks for the signs of the other side."""

    def __init__(self, store: Store, key: str) -> None:
        self._store = store
        self._key = key
        self._last: Sign | None = None
        self._changed = time.monotonic()

    def look(self) -> Sign | None:
        """The last sign, None before the first. A store that does not answer is no sign."""
        with contextlib.suppress(Error, KeyError, ValidationError):
            sign = Sign.model_validate_json(self._store.read_key(self._key))
            if sign != self._last:
                self._last, self._changed = sign, time.monotonic()
        return self._last

    def restart(self) -> None:
        """Count the silence from now on."""
        self._changed = time.monotonic()

    @property
    def silence(self) -> float:
        """Seconds since the last change that was seen, or since the (re)start."""
        return time.monotonic() - self._changed
