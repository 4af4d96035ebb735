"""How a step is started: one Protocol, one module per way."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from containers.contract import StepRequest, StepResult
    from containers.events import OnEvent


class Launcher(Protocol):
    """Runs one step to its end."""

    def run(self, request: StepRequest, on_event: OnEvent) -> StepResult:
        """Start the step, forward each event while it works, and return its result.

        Raises StepFailed with the step's exit code and its own words when it ends without a result. Whatever
        happens in here or to this process, nothing of the step is left running.
        """
        ...

    def prepare(self, request: StepRequest, on_event: OnEvent) -> None:
        """Have ready what the step needs before it can start (its environment, its image); safe to call twice."""
        ...
