"""Runs a step as a child process in the step's own virtual environment."""

from __future__ import annotations

import shutil
import signal
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import SecretStr, ValidationError

from containers.contract import Step, StepRequest, StepResult
from containers.errors import Interrupted, StepFailed
from containers.events import Event
from containers.process import Child, inherited
from flows.environments import ensure

if TYPE_CHECKING:
    from containers.settings import Settings
    from flows.environments import Environment
    from flows.launchers import OnEvent


@dataclass(frozen=True)
class ProcessLauncher:
    """Steps as processes of this machine; `settings` must name a store that is up."""

    settings: Settings

    def prepare(self, request: StepRequest, on_event: OnEvent) -> None:
        ensure(request.step, self.settings.cache, on_event)

    def run(self, request: StepRequest, on_event: OnEvent) -> StepResult:
        environment = ensure(request.step, self.settings.cache, on_event)
        folder = run_folder(self.settings, request)
        said: list[Event] = []

        def listen(line: str) -> None:
            event = Event.parse(line)
            if event.event == "error":
                said.append(event)
            on_event(event)

        child = Child(
            argv=step_command(environment, request, folder),
            env=step_environment(self.settings, request.step, environment, folder),
            log_file=folder / LOG,
            on_line=listen,
        )
        try:
            with child:
                code = child.wait()
        finally:
            shutil.rmtree(folder / SCRATCH, ignore_errors=True)
        if code != 0:
            raise step_failure(request.step, code, said, child.tail, folder)
        return read_result(folder / RESULT, request.step)


REQUEST = "request.json"
RESULT = "result.json"
LOG = "log.jsonl"
SCRATCH = "scratch"


def run_folder(settings: Settings, request: StepRequest) -> Path:
    """A new folder for the request, the result and the log of one start of a step."""
    parent = settings.home.resolve() / "runs" / request.run
    parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f"{request.step}-", dir=parent))
    (folder / SCRATCH).mkdir()
    return folder


def step_command(environment: Environment, request: StepRequest, folder: Path) -> list[str]:
    """Write the request into `folder` and return the command that answers it with `result.json` there."""
    (folder / REQUEST).write_text(request.model_dump_json(indent=2) + "\n")
    return [
        str(environment.python),
        "-m",
        f"containers.{request.step}",
        "--request",
        str(folder / REQUEST),
        "--result",
        str(folder / RESULT),
    ]


def step_environment(settings: Settings, step: Step, environment: Environment, folder: Path) -> dict[str, str]:
    """Environment variables of a step: where things are, and the secrets that this very step needs."""
    store = settings.store
    given: dict[str, str | SecretStr | None] = {
        "CARWRIGHT_HOME": str(settings.home.resolve()),
        "CARWRIGHT_CACHE": str(settings.cache.expanduser().resolve()),
        "CARWRIGHT_LOG_FORMAT": "json",
        "CARWRIGHT_STORE__ENDPOINT": store.endpoint,
        "CARWRIGHT_STORE__BUCKET": store.bucket,
        "CARWRIGHT_STORE__PREFIX": store.prefix,
        "CARWRIGHT_STORE__REGION": store.region,
        "CARWRIGHT_STORE__ACCESS_KEY_ID": store.access_key_id,
        "CARWRIGHT_STORE__SECRET_ACCESS_KEY": store.secret_access_key,
        "CARWRIGHT_SERVE__PORT": str(settings.serve.port),
        "CARWRIGHT_SERVE__READY_TIMEOUT": str(settings.serve.ready_timeout),
        "CARWRIGHT_SERVE__KV_CACHE_GIB": str(settings.serve.kv_cache_gib),
        # Temporary files go beside the request: those of a killed step are found and removed.
        "TMPDIR": str(folder / SCRATCH),
        "PYTHONUNBUFFERED": "1",
    }
    if step is Step.DOWNLOAD:
        given["HF_ENDPOINT"] = settings.hub_endpoint
        given["HF_TOKEN"] = settings.hub_token
    plain = {
        name: value.get_secret_value() if isinstance(value, SecretStr) else value
        for name, value in given.items()
        if value is not None
    }
    return inherited() | environment.environment() | plain


def read_result(path: Path, step: Step) -> StepResult:
    """Read what a step left; raises StepFailed when there is nothing or nonsense."""
    try:
        return StepResult.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise StepFailed(step, 1, f"{step} ended well but left no readable result: {error}") from error


def step_failure(step: Step, code: int, said: list[Event], tail: str, folder: Path) -> StepFailed | Interrupted:
    """Turn an exit code and the step's last words into the error to raise."""
    log = f"its log is {folder / LOG}"
    if said:
        remedy = f"{said[-1].remedy} ({log})" if said[-1].remedy else log
        if code == Interrupted.exit_code:
            return Interrupted(said[-1].message)
        return StepFailed(step, code, said[-1].message, remedy=remedy)
    if code > 128:
        number = code - 128
        name = signal.Signals(number).name if number in set(signal.Signals) else str(number)
        hint = " (out of memory?)" if name == "SIGKILL" else ""
        return StepFailed(
            step, code, f"{step} was ended by {name}{hint}", remedy=f"run it again: it goes on from there; {log}"
        )
    lines = "\n".join(tail.splitlines()[-8:])
    return StepFailed(step, code, f"{step} ended with code {code} and no word of its own:\n{lines}", remedy=log)
