"""What the gate says of a candidate: the values that cross the border from evaluate to the flow and to promote."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from containers.contract import Values

Decision = Literal["pass", "refuse", "inconclusive"]


class Score(Values):
    """One row of the accuracy table; scores and their differences in points, for a perplexity as they are.

    `lower` and `upper` bound the difference candidate minus baseline: the one passes, the other refuses. `decision` is
    this row's own, None where it decides nothing. `not_applicable` is the card's N/A: a baseline so low that a ratio says
    nothing. For `lower_is_better`, a perplexity, recovery is baseline / candidate.
    """

    title: str
    category: str = ""
    data_set: str = ""
    metric: str = "accuracy"
    samples: int = 0
    baseline: float
    candidate: float
    lower: float | None = None
    upper: float | None = None
    margin: float | None = None
    decision: Decision | None = None
    lower_is_better: bool = False
    not_applicable: bool = False
    gain_beyond_noise: bool = False

    @property
    def difference(self) -> float:
        return self.candidate - self.baseline

    @property
    def recovery(self) -> float | None:
        """Percent; None where it says nothing."""
        return self._recovery(self.candidate)

    @property
    def recovery_bounds(self) -> tuple[float, float] | None:
        """Recovery, in percent, at the two bounds of the difference, the lower one first."""
        if self.lower is None or self.upper is None:
            return None
        low, high = (self._recovery(self.baseline + bound) for bound in (self.lower, self.upper))
        return None if low is None or high is None else (min(low, high), max(low, high))

    def _recovery(self, candidate: float) -> float | None:
        over, under = (self.baseline, candidate) if self.lower_is_better else (candidate, self.baseline)
        return None if self.not_applicable or not under else 100 * over / under


class Verdict(Values):
    """`decision`: pass, refuse or inconclusive; `reasons` are sentences for people.

    `measures` are numbers with their unit in the name where they have one; `scores` the rows of the accuracy table;
    `commands` what a person types to measure again, as it was run; `report` of the step's artifact has the rest.
    """

    decision: Decision
    subject: str
    baseline: str = ""
    suite: str
    reasons: tuple[str, ...] = ()
    measures: dict[str, float] = Field(default_factory=dict)
    scores: tuple[Score, ...] = ()
    commands: tuple[str, ...] = ()
    engine: str = ""
    baseline_engine: str = ""
