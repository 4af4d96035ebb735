"""Heartbeats between a run and its child run: each writes a key in the store and watches the other's."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Self

from pydantic import ConfigDict, Field

from containers.events import Event
from containers.heartbeat import Beat, BeatWatch, BeatWriter

if TYPE_CHECKING:
    from containers.store import Store

Command = Literal["on", "end", "keep"]


class RunBeat(Beat):
    """`command` tells the other side to continue, to end, or (a service) to stay up without heartbeats. `progress` is the
    latest of the running step.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", populate_by_name=True)

    # The alias is the key in the store, where a worker of an earlier version reads it.
    command: Command = Field(default="on", alias="word")
    progress: Event | None = None


class Heartbeat:
    """Writes a heartbeat every `interval` seconds for the length of the block."""

    def __init__(self, store: Store, key: str, interval: float) -> None:
        self._writer = BeatWriter(store, key, RunBeat(beat=0), interval)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        self.write()
        self._writer.start()

    def stop(self) -> None:
        """Stop writing; safe to call twice."""
        self._writer.stop()

    def progress(self, event: Event) -> None:
        """Send the progress with the next heartbeat."""
        self._writer.change(lambda _: {"progress": event})

    def send(self, command: Command) -> None:
        """Write a command, now and with every later heartbeat; raises what the store raises."""
        self._writer.change(lambda _: {"command": command})
        self.write()

    def write(self) -> None:
        self._writer.write()


class HeartbeatWatch(BeatWatch[RunBeat]):
    """Reads the heartbeats of the other side and measures its silence."""

    def __init__(self, store: Store, key: str) -> None:
        super().__init__(store, key, RunBeat)
