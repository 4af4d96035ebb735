"""Several workers on one machine: child processes of this step, each with a list of groups and a device of its own."""

from __future__ import annotations

import queue
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

import containers
from containers.contract import QuantizeOptions, StepRequest
from containers.errors import BadInput, Error, StepFailed
from containers.events import Event
from containers.process import Child, inherited
from containers.quantize.resources import cores, lanes_for
from containers.quantize.worker import find_stored
from containers.settings import step_variables
from containers.work_sharing import Dealer

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from containers.quantize.groups import Group
    from containers.quantize.preflight import QuantizeJob
    from containers.step import Context
    from containers.store import Store

_SILENT: Final = 600.0  # seconds without a word after which a worker counts as hung
_LOOK: Final = 0.2  # seconds between two looks at the workers
_NOT_RETRIED: Final = (BadInput.exit_code,)


@dataclass
class _Worker:
    number: int
    device: str
    child: Child | None = None
    heard: float = 0.0
    reported: float = 0.0  # bytes of progress that were passed on
    errors: list[Event] = field(default_factory=list)


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
        self._lines: queue.SimpleQueue[tuple[_Worker, Child, Event]] = queue.SimpleQueue()

    def run(self, groups: Sequence[Group], devices: Sequence[str]) -> None:
        """Bring these groups into the store, with a worker for each of `devices` (a device may be named twice)."""
        sizes = {group.path: group.source.size for group in groups}
        count = min(len(devices), len(groups))
        workers = [_Worker(number, devices[number]) for number in range(count)]
        dealer = Dealer(sizes, count)
        starts = 0
        with self._context.report.progress(f"quantize ({count} workers)", sum(sizes.values())) as progress:
            try:
                while True:
                    for worker in workers:
                        if worker.child is None and (dealt := dealer.deal(worker.number, self._stored)):
                            starts += 1
                            self._start(worker, dealt, starts, count)
                    if all(worker.child is None for worker in workers):
                        break
                    for worker in workers:
                        self._check(worker, dealer)
                    self._forward()
                    progress.advance(min(self._advanced, progress.total) - progress.done)
            finally:
                for worker in workers:
                    if worker.child is not None:
                        worker.child.stop()

    def _start(self, worker: _Worker, dealt: list[str], number: int, count: int) -> None:
        options = QuantizeOptions(
            device=worker.device,
            lanes=self._options.lanes or min(lanes_for(0, len(dealt)), max(1, cores() // count // 2)),
            groups=tuple(dealt),
        )
        folder = self._context.scratch / f"worker-{number}"
        folder.mkdir()
        request = self._request.model_copy(update={"options": options.dump()})
        (folder / "request.json").write_text(request.model_dump_json())
        child = Child(
            argv=[sys.executable, "-m", "containers.quantize", *_files(folder)],
            env=self._environment(folder),
            on_line=lambda line: self._lines.put((worker, child, Event.parse(line))),
        )
        self._context.report.log(f"worker {worker.number} ({worker.device}): {len(dealt)} groups, from {dealt[0]} on")
        worker.child, worker.heard, worker.reported, worker.errors = child.start(), time.monotonic(), 0.0, []

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

    def _check(self, worker: _Worker, dealer: Dealer) -> None:
        """See whether a worker has ended or hangs, and take back what it has not done."""
        child = worker.child
        if child is None:
            return
        code = child.poll()
        if code is None and time.monotonic() - worker.heard > _SILENT:
            self._context.report.log(f"worker {worker.number} has said nothing for {_SILENT:.0f} s: stopped", "warning")
            code = child.stop() or 1
        if code is None:
            return
        child.stop()  # its supervisor has ended; this closes the pipes and waits for the last lines
        self._forward()
        worker.child = None
        if code == 0:
            dealer.finished(worker.number)
            return
        if code in _NOT_RETRIED:
            raise self._failure(worker, code, child)
        self._context.report.log(
            f"worker {worker.number} ended with code {code}; its groups are dealt out again", "warning"
        )
        try:
            dealer.died(worker.number, self._stored(dealer.hands.get(worker.number, [])))
        except Error as error:
            raise error from self._failure(worker, code, child)

    def _failure(self, worker: _Worker, code: int, child: Child) -> Error:
        said = worker.errors[-1] if worker.errors else None
        message = said.message if said is not None else f"a worker ended with code {code}:\n{child.tail}"
        remedy = said.remedy if said is not None else ""
        if code == BadInput.exit_code:
            return BadInput(message, remedy=remedy)
        return StepFailed("quantize", code, message, remedy=remedy)

    def _forward(self) -> None:
        """Pass on what workers say within a moment, and add up the bytes that they have done."""
        deadline = time.monotonic() + _LOOK
        while True:
            try:
                worker, child, event = self._lines.get(timeout=max(deadline - time.monotonic(), 0.001))
            except queue.Empty:
                return
            worker.heard = time.monotonic()
            if event.event == "progress" and child is worker.child:
                self._advanced += max(event.done - worker.reported, 0)
                worker.reported = max(event.done, worker.reported)
            elif event.event == "error":
                worker.errors.append(event)
            elif event.event == "log" and event.level in ("warning", "error"):
                self._context.report.log(f"worker {worker.number}: {event.message}", "warning")

    def _stored(self, paths: Collection[str]) -> Collection[str]:
        return find_stored(self._job, self._store, tuple(paths))[0] if paths else ()


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
