"""Runs a step as a child process in the step's own virtual environment."""

from __future__ import annotations

import json
import shutil
import signal
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel, SecretStr, ValidationError

from containers.contract import Step, StepRequest, StepResult
from containers.errors import Interrupted, StepFailed
from containers.events import Event
from containers.process import Child, inherited
from flows.environments import prepare

if TYPE_CHECKING:
    from containers.settings import Settings
    from flows.environments import Environment
    from flows.launchers import OnEvent


@dataclass(frozen=True)
class ProcessLauncher:
    """Steps as processes of this machine; `settings` must name a store that is up."""

    settings: Settings

    def prepare(self, request: StepRequest, on_event: OnEvent) -> None:
        prepare(request.step, self.settings, on_event)

    def run(self, request: StepRequest, on_event: OnEvent) -> StepResult:
        environment = prepare(request.step, self.settings, on_event)
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


# The secrets that a step gets, by setting; every other setting is no secret and goes to all of them.
_SECRETS = {
    Step.DOWNLOAD: ("store", "hub_token", "source"),
    Step.QUANTIZE: ("store",),
    Step.PUSH: ("store", "registry"),
    Step.SERVE: ("store", "registry"),
    Step.EVALUATE: ("store",),
}


def step_environment(settings: Settings, step: Step, environment: Environment, folder: Path) -> dict[str, str]:
    """Environment variables of a step: the settings, with the secrets that this very step needs and no others."""
    here = settings.model_copy(
        update={
            "home": settings.home.resolve(),
            "cache": settings.cache.expanduser().resolve(),
            "log_format": "json",
        }
    )
    return {
        **inherited(),
        **environment.environment(),
        **_variables(here, "CARWRIGHT", _SECRETS[step]),
        # Temporary files go beside the request: those of a killed step are found and removed.
        "TMPDIR": str(folder / SCRATCH),
        "PYTHONUNBUFFERED": "1",
    }


def _variables(settings: BaseModel, prefix: str, secrets: tuple[str, ...], root: str = "") -> dict[str, str]:
    """A tree of settings as the environment variables that it is read from; what is unset is left out."""
    found: dict[str, str] = {}
    for name in type(settings).model_fields:
        value = getattr(settings, name)
        top, variable = root or name, f"{prefix}{'__' if root else '_'}{name.upper()}"
        if isinstance(value, BaseModel):
            found |= _variables(value, variable, secrets, top)
        elif isinstance(value, SecretStr):
            if top in secrets:
                found[variable] = value.get_secret_value()
        elif isinstance(value, (tuple, list, dict)):
            found[variable] = json.dumps(value)
        elif value is not None:
            found[variable] = str(value)
    return found


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
