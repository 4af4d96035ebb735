"""Services as processes of this machine: `python -m containers.serve` under a supervisor, with a lease file."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, BinaryIO

from pydantic import BaseModel, ValidationError

from containers.contract import Endpoint, ServeOptions, StepRequest
from containers.fingerprints import fingerprint_inputs
from containers.process import Child, start_time, stop_by_pid
from containers.serve_health import is_healthy
from flows.runners.process.launcher import SCRATCH, left, run_folder, step_command, step_environment, where
from flows.runners.step_protocol import LOG, RESULT, StepOutput, read_result, step_failure
from infra.environments.environment import prepare

if TYPE_CHECKING:
    from pathlib import Path

    from containers.events import OnEvent
    from infra.settings import Settings

RENEWAL = 10.0  # seconds between renewals of a lease
_LEASE = 60.0  # seconds that a lease lasts: several missed renewals, and still soon enough
_KEPT = 4102444800.0  # 2100-01-01 UTC: the time of "renewal" that means kept for good


class _State(BaseModel):
    """The record of one running service, `<home>/services/<key>.json`; pid and start mark name the supervisor."""

    key: str
    pid: int
    started: str
    owner: int
    owner_started: str
    keep: bool
    endpoint: Endpoint | None = None

    @property
    def runs(self) -> bool:
        return start_time(self.pid) == self.started

    @property
    def abandoned(self) -> bool:
        return not self.keep and start_time(self.owner) != self.owner_started


@dataclass
class ProcessLease:
    """One service and the thread that renews its lease."""

    endpoint: Endpoint
    found: bool
    _state_path: Path
    _state: _State
    _lease: Path
    _done: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        threading.Thread(target=self._renew, daemon=True, name=f"lease-{self._state.key}").start()

    @property
    def serves(self) -> bool:
        return self._state.runs

    def end(self) -> None:
        self._done.set()
        stop_by_pid(self._state.pid, self._state.started)
        self._state_path.unlink(missing_ok=True)
        self._lease.unlink(missing_ok=True)

    def keep(self) -> None:
        self._done.set()
        os.utime(self._lease, (_KEPT, _KEPT))
        _write(self._state_path, self._state.model_copy(update={"keep": True}))

    def _renew(self) -> None:
        while not self._done.wait(RENEWAL):
            with contextlib.suppress(FileNotFoundError):
                os.utime(self._lease)


@dataclass(frozen=True)
class ProcessServices:
    """Reconciles what is served on this machine for the runs of one home folder."""

    settings: Settings

    @property
    def folder(self) -> Path:
        return self.settings.home.resolve() / "services"

    def start(self, request: StepRequest, on_event: OnEvent, *, keep: bool = False) -> ProcessLease:
        self.folder.mkdir(parents=True, exist_ok=True)
        key = request.fingerprint(fingerprint_inputs(request.step))[:12]
        path, lease = self.folder / f"{key}.json", self.folder / f"{key}.lease"
        state = _read(path)
        if state is not None and state.runs and state.endpoint is not None and is_healthy(state.endpoint.url):
            return ProcessLease(state.endpoint, found=True, _state_path=path, _state=state, _lease=lease)
        if state is not None:
            stop_by_pid(state.pid, state.started)

        environment = prepare(request.step, self.settings, on_event)
        folder = run_folder(self.settings, request)
        lease.touch()
        os.utime(lease)
        options = ServeOptions.read(request.options).model_copy(
            update={"lease": str(lease), "lease_seconds": _LEASE, "log_file": str(folder / "engine.log")}
        )
        asked = request.model_copy(update={"options": options.dump()})
        child = Child(
            argv=step_command(environment, asked, folder),
            env=step_environment(self.settings, request, environment, folder),
            cwd=folder / SCRATCH,
            log_file=folder / LOG,
            # Only what is meant to stay may outlive this process; anything else ends with it at once, lease or not.
            detached=keep,
        ).start()
        state = _State(
            key=key,
            pid=child.pid,
            started=start_time(child.pid) or "",
            owner=os.getpid(),
            owner_started=start_time(os.getpid()) or "",
            keep=False,
        )
        _write(path, state)
        try:
            _wait(child, request, folder, lease, on_event)
            endpoint = Endpoint.read(read_result(left(folder), request.step).values)
        except BaseException:
            child.stop()
            path.unlink(missing_ok=True)
            lease.unlink(missing_ok=True)
            raise
        state = state.model_copy(update={"endpoint": endpoint})
        _write(path, state)
        return ProcessLease(endpoint, found=False, _state_path=path, _state=state, _lease=lease)

    def stop_all(self, *, kept: bool = False) -> list[str]:
        stopped = []
        for path in sorted(self.folder.glob("*.json")):
            state = _read(path)
            if state is not None and not (state.abandoned or kept or not state.runs):
                continue
            if state is not None and stop_by_pid(state.pid, state.started):
                stopped.append(state.endpoint.url if state.endpoint else state.key)
            path.unlink(missing_ok=True)
            path.with_suffix(".lease").unlink(missing_ok=True)
        return stopped

    def kept(self) -> list[Endpoint]:
        """The endpoints that serve now and are meant to stay."""
        states = (_read(path) for path in sorted(self.folder.glob("*.json")))
        return [state.endpoint for state in states if state and state.keep and state.runs and state.endpoint]


def _wait(child: Child, request: StepRequest, folder: Path, lease: Path, on_event: OnEvent) -> None:
    """Forward what the step says until it is ready; raises when it ends first."""
    output = StepOutput(on_event)
    tail: list[str] = []
    log = folder / LOG
    while not log.exists():
        time.sleep(0.01)
    renewed = time.monotonic()
    with log.open("rb") as lines:
        while True:
            ended, ready = child.poll(), (folder / RESULT).exists()
            for line in _complete_lines(lines):
                tail.append(line)
                output.line(line)
            if ready:
                return
            if ended is not None:
                raise step_failure(request.step, ended, output.errors, "\n".join(tail), where(folder))
            if time.monotonic() - renewed > RENEWAL:
                os.utime(lease)
                renewed = time.monotonic()
            time.sleep(0.05)


def _complete_lines(stream: BinaryIO) -> list[str]:
    """The whole lines that were written since the last call; half a line is left for the next."""
    lines = []
    while line := stream.readline():
        if not line.endswith(b"\n"):
            stream.seek(-len(line), os.SEEK_CUR)
            break
        lines.append(line.decode(errors="replace").rstrip("\r\n"))
    return lines


def _read(path: Path) -> _State | None:
    try:
        return _State.model_validate_json(path.read_bytes())
    except (OSError, ValidationError):
        return None


def _write(path: Path, state: _State) -> None:
    temporary = path.with_suffix(".tmp")
    temporary.write_text(state.model_dump_json(indent=2) + "\n")
    temporary.replace(path)
