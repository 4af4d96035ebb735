"""One quantization shared by several child runs: each is dealt a list of groups, and what one leaves others do.

Never one child run per group: starting one costs 5-10 s. The plan comes first and the assembly last, both by the step on
this machine; in between the store says which groups are done.
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Final

from containers.contract import Kind
from containers.errors import BadInput, Interrupted
from containers.events import Event
from containers.parameters import QuantizeOptions
from containers.work_sharing import Dealer, Workers
from flows.orchestrator.child_runs import POLL, Children

if TYPE_CHECKING:
    from collections.abc import Collection

    from containers.contract import StepRequest, StepResult
    from containers.errors import Error
    from containers.events import OnEvent
    from containers.store import Store
    from flows.orchestrator.child_runs import ChildRun
    from flows.runners.launcher import Launcher
    from infra.settings import Settings

_START: Final = 15.0  # seconds of work that are worth the start of a child run, which takes 5-10 s
_AT_ONCE: Final = 8  # questions to the store
_FINAL: Final = (BadInput.exit_code, Interrupted.exit_code)


class FanOut:
    """Writes every group of one request into the store, and then its artifact.

    A child run that dies, or is silent, loses what it had not finished to the others. Raises StepFailed at once when one
    says that the input is bad, Interrupted when one is cancelled, Temporary when they keep dying.
    """

    def __init__(
        self, request: StepRequest, here: Launcher, store: Store, settings: Settings, on_event: OnEvent
    ) -> None:
        self._request = request
        self._here = here
        self._store = store
        self._settings = settings
        self._on_event = on_event
        self._fingerprints: dict[str, str] = {}
        self._sizes: dict[str, int] = {}
        self._done: set[str] = set()
        self._progress: dict[int, float] = {}  # bytes, of each one at work
        self._finished_bytes = 0
        self._finished_seconds = 0.0

    def run(self) -> StepResult:
        planned = self._request.model_copy(update={"parameters": {**self._request.parameters, "action": "plan"}})
        plan: Any = self._here.run(planned, self._on_event).values["plan"]
        for group in plan["groups"]:
            if not group["stored"]:
                self._fingerprints[group["path"]] = group["fingerprint"]
                self._sizes[group["path"]] = group["size_before"]
        if self._sizes:
            self._share()
        return self._here.run(self._request, self._on_event)

    def _share(self) -> None:
        placement = self._settings.placement
        dealer = Dealer(self._sizes, min(placement.runs, len(self._sizes)), self._worth)
        self._say(f"{len(self._sizes)} groups for {dealer.workers} child runs of {placement.quantize}")

        def finished(number: int, child: ChildRun) -> None:
            del self._progress[number]
            self._finished_bytes += sum(self._sizes[path] for path in dealer.hands[number])
            self._finished_seconds += child.seconds

        with Workers(dealer, self._start, self._stored, self._lost, _FINAL, finished) as workers:
            # While one of them waits for a place in the work pool, another one would only queue after it.
            while workers.poll(full=any(child.waiting for child in workers.working.values())):
                time.sleep(POLL)

    def _start(self, number: int, dealt: list[str]) -> ChildRun:
        options = QuantizeOptions.read(self._request.options).model_copy(update={"groups": tuple(dealt)})
        request = self._request.model_copy(update={"options": options.dump()})
        label = f"quantize, part {number + 1}: {len(dealt)} groups from {dealt[0]} on"
        self._progress[number] = 0.0
        return Children(self._store, self._settings).start(
            self._settings.placement.quantize, request, label, lambda event: self._forward(number, event)
        )

    def _lost(self, number: int, error: Error) -> None:
        del self._progress[number]
        self._say(f"part {number + 1}: {error.message}; its groups are dealt out again", "warning")

    def _worth(self, paths: list[str]) -> bool:
        """Whether groups that a busy child run has left keep another one at work for longer than its start takes."""
        work = sum(self._sizes[path] for path in paths)
        return work * self._finished_seconds >= _START * self._finished_bytes

    def _stored(self, paths: Collection[str]) -> Collection[str]:
        """Which of these groups are in the store."""
        open_ = [path for path in paths if path not in self._done]
        with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="find") as pool:
            found = pool.map(lambda path: self._store.find(Kind.GROUP, self._fingerprints[path]), open_)
            self._done.update(path for path, manifest in zip(open_, found, strict=True) if manifest is not None)
        return self._done.intersection(paths)

    def _forward(self, number: int, event: Event) -> None:
        """Lines as they come, with the part they are of; progress added up (a group that two do counts twice)."""
        if event.event != "progress":
            self._on_event(event.model_copy(update={"message": f"part {number + 1}: {event.message}"}))
            return
        total = float(sum(self._sizes.values()))
        self._progress[number] = event.done
        finished = sum(self._sizes[path] for path in self._done)
        done = min(finished + sum(self._progress.values()), total)
        self._on_event(event.model_copy(update={"task": "quantize", "done": done, "total": total}))

    def _say(self, message: str, level: Any = "info") -> None:
        self._on_event(Event(event="log", level=level, message=message))
