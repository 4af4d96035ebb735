"""The verdict of the gate, the rule for promotion, and the names of the files that are attached to the image.

Evaluate writes these values; the flow and the promote step use them.
"""

from __future__ import annotations

import operator
from typing import Final, Literal

from pydantic import Field

from containers.contract import GateProfile, Values

Decision = Literal["pass", "refuse", "inconclusive"]
Grounds = Literal["pass", "override", "profile"]

# A decision in the words of in-toto's test result.
TEST_RESULTS: Final[dict[Decision, str]] = {"pass": "PASSED", "inconclusive": "WARNED", "refuse": "FAILED"}

# The files of a verdict's artifact, which promotion attaches to the image as they are.
VERDICT_FILE: Final = "verdict.json"
REPORT_FILE: Final = "report.json"
PAGE_FILE: Final = "report.html"
# The files of a card's artifact, attached beside them.
CARD_FILE: Final = "README.md"
BOM_FILE: Final = "bom.cdx.json"
PROVENANCE_FILE: Final = "provenance.json"  # before 0.3; statements have their names from `containers.in_toto`


class Score(Values):
    """One row of the accuracy table; scores and their differences in points, for a perplexity as they are.

    `lower` and `upper` bound the difference candidate minus baseline: the one passes, the other refuses. `decision` is
    this row's own, None where it decides nothing. `not_applicable` is the card's N/A: a baseline so low that a ratio says
    nothing. For `lower_is_better`, a perplexity, recovery is baseline / candidate. `log_probabilities`: the bounds come from
    them, and lie around the difference that they expect.
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
    log_probabilities: bool = Field(default=False, exclude_if=operator.not_)

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


class Load(Values):
    """So many requests at once: tokens a second over all of them, of the answers and with the prompts, and the median time
    to the first token in seconds.
    """

    requests: int
    output_tokens_per_second: float
    total_tokens_per_second: float
    first_token_seconds: float


# Tokens of each prompt and answer when the speed of a server is measured.
SPEED_PROMPT: Final = 512
SPEED_ANSWER: Final = 64


class Serving(Values):
    """How one model was served on GPUs when it was measured: bytes of weights on each, tokens of the KV cache, seconds until
    it was ready, how it was told to read the weights (vLLM's name of the format; empty for its default), and its speed.
    """

    role: str
    gpus: int
    weights_per_gpu: int
    cache_tokens: int
    start_seconds: float
    load_format: str = ""
    loads: tuple[Load, ...] = ()


class SpeedRow(Values):
    """One measure under one load, each the median of its rounds; latencies in milliseconds. `lower` and `upper` bound candidate /
    baseline: the candidate's least round over the baseline's largest, and the other way round. `slo` is what was asked for.
    """

    load: str
    measure: str
    baseline: float
    candidate: float
    lower: float
    upper: float
    slo: str = Field(default="", exclude_if=operator.not_)
    decision: Decision | None = Field(default=None, exclude_if=operator.not_)

    @property
    def ratio(self) -> float:
        return self.candidate / self.baseline

    @property
    def shown(self) -> bool:
        """Whether it is among the rows of a short table: p50, p99 and throughput, less the times between single tokens, and what
        was asked for.
        """
        short = self.measure.endswith(("_p50", "_p99", "tokens_per_second")) and not self.measure.startswith("itl")
        return bool(self.slo) or short

    def cells(self) -> tuple[str, str, str, str, str]:
        """Load, measure, baseline, candidate and ratio as text."""
        kind, _, percentile = self.measure.partition("_p")
        measure = f"{kind.upper()} p{percentile}, ms" if percentile.isdecimal() else self.measure.replace("_", " ")
        ratio = f"{self.ratio:.2f} ({self.lower:.2f} to {self.upper:.2f})"
        return self.load, measure, f"{self.baseline:,.4g}", f"{self.candidate:,.4g}", ratio


class SpeedComparison(Values):
    """How fast both answered under load, on the same `hardware` (empty where that is not known), and in a sentence or two."""

    hardware: str
    generator: str
    prompt_tokens: int
    output_tokens: int
    rounds: int
    sentences: tuple[str, ...] = ()
    rows: tuple[SpeedRow, ...] = ()


class Verdict(Values):
    """`decision`: pass, refuse or inconclusive; `reasons` are sentences for people.

    `measures` are numbers with their unit in the name where they have one; `scores` the rows of the accuracy table;
    `commands` what a person types to measure again, as it was run; `report` of the step's artifact has the rest. `look` is the last
    look that was judged, of `looks`; both 0 where the suite has none.
    """

    decision: Decision
    subject: str
    baseline: str = ""
    suite: str
    reasons: tuple[str, ...] = ()
    measures: dict[str, float] = Field(default_factory=dict)
    scores: tuple[Score, ...] = ()
    commands: tuple[str, ...] = ()
    server: str = Field(default="", alias="engine")
    baseline_server: str = Field(default="", alias="baseline_engine")
    serving: tuple[Serving, ...] = Field(
        default=(), exclude_if=operator.not_, description="baseline and candidate, where they were on GPUs"
    )
    speed: SpeedComparison | None = Field(
        default=None, exclude_if=operator.not_, description="of a suite that puts load on both"
    )
    look: int = Field(default=0, exclude_if=operator.not_)
    looks: int = Field(default=0, exclude_if=operator.not_)

    @property
    def next_look(self) -> int:
        """The look that may decide what this one could not; 0 where nothing is open or nothing more can be measured."""
        return self.look + 1 if self.decision == "inconclusive" and self.look < self.looks else 0


def grounds_for_promotion(decision: Decision | None, *, override: str, profile: GateProfile) -> Grounds | None:
    """What promotes a candidate; None if nothing does. This is the only implementation of the rule.

    A pass promotes by itself. `override`, a reason, promotes whatever the gate said. The profile `smoke` promotes what
    the gate could not decide. `decision` is None for a candidate that has no verdict.
    """
    if decision == "pass":
        return "pass"
    if override:
        return "override"
    if decision == "inconclusive" and profile == "smoke":
        return "profile"
    return None


def decide_by_limit(
    lower: float | None, upper: float | None, *, at_most: float | None = None, at_least: float | None = None
) -> Decision:
    """What the interval of a measure says against its limit, which has one side; without an interval nothing is decided.

    This is the only implementation of the rule.
    """
    if lower is None or upper is None:
        return "inconclusive"
    good, bad = True, False
    if at_most is not None:
        good, bad = upper <= at_most, lower > at_most
    elif at_least is not None:
        good, bad = lower >= at_least, upper < at_least
    return "pass" if good else "refuse" if bad else "inconclusive"
