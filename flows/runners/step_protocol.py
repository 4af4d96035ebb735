"""What every launcher says to a step and hears from it: the names of the files, the settings, the words of its end."""

from __future__ import annotations

import json
import signal
from typing import TYPE_CHECKING, Any, Final

from pydantic import BaseModel, SecretStr, ValidationError

from containers.contract import Step, StepResult
from containers.errors import Interrupted, StepFailed
from containers.events import Event

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from containers.events import OnEvent
    from containers.settings import Settings

REQUEST: Final = "request.json"
RESULT: Final = "result.json"
LOG: Final = "log.jsonl"

# The secrets that a step gets, by setting; every other setting is no secret and goes to all of them.
_SECRETS: Final[Mapping[Step, tuple[str, ...]]] = {
    Step.DOWNLOAD: ("store", "hub_token", "source"),
    Step.QUANTIZE: ("store",),
    Step.PUSH: ("store", "registry"),
    Step.SERVE: ("store", "registry"),
    Step.EVALUATE: ("store", "registry", "hub_token"),  # tokenizers of modelcars, and gated data sets
}


def variables(settings: Settings, step: Step) -> tuple[dict[str, str], dict[str, str]]:
    """The settings as the environment variables that they are read from, and apart from these the step's secrets.

    What is unset is left out of both.
    """
    plain: dict[str, str] = {}
    secret: dict[str, str] = {}
    for top, variable, value in _leaves(settings, "CARWRIGHT_"):
        if isinstance(value, SecretStr):
            if top in _SECRETS[step]:
                secret[variable] = value.get_secret_value()
        elif isinstance(value, (tuple, list, dict)):
            plain[variable] = json.dumps(value)
        elif value is not None:
            plain[variable] = str(value)
    return plain, secret


def _leaves(settings: BaseModel, prefix: str, root: str = "") -> Iterator[tuple[str, str, Any]]:
    """Name of the top setting, variable and value of everything in a tree of settings."""
    for name in type(settings).model_fields:
        value = getattr(settings, name)
        if isinstance(value, BaseModel):
            yield from _leaves(value, f"{prefix}{name.upper()}__", root or name)
        else:
            yield root or name, f"{prefix}{name.upper()}", value


class StepOutput:
    """Forwards a step's lines as events and remembers its errors, the words that a failure is told with."""

    def __init__(self, on_event: OnEvent) -> None:
        self._on_event = on_event
        self.errors: list[Event] = []

    def line(self, line: str) -> None:
        event = Event.parse(line)
        if event.event == "error":
            self.errors.append(event)
        self._on_event(event)


def read_result(content: bytes | None, step: Step) -> StepResult:
    """Read what a step left; raises StepFailed when there is nothing (None) or nonsense."""
    try:
        if content is None:
            raise FileNotFoundError(RESULT)
        return StepResult.model_validate_json(content)
    except (OSError, ValidationError) as error:
        raise StepFailed(step, 1, f"{step} ended well but left no readable result: {error}") from error


def step_failure(step: Step, code: int, said: Sequence[Event], tail: str, where: str) -> StepFailed | Interrupted:
    """Turn an exit code and the step's last words into the error to raise; `where` says where its log is."""
    if said:
        remedy = f"{said[-1].remedy} ({where})" if said[-1].remedy else where
        if code == Interrupted.exit_code:
            return Interrupted(said[-1].message)
        return StepFailed(step, code, said[-1].message, remedy=remedy)
    if code > 128:
        number = code - 128
        name = signal.Signals(number).name if number in set(signal.Signals) else str(number)
        hint = " (out of memory?)" if name == "SIGKILL" else ""
        return StepFailed(
            step, code, f"{step} was ended by {name}{hint}", remedy=f"run it again: it goes on from there; {where}"
        )
    lines = "\n".join(tail.splitlines()[-8:])
    return StepFailed(step, code, f"{step} ended with code {code} and no error message:\n{lines}", remedy=where)
