"""Several workers on one machine: child processes of this step, each with a list of groups and a device of its own."""

from __future__ import annotations

import queue
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

import containers
from containers.errors import BadInput, StepFailed
from containers.events import Event
from containers.parameters import QuantizeOptions
from containers.process import Child, inherited
from containers.quantize.resources import cores, lanes_for
from containers.quantize.worker import find_stored
from containers.step_variables import step_variables
from containers.work_sharing import Dealer, Workers

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from containers.contract import StepRequest
    from containers.quantize.groups import Group
    from containers.quantize.preflight import QuantizeJob
    from containers.step import Context
    from containers.store import Store

_SILENT: Final = 600.0  # seconds without output after which a worker counts as hung
_LOOK: Final = 0.2  # seconds between two looks at the workers


class WorkerPool:
    """Runs workers until every group of `groups` is in the store.

    A worker that dies (or hangs) loses what it had not finished to the others, and its place is taken by a new one.
    Raises BadInput at once when a worker says that the input is bad, and Temporary when workers keep dying.
    """

    def __init__(
        self, request: StepRequest, job: QuantizeJob, store: Store, context: Context, options: QuantizeOptions
    ) -> None:
        self._request = request
        self._job = job
        self._store = store
        self._context = context
        self._options = options
        self._advanced = 0.0  # bytes; a group that two workers do counts twice
        self._starts = 0
        self._lines: queue.SimpleQueue[tuple[_Worker, Event]] = queue.SimpleQueue()

    def run(self, groups: Sequence[Group], devices: Sequence[str]) -> None:
        """Write these groups into the store, with a worker for each of `devices` (a device may be named twice)."""
        sizes = {group.path: group.source.size for group in groups}
        count = min(len(devices), len(groups))
        with (
            self._context.report.progress(f"quantize ({count} workers)", sum(sizes.values())) as progress,
            Workers(
                Dealer(sizes, count),
                lambda number, dealt: self._start(number, devices[number], dealt, count),
                self._stored,
                lambda number, error: self.warn(
                    f"worker {number} ended with code {error.exit_code}; its groups are dealt out again"
                ),
                final=(BadInput.exit_code,),
            ) as workers,
        ):
            while workers.poll():
                self.forward()
                progress.advance(min(self._advanced, progress.total) - progress.done)

    def forward(self) -> None:
        """Pass on what workers say within a moment, and add up the bytes that they have done."""
        deadline = time.monotonic() + _LOOK
        while True:
            try:
                worker, event = self._lines.get(timeout=max(deadline - time.monotonic(), 0.001))
            except queue.Empty:
                return
            worker.heard = time.monotonic()
            if event.event == "progress":
                self._advanced += max(event.done - worker.reported, 0)
                worker.reported = max(event.done, worker.reported)
            elif event.event == "error":
                worker.errors.append(event)
            elif event.event == "log" and event.level in ("warning", "error"):
                self.warn(f"worker {worker.number}: {event.message}")

    def warn(self, message: str) -> None:
        self._context.report.log(message, "warning")

    def _start(self, number: int, device: str, dealt: list[str], count: int) -> _Worker:
        options = QuantizeOptions(
            device=device,
            lanes=self._options.lanes or min(lanes_for(0, len(dealt)), max(1, cores() // count // 2)),
            groups=tuple(dealt),
            announce=self._options.announce,
        )
        self._starts += 1
        folder = self._context.scratch / f"worker-{self._starts}"
        folder.mkdir()
        request = self._request.model_copy(update={"options": options.dump()})
        (folder / "request.json").write_text(request.model_dump_json())
        self._context.report.log(f"worker {number} ({device}): {len(dealt)} groups, from {dealt[0]} on")
        child = Child([sys.executable, "-m", "containers.quantize", *_files(folder)], self._environment(folder))
        worker = _Worker(self, number, child)
        child.on_line = lambda line: self._lines.put((worker, Event.parse(line)))
        child.start()
        return worker

    def _environment(self, folder: Path) -> dict[str, str]:
        """The variables of a worker: it is handed what this step was, and leaves its scratch files here."""
        plain, secret = step_variables(self._context.settings, self._request)
        return {
            **inherited(),
            **plain,
            **secret,
            "CARWRIGHT_LOG_FORMAT": "json",
            "PYTHONPATH": str(Path(containers.__file__).parents[1]),
            "PYTHONUNBUFFERED": "1",
            "TMPDIR": str(folder),
        }

    def _stored(self, paths: Collection[str]) -> Collection[str]:
        return find_stored(self._job, self._store, tuple(paths))[0] if paths else ()


@dataclass
class _Worker:
    pool: WorkerPool
    number: int
    child: Child
    heard: float = field(default_factory=time.monotonic)
    reported: float = 0.0  # bytes of progress that were passed on
    errors: list[Event] = field(default_factory=list)

    def poll(self) -> int | None:
        """0 once its list is done; raises for one that has failed or hangs."""
        code = self.child.poll()
        if code is None and time.monotonic() - self.heard > _SILENT:
            self.pool.warn(f"worker {self.number} has said nothing for {_SILENT:.0f} s: stopped")
            code = self.child.stop() or 1
        if not code:
            return code
        self.child.stop()  # its supervisor has ended; this closes the pipes and waits for the last lines
        self.pool.forward()
        said = self.errors[-1] if self.errors else None
        message = said.message if said is not None else f"a worker ended with code {code}:\n{self.child.tail}"
        remedy = said.remedy if said is not None else ""
        if code == BadInput.exit_code:
            raise BadInput(message, remedy=remedy)
        raise StepFailed("quantize", code, message, remedy=remedy)

    def end(self) -> None:
        self.child.stop()


def _files(folder: Path) -> tuple[str, ...]:
    return "--request", str(folder / "request.json"), "--result", str(folder / "result.json")


def worker_devices(options: QuantizeOptions) -> list[str]:
    """The device of each worker: those named, else every GPU, else the one device of the request, `workers` in all."""
    devices = list(options.devices)
    if not devices and options.device == "auto":
        import torch

        devices = [f"cuda:{index}" for index in range(torch.cuda.device_count())] or ["cpu"]
    devices = devices or [options.device]
    return [devices[number % len(devices)] for number in range(options.workers or len(devices))]
