"""Services as processes of this machine: `python -m containers.serve` under a supervisor, with a lease file."""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Self
from urllib.parse import urlsplit

from pydantic import BaseModel, ValidationError

from containers import private
from containers.contract import Step, StepRequest
from containers.errors import BadInput, Error
from containers.fingerprints import fingerprint_inputs
from containers.heartbeat import LEASE_INTERVAL, LEASE_KEPT, LEASE_SECONDS, Renewal
from containers.parameters import Endpoint, ServeOptions
from containers.ports import beside
from containers.process import Child, start_time, stop_by_pid
from containers.serve_health import is_healthy
from flows.runners.process import run_folders
from flows.runners.process.launcher import SCRATCH, left, run_folder, run_in, step_command, step_environment, where
from flows.runners.service import has_policy, stage
from flows.runners.step_protocol import LOG, RESULT, StepOutput, last_error, read_result
from infra.environments.environment import prepare

if TYPE_CHECKING:
    import socket

    from containers.events import OnEvent
    from infra.settings import Settings


class _State(BaseModel):
    """The record of one running service, `<home>/services/<key>.json`; pid and start mark name the supervisor."""

    key: str
    pid: int
    started: str
    owner: int
    owner_started: str
    keep: bool
    endpoint: Endpoint | None = None
    folder: str = ""  # of its step

    @property
    def runs(self) -> bool:
        return start_time(self.pid) == self.started

    @property
    def abandoned(self) -> bool:
        return not self.keep and start_time(self.owner) != self.owner_started

    def forget_scratch(self) -> None:
        """Remove its temporary files, once it has ended."""
        if self.folder:
            shutil.rmtree(Path(self.folder, SCRATCH), ignore_errors=True)


@dataclass
class ProcessLease:
    """One service and the renewal of its lease.

    `_port` is held as well, until the end: where the server ends early nobody else can answer who still asks it.
    """

    endpoint: Endpoint
    found: bool
    _state_path: Path
    _state: _State
    _lease: Path
    _renewal: Renewal
    _port: socket.socket | None
    _folder: Path | None = None  # of the step, where this process has started it

    @property
    def serves(self) -> bool:
        return self._state.runs

    def why_ended(self) -> Error | None:
        if self.serves or self._folder is None:
            return None
        lines = (self._folder / LOG).read_text(errors="replace").splitlines()
        return last_error(Step.SERVE, lines, where(self._folder))

    def end(self) -> None:
        self._renewal.stop()
        stop_by_pid(self._state.pid, self._state.started)
        self._state_path.unlink(missing_ok=True)
        self._lease.unlink(missing_ok=True)
        self._state.forget_scratch()
        if self._port is not None:
            self._port.close()

    def keep(self) -> None:
        self._renewal.stop()
        os.utime(self._lease, (LEASE_KEPT, LEASE_KEPT))
        _write(self._state_path, self._state.model_copy(update={"keep": True}))


@dataclass(frozen=True)
class ProcessServices:
    """Reconciles what is served on this machine for the runs of one home folder."""

    settings: Settings

    @property
    def folder(self) -> Path:
        return self.settings.home.resolve() / "services"

    def start(self, request: StepRequest, on_event: OnEvent, *, keep: bool = False) -> ProcessLease:
        private.folder(self.settings.home.resolve(), "services")
        key = request.fingerprint(fingerprint_inputs(request.step))[:12]
        path, lease = self.folder / f"{key}.json", self.folder / f"{key}.lease"
        renewal = Renewal(lambda: os.utime(lease), LEASE_INTERVAL, f"lease-{key}")
        state = _read(path)
        if state is not None and state.runs and state.endpoint is not None and is_healthy(state.endpoint.url):
            if has_policy(request):
                environment = prepare(request.step, self.settings, on_event)
                run_in(environment, self.settings, stage(request, "compare"), on_event)
            return ProcessLease(state.endpoint, True, path, state, lease, renewal.start(), _hold(state.endpoint))
        if state is not None:
            stop_by_pid(state.pid, state.started)
            state.forget_scratch()

        environment = prepare(request.step, self.settings, on_event)
        if not ServeOptions.read(request.options).folder:
            run_in(environment, self.settings, stage(request, "fetch"), on_event)
            request = stage(request, "serve")
        folder = run_folder(self.settings, request)
        lease.touch(mode=0o600)
        os.utime(lease)
        options = ServeOptions.read(request.options).model_copy(
            update={"lease": str(lease), "lease_seconds": LEASE_SECONDS, "log_file": str(folder / "engine.log")}
        )
        asked = request.model_copy(update={"options": options.dump()})
        child = Child(
            argv=step_command(environment, asked, folder),
            env=step_environment(self.settings, request, environment, folder),
            cwd=folder / SCRATCH,
            scratch=True,
            log_file=folder / LOG,
            umask=private.UMASK,
            # Only what is meant to stay may outlive this process; anything else ends with it at once, lease or not.
            detached=keep,
            holds=run_folders.marks(folder.parent) if keep else (),
        ).start()
        state = _State(
            key=key,
            pid=child.pid,
            started=start_time(child.pid) or "",
            owner=os.getpid(),
            owner_started=start_time(os.getpid()) or "",
            keep=False,
            folder=str(folder),
        )
        _write(path, state)
        renewal.start()
        try:
            _wait(child, request, folder, on_event)
            endpoint = Endpoint.read(read_result(left(folder), request.step).values)
        except BaseException:
            renewal.stop()
            child.stop()
            path.unlink(missing_ok=True)
            lease.unlink(missing_ok=True)
            state.forget_scratch()
            raise
        state = state.model_copy(update={"endpoint": endpoint})
        _write(path, state)
        return ProcessLease(endpoint, False, path, state, lease, renewal, _hold(endpoint), folder)

    def stop_all(self, *, kept: bool = False) -> list[str]:
        stopped = []
        for path in sorted(self.folder.glob("*.json")):
            state = _read(path)
            if state is not None and not (state.abandoned or kept or not state.runs):
                continue
            if state is not None and stop_by_pid(state.pid, state.started):
                stopped.append(state.endpoint.url if state.endpoint else state.key)
            if state is not None:
                state.forget_scratch()
            path.unlink(missing_ok=True)
            path.with_suffix(".lease").unlink(missing_ok=True)
        return stopped


def _hold(endpoint: Endpoint) -> socket.socket | None:
    """The port of a server on this machine, beside it; None where it is not to be had beside one of an older version."""
    with contextlib.suppress(BadInput):
        return beside(urlsplit(endpoint.url).port or 0)
    return None


def _wait(child: Child, request: StepRequest, folder: Path, on_event: OnEvent) -> None:
    """Forward what the step says until it is ready; raises when it ends first."""
    output = StepOutput(on_event)
    log = folder / LOG
    while not log.exists():
        time.sleep(0.01)
    with _Followed(log) as said:
        while True:
            ended, ready = child.poll(), (folder / RESULT).exists()
            if ended is not None:
                child.wait()  # until its last words are in the log
            for line in said.lines():
                output.line(line)
            if ready:
                return
            if ended is not None:
                raise output.failure(request.step, ended, where(folder))
            time.sleep(0.05)


class _Followed:
    """A log that is read while it is written, and rotates meanwhile (`containers.rotating_log`)."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = path.open("rb")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def lines(self) -> list[str]:
        """The whole lines that were written since the last call; half a line is left for the next."""
        lines = _complete_lines(self._file)
        with contextlib.suppress(FileNotFoundError):  # between a rename and the next file
            if not os.path.samestat(os.fstat(self._file.fileno()), self._path.stat()):
                following = self._path.open("rb")  # before the other is closed: it may have been renamed again
                lines += _complete_lines(self._file)  # what came before the rename
                self._file.close()
                self._file = following
                lines += _complete_lines(self._file)
        return lines


def _complete_lines(stream: BinaryIO) -> list[str]:
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
    private.write(path, state.model_dump_json(indent=2) + "\n")
