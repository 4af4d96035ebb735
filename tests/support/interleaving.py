"""Runs several calls as if on several machines, one operation on the bucket at a time, in every order with few changes."""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from tests.support.memory_bucket import MemoryBucket


class Killed(BaseException):
    """Ends an actor in the middle."""


@dataclass
class Actor:
    """One machine's call: `steps` operations so far; `kill_at` ends it in place of that one."""

    call: Callable[[], Any]
    kill_at: int | None = None
    steps: int = 0
    done: bool = False
    waits: bool = False
    result: Any = None
    error: BaseException | None = None
    go: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    stopped: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    thread: threading.Thread | None = None


class Schedule:
    """Runs actors; `changes` are (operations so far, of all; actor to go on with). Else the one at work goes on until its end.

    An actor that sleeps gives way to the next one.
    """

    def __init__(
        self, bucket: MemoryBucket, calls: Sequence[Callable[[], Any]], kills: dict[int, int] | None = None
    ) -> None:
        self.actors = [Actor(call, (kills or {}).get(number)) for number, call in enumerate(calls)]
        self.total = 0
        self._here = threading.local()
        bucket.step = self._step
        self._sleep, bucket.sleep = bucket.sleep, self._asleep  # type: ignore[method-assign]

    def run(self, changes: Sequence[tuple[int, int]], first: int = 0) -> None:
        pending = deque(changes)
        for actor in self.actors:
            actor.thread = threading.Thread(target=self._body, args=(actor,), daemon=True)
            actor.thread.start()
            actor.stopped.acquire()
        at = first
        while not all(actor.done for actor in self.actors):
            while pending and pending[0][0] <= self.total:
                at = pending.popleft()[1]
            if self.actors[at].done or self.actors[at].waits:
                self.actors[at].waits = False
                at = next(other for other in self._after(at) if not self.actors[other].done)
            actor = self.actors[at]
            actor.go.release()
            actor.stopped.acquire()
            self.total += 1
        for actor in self.actors:
            assert actor.thread is not None
            actor.thread.join()
            if actor.error is not None and not isinstance(actor.error, Killed):
                raise actor.error

    def _after(self, at: int) -> Iterator[int]:
        return ((at + more) % len(self.actors) for more in range(1, len(self.actors) + 1))

    def _body(self, actor: Actor) -> None:
        self._here.actor = actor
        try:
            self._stop(actor)
            actor.result = actor.call()
        except BaseException as error:  # noqa: BLE001 - handed to whoever asked for the run
            actor.error = error
        actor.done = True
        actor.stopped.release()

    def _step(self, operation: str, key: str) -> None:
        actor: Actor | None = getattr(self._here, "actor", None)
        if actor is None:
            return
        if actor.kill_at is not None and actor.steps >= actor.kill_at:
            raise Killed
        actor.steps += 1
        self._stop(actor)

    def _asleep(self, seconds: float) -> None:
        self._sleep(seconds)
        actor: Actor | None = getattr(self._here, "actor", None)
        if actor is not None:
            actor.waits = True
            self._stop(actor)

    @staticmethod
    def _stop(actor: Actor) -> None:
        actor.stopped.release()
        actor.go.acquire()
