"""The keys and formats through which a run and its child run communicate in the store.

Both sides import this module (`flows.orchestrator.child_runs` for the parent, `flows.run_step` for the child); it imports neither.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from containers.contract import Frozen, StepResult
from flows.orchestrator.failure import Failure

if TYPE_CHECKING:
    from infra.settings import Settings

STEP_LOGGER: Final = "step"  # last part of the logger's name of lines that come from the step, not from Prefect


class ChildOutcome(Frozen):
    """The outcome of a child run: a result or a failure."""

    result: StepResult | None = None
    failure: Failure | None = None


def child_key(key: str, what: str) -> str:
    """The store key of a child run's `outcome` or `endpoint`, or of the heartbeat of `child` or `parent`."""
    return f"results/children/{key}/{what}.json"


def heartbeat_interval(settings: Settings) -> float:
    """Seconds between two heartbeats; several may be lost before the other side gives up."""
    return min(10.0, settings.placement.silence / 5)
