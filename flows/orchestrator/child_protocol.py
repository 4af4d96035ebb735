"""What a run and its child run leave for each other in the store: where it is, and what it looks like.

Both sides import this module (`flows.orchestrator.child_runs` for the parent, `flows.run_step` for the child); it imports neither.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from containers.contract import Frozen, StepResult
from flows.orchestrator.failure import Failure

if TYPE_CHECKING:
    from infra.settings import Settings

STEP_LOGGER: Final = "step"  # the last part of a logger's name: these lines are the step's own, not Prefect's


class ChildOutcome(Frozen):
    """What a child run leaves: a result or a failure."""

    result: StepResult | None = None
    failure: Failure | None = None


def child_key(key: str, what: str) -> str:
    """Where in the store a child run's `outcome` and `endpoint`, and the heartbeats of `child` and `parent`, are."""
    return f"results/children/{key}/{what}.json"


def heartbeat_interval(settings: Settings) -> float:
    """Seconds between two heartbeats: several may be lost before the other side gives up."""
    return min(10.0, settings.placement.silence / 5)
