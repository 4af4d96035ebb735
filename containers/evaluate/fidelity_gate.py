"""The gate for fidelity: compares each measure of a candidate's distance from its baseline with a limit.

A measure passes when its bound lies on the good side of the limit and refuses when the other bound lies beyond it.
Between, when the interval holds the limit, it is inconclusive.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Final, Literal, Self

from pydantic import Field, model_validator

from containers.contract import Frozen
from containers.evaluate.declaration import Positive
from containers.verdict import decide_by_limit

if TYPE_CHECKING:
    from collections.abc import Mapping

    from containers.evaluate.compare import Estimate
    from containers.verdict import Decision

Measure = Literal["kl_mean", "top1_agreement", "abs_dlogp_mean", "perplexity_ratio", "worst_passage_kl"]
_NAMES: Final[Mapping[Measure, str]] = {
    "kl_mean": "the mean KL divergence from the baseline",
    "top1_agreement": "the share of positions with the same likeliest token",
    "abs_dlogp_mean": "the mean absolute difference of log-probabilities",
    "perplexity_ratio": "the perplexity relative to the baseline's",
    "worst_passage_kl": "the mean KL divergence in the worst passage",
}
_UNITS: Final[Mapping[Measure, str]] = {"kl_mean": " nats", "abs_dlogp_mean": " nats", "worst_passage_kl": " nats"}


class Limit(Frozen):
    """Exactly one side."""

    at_most: float | None = None
    at_least: float | None = None

    @model_validator(mode="after")
    def _one_side(self) -> Self:
        if (self.at_most is None) == (self.at_least is None):
            raise ValueError("a limit has either at_most or at_least")
        return self

    @property
    def bound(self) -> float:
        bound = self.at_least if self.at_most is None else self.at_most
        assert bound is not None
        return bound

    def decide(self, found: Estimate) -> Decision:
        """What an estimate's interval says against this limit; without an interval nothing is decided."""
        return decide_by_limit(found.lower, found.upper, at_most=self.at_most, at_least=self.at_least)


class FidelityGate(Frozen):
    """`block` is a number of tokens: neighbours share their context, so a block counts as one observation."""

    confidence: Annotated[float, Field(gt=0.5, lt=1)] = 0.95
    block: Positive = 32
    limits: dict[Measure, Limit]

    @property
    def confidence_each(self) -> float:
        """Of each one-sided bound: the error is divided by the number of limits (Bonferroni)."""
        return 1 - (1 - self.confidence) / max(len(self.limits), 1)


@dataclass
class Findings:
    """Sentences, grouped by their effect on the decision."""

    refuse: list[str] = field(default_factory=list)
    open: list[str] = field(default_factory=list)
    good: list[str] = field(default_factory=list)

    def add(self, other: Findings) -> None:
        self.refuse += other.refuse
        self.open += other.open
        self.good += other.good

    @property
    def decision(self) -> Decision:
        return "refuse" if self.refuse else "inconclusive" if self.open else "pass"

    @property
    def reasons(self) -> tuple[str, ...]:
        return tuple(self.refuse + self.open) or tuple(self.good)


def decide(gate: FidelityGate, estimates: Mapping[str, Estimate]) -> Findings:
    """Compare every limited measure with its limit; a measure without an estimate leaves the verdict open."""
    findings = Findings()
    for name, limit in gate.limits.items():
        title, unit, found = _NAMES[name], _UNITS.get(name, ""), estimates.get(name)
        if found is None or found.lower is None or found.upper is None:
            findings.open.append(f"There is too little text to bound {title}.")
            continue
        said = (
            f"{title[0].upper()}{title[1:]} is {found.value:.4g}{unit} "
            f"({found.lower:.4g} to {found.upper:.4g}, one-sided {gate.confidence_each:.3g} each); "
            f"{'at least' if limit.at_most is None else 'at most'} {limit.bound:g}{unit} is allowed"
        )
        match limit.decide(found):
            case "pass":
                findings.good.append(f"{said}.")
            case "refuse":
                findings.refuse.append(f"{said}: beyond the limit.")
            case "inconclusive":
                findings.open.append(
                    f"{said}: the interval holds the limit; about {_more(found, limit.bound):.1f} times as much text "
                    "would decide."
                )
    return findings


def _more(found: Estimate, bound: float) -> float:
    """How many times the text an interval needs that reaches from the value just to the limit (width falls with √n)."""
    assert found.lower is not None
    assert found.upper is not None
    reach = found.upper - found.value if bound > found.value else found.value - found.lower
    distance = abs(bound - found.value)
    return max((reach / distance) ** 2, 1.0) if distance > 0 else 1e6
