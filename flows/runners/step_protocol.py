"""What every launcher says to a step and hears from it: the names of the files, the lines, the result, why it failed."""

from __future__ import annotations

import logging
import signal
from collections import deque
from typing import TYPE_CHECKING, Final

from pydantic import ValidationError

from containers.contract import Step, StepResult
from containers.errors import Interrupted, StepFailed
from containers.events import Event

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from containers.events import OnEvent

REQUEST: Final = "request.json"
RESULT: Final = "result.json"
LOG: Final = "log.jsonl"
_LOGGER: Final = logging.getLogger(__name__)
_TAIL: Final = 40  # lines


class StepOutput:
    """Forwards a step's lines as events, and keeps what explains a failure: its errors and its last lines."""

    def __init__(self, on_event: OnEvent) -> None:
        self._on_event = on_event
        self._tail: deque[str] = deque(maxlen=_TAIL)
        self.errors: list[Event] = []

    def line(self, line: str) -> None:
        """Pass a line on. A listener's trouble neither ends nor stalls the step; only Interrupted comes through."""
        self._tail.append(line)
        event = Event.parse(line)
        if event.event == "error":
            self.errors.append(event)
        try:
            self._on_event(event)
        except Interrupted:  # not the listener's: a signal's handler raises it wherever this thread stands
            raise
        except (
            Exception,
            SystemExit,
        ):  # a listener's trouble must neither end nor stall the step; rich ends a thread that no one reads
            _LOGGER.exception("a line of the step could not be passed on")

    def failure(self, step: Step, code: int, where: str) -> StepFailed | Interrupted:
        """The error for a step that ended with this code; `where` says where its log is."""
        return step_failure(step, code, self.errors, "\n".join(self._tail), where)

    def out_of_memory(self, step: Step, code: int, limit: str, where: str) -> StepFailed | Interrupted:
        """The same for a container in which the kernel ended something for want of memory; `limit` says how much it had."""
        if self.errors:  # it could still say itself what happened
            return self.failure(step, code, where)
        return StepFailed(
            step,
            code,
            f"{step} was ended by the kernel: it needed more memory than {limit}",
            remedy=f"raise CARWRIGHT_RESOURCES__{step.upper()}__MEMORY_GIB; {where}",
        )


def last_error(step: Step, lines: Iterable[str], where: str) -> StepFailed | Interrupted | None:
    """The error that a step with these lines ended with; None where it said none."""
    output = StepOutput(lambda _: None)
    for line in lines:
        output.line(line)
    return output.failure(step, output.errors[-1].exit_code or 1, where) if output.errors else None


def read_result(content: bytes | None, step: Step) -> StepResult:
    """Read what a step left; raises StepFailed when there is nothing (None) or nonsense."""
    try:
        if content is None:
            raise FileNotFoundError(RESULT)
        return StepResult.model_validate_json(content)
    except (OSError, ValidationError) as error:
        raise StepFailed(step, 1, f"{step} ended well but left no readable result: {error}") from error


def step_failure(step: Step, code: int, said: Sequence[Event], tail: str, where: str) -> StepFailed | Interrupted:
    """Turn an exit code and the step's last words into the error to raise; `where` says where its log is.

    A code below 0 is Python's code for a signal that ended the supervisor, and the step with it.
    """
    code = 128 - code if code < 0 else code
    if said:
        remedy = f"{said[-1].remedy} ({where})" if said[-1].remedy else where
        if code == Interrupted.exit_code:
            return Interrupted(said[-1].message)
        return StepFailed(step, code, said[-1].message, remedy=remedy)
    if code > 128:
        number = code - 128
        name = signal.Signals(number).name if number in set(signal.Signals) else str(number)
        hint = " (out of memory?)" if name == "SIGKILL" else ""
        return StepFailed(step, code, f"{step} was ended by {name}{hint}", remedy=f"run it again: it resumes; {where}")
    lines = "\n".join(tail.splitlines()[-8:])
    return StepFailed(step, code, f"{step} ended with code {code} and no error message:\n{lines}", remedy=where)
