"""The gate for benchmarks: is the candidate, question by question, not worse than the baseline by more than a margin?

Differences are candidate minus baseline; scores of single questions lie between 0 and 1, everything else is in points.
Both models answer the same questions, so only the questions on which they differ carry information (McNemar). For right
and wrong answers the bounds are Tango's score bounds (Statistics in Medicine 17, 1998, 891-908), which hold where few
questions differ; for partial credit they are normal bounds of the mean difference, and the one that passes counts half a
question more as lost: where few problems make up the difference, the spread that was seen is too small (by simulation
6 to 14 % of candidates that lose the margin passed without it, and at most about 6 % do with it).

Questions that are not independent (instructions of one prompt, one question in several subsets) share a cluster. They
count for as many fewer questions as their differences vary together: the design effect (Rao and Scott, Biometrics 48,
1992, 577-585), which divides the counts and is never taken below 1.

Two levels. To pass, every benchmark must show that it loses less than its margin, each at the full level: a candidate
that is really worse somewhere slips through with at most `1 - confidence`, however many benchmarks there are (an
intersection-union test needs no correction). To refuse, one benchmark is enough, so there the level is divided by the
number of tests (Bonferroni): an honest candidate is refused with at most `1 - confidence` over the whole suite.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from statistics import NormalDist
from typing import TYPE_CHECKING

import numpy as np

from containers.contract import Frozen
from containers.errors import BadInput
from containers.verdict import Decision, Score

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from containers.evaluate.declaration import ScoreGate

_HALVINGS = 50  # of the interval from -1 to 1: far below rounding
_HALF = 0.5  # of a question that counts as lost, beside those of partial credit that were seen


@dataclass(frozen=True)
class Pair:
    """One benchmark as both models answered it: scores from 0 to 1 by question; `margin` in points, None the suite's.

    `clusters` names what dependent questions share; questions without an entry are independent.
    """

    title: str
    baseline: Mapping[str, float]
    candidate: Mapping[str, float]
    category: str = ""
    data_set: str = ""
    metric: str = "accuracy"
    margin: float | None = None
    clusters: Mapping[str, str] = field(default_factory=dict)


class Comparison(Frozen):
    """One benchmark. `lower` is the bound that passes, `upper` the one that refuses (see the module's text).

    `more` is how many times the samples would decide half of the time, if the difference is what it was seen to be (its
    bound then lies at the margin as often inside as outside); 1 where it is decided.
    """

    title: str
    samples: int
    baseline: float
    candidate: float
    difference: float
    lower: float
    upper: float
    margin: float
    decision: Decision
    more: float = 1.0
    gain_beyond_noise: bool = False

    @property
    def is_uninformative(self) -> bool:
        """Whether the baseline scores no more points than the margin, so that no candidate could lose more."""
        return self.baseline <= self.margin


class GateReport(Frozen):
    """`more_samples` is how many more questions would decide what is open; 0 when nothing is."""

    decision: Decision
    comparisons: tuple[Comparison, ...]
    average: Comparison | None
    reasons: tuple[str, ...]
    more_samples: int = 0
    scores: tuple[Score, ...] = ()


def assess(pairs: Sequence[Pair], gate: ScoreGate) -> GateReport:
    """The verdict over a suite: every benchmark against its margin and, where there are several, their average too.

    Raises BadInput when the two did not answer the same questions.
    """
    several = len(pairs) > 1
    tests = len(pairs) + several
    rows = [
        compare(
            pair.title,
            pair.baseline,
            pair.candidate,
            margin=gate.margin if pair.margin is None else pair.margin,
            confidence=gate.confidence,
            tests=tests,
            clusters=pair.clusters,
        )
        for pair in pairs
    ]
    mean = average("Average", rows, margin=gate.margin_average, groups=correlated(pairs)) if several else None
    report = decide(rows, mean)
    described = list(zip(pairs, rows, strict=True))
    if mean is not None:
        described.append((Pair("Average", {}, {}, category=pairs[0].category), mean))
    scores = [
        Score(
            title=row.title,
            category=pair.category,
            data_set=pair.data_set,
            metric=pair.metric,
            samples=row.samples,
            baseline=row.baseline,
            candidate=row.candidate,
            lower=row.lower,
            upper=row.upper,
            margin=row.margin,
            decision=None if row.is_uninformative else row.decision,
            not_applicable=row.baseline < gate.recovery_needs,
            gain_beyond_noise=row.gain_beyond_noise,
        )
        for pair, row in described
    ]
    return report.model_copy(update={"scores": tuple(scores)})


def correlated(pairs: Sequence[Pair]) -> list[str]:
    """A group name for each benchmark. Benchmarks whose errors correlate share one: over one data set, or over the same
    questions (HumanEval and HumanEval+ run one answer on different inputs).
    """
    names: dict[object, str] = {}
    found = []
    for number, pair in enumerate(pairs):
        keys: list[object] = [frozenset(pair.baseline)] if pair.baseline else []
        keys += [pair.data_set] if pair.data_set else []
        name = next((names[key] for key in keys if key in names), str(number))
        names |= dict.fromkeys(keys, name)
        found.append(name)
    return found


def tango(
    lost: NDArray[np.float64], won: NDArray[np.float64], samples: NDArray[np.float64], z: float
) -> NDArray[np.float64]:
    """The difference at which Tango's score statistic equals `z` (a lower bound for z > 0, an upper one for z < 0).

    `lost` questions only the baseline has right, `won` only the candidate; as shares, not points. Elementwise.
    """
    low, high = np.full(np.shape(lost), -1.0), np.full(np.shape(lost), 1.0)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        # The score falls as the hypothetical difference grows.
        above = _score(lost, won, samples, middle) > z
        low, high = np.where(above, middle, low), np.where(above, high, middle)
    return np.asarray((low + high) / 2, np.float64)


def _score(
    lost: NDArray[np.float64], won: NDArray[np.float64], samples: NDArray[np.float64], difference: NDArray[np.float64]
) -> NDArray[np.float64]:
    """(won - lost - n d) / sqrt(n (2 p + d (1 - d))), p being the likeliest share of `lost` given the difference d.

    p solves 2n p^2 + B p + C = 0 with B = -won - lost + (2n - won + lost) d and C = -lost d (1 - d) (Tango 1998, eq. 6).
    """
    b = -won - lost + (2 * samples - won + lost) * difference
    c = -lost * difference * (1 - difference)
    share = (np.sqrt(np.maximum(b**2 - 8 * samples * c, 0)) - b) / (4 * samples)
    variance = samples * (2 * share + difference * (1 - difference))
    distance = won - lost - samples * difference
    # Without any variance there is nothing to doubt: the difference is the one that was seen, or it is not.
    certain = np.where(distance == 0, 0.0, np.copysign(np.inf, distance))
    score = distance / np.sqrt(np.maximum(variance, 1e-300))
    return np.asarray(np.where(variance > 1e-12, score, certain), np.float64)


def bounds(
    baseline: NDArray[np.float64],
    candidate: NDArray[np.float64],
    *,
    passing: float,
    refusing: float,
    clusters: NDArray[np.int64] | None = None,
) -> tuple[float, float]:
    """Lower and upper bound of the difference, as shares; `passing` and `refusing` are one-sided confidences.

    `clusters` numbers the cluster of each question; without it all questions are independent.
    """
    z_low, z_high = (NormalDist().inv_cdf(level) for level in (passing, refusing))
    each = candidate - baseline
    effect = 1.0 if clusters is None else design_effect(each, clusters)
    count = len(each) / effect
    if _binary(baseline) and _binary(candidate):
        lost, won, whole = (np.array(value / effect) for value in ((each < 0).sum(), (each > 0).sum(), len(each)))
        return float(tango(lost, won, whole, z_low)), float(tango(lost, won, whole, -z_high))
    mean, square = float(each.mean()), float((each**2).mean())
    low = (count * mean - _HALF) / (count + _HALF)
    spread = (count * square + _HALF) / (count + _HALF) - low**2
    error = math.sqrt(max(square - mean**2, 0.0) / (count - 1)) if count > 1 else math.inf
    return low - z_low * math.sqrt(spread / count), mean + z_high * error


def design_effect(each: NDArray[np.float64], clusters: NDArray[np.int64]) -> float:
    """How many times larger the variance of the mean of `each` is than that of independent values; at least 1.

    Where nothing varies it is that of values that are the same throughout a cluster: the most that it can be.
    """
    residual = each - each.mean()
    alone = float(residual @ residual)
    sums = np.bincount(clusters, weights=residual)
    sizes = np.bincount(clusters).astype(float)
    many = np.count_nonzero(sizes)
    if alone == 0 or many < 2:
        return float((sizes @ sizes) / len(each))
    factor = many / (many - 1) * (len(each) - 1) / len(each)
    return max(1.0, factor * float(sums @ sums) / alone)


def _binary(scores: NDArray[np.float64]) -> bool:
    return bool(np.isin(scores, (0.0, 1.0)).all())


def compare(
    title: str,
    baseline: Mapping[str, float],
    candidate: Mapping[str, float],
    *,
    margin: float,
    confidence: float,
    tests: int,
    clusters: Mapping[str, str] | None = None,
) -> Comparison:
    """One benchmark from the scores of its questions by identity; `clusters` as in `Pair`.

    Raises BadInput when the two did not answer the same questions: an incomplete sample set never passes.
    """
    if baseline.keys() != candidate.keys() or len(baseline) < 2:
        raise BadInput(
            f"{title}: the baseline answered {len(baseline)} questions and the candidate {len(candidate)}, "
            f"{len(baseline.keys() & candidate.keys())} of them the same",
            remedy="measure both on the whole benchmark",
        )
    keys = sorted(baseline)
    scores = [np.array([one[key] for key in keys], np.float64) for one in (baseline, candidate)]
    if not all(np.isfinite(one).all() for one in scores):
        raise BadInput(f"{title}: some scores are not numbers", remedy="measure both again")
    shared = None
    if clusters:
        shared = np.unique([clusters.get(key, f"alone {key}") for key in keys], return_inverse=True)[1]
    passing, refusing = levels(confidence, tests)
    lower, upper = bounds(*scores, passing=passing, refusing=refusing, clusters=shared)
    return decided(
        title,
        len(keys),
        (float(scores[0].mean()) * 100, float(scores[1].mean()) * 100),
        (lower * 100, upper * 100),
        margin,
    )


def levels(confidence: float, tests: int) -> tuple[float, float]:
    """The one-sided confidences of the bound that passes and of the one that refuses, in a suite of so many tests."""
    return confidence, 1 - (1 - confidence) / tests


def decided(
    title: str, samples: int, scores: tuple[float, float], interval: tuple[float, float], margin: float
) -> Comparison:
    """Compare the bounds with the margin; scores, bounds and margin in points."""
    baseline, candidate = scores
    difference = candidate - baseline
    lower, upper = interval
    decision: Decision = "pass" if lower > -margin else "refuse" if upper < -margin else "inconclusive"
    more = 1.0
    if decision == "inconclusive":
        # A bound moves towards the difference as the square root of the number of samples.
        distance = difference + margin
        reach = difference - lower if distance > 0 else upper - difference
        more = min((reach / distance) ** 2, 1e6) if distance else 1e6
    return Comparison(
        title=title,
        samples=samples,
        baseline=baseline,
        candidate=candidate,
        difference=difference,
        lower=lower,
        upper=upper,
        margin=margin,
        decision=decision,
        more=more,
        gain_beyond_noise=2 * difference - upper > 0,
    )


def average(title: str, comparisons: Sequence[Comparison], *, margin: float, groups: Sequence[str] = ()) -> Comparison:
    """The mean over benchmarks. Errors of different data sets are independent, so half widths add up in squares.

    `groups` names the data set of each: benchmarks over one data set (translations, another prompt) err together, and
    their half widths simply add up. An empty name, and no names at all, stand for data sets of their own.
    """
    count = len(comparisons)
    base, mine = (sum(getattr(c, name) for c in comparisons) / count for name in ("baseline", "candidate"))
    down: dict[object, float] = {}
    up: dict[object, float] = {}
    for number, one in enumerate(comparisons):
        group = groups[number] if number < len(groups) and groups[number] else number
        down[group] = down.get(group, 0.0) + one.difference - one.lower
        up[group] = up.get(group, 0.0) + one.upper - one.difference
    lower = mine - base - math.hypot(*down.values()) / count
    upper = mine - base + math.hypot(*up.values()) / count
    return decided(title, sum(c.samples for c in comparisons), (base, mine), (lower, upper), margin)


def decide(comparisons: Sequence[Comparison], mean: Comparison | None) -> GateReport:
    """The verdict over a suite, with a sentence for each benchmark that keeps it from passing.

    An uninformative benchmark decides nothing, and neither does a suite of only such benchmarks.
    """
    deciding = [one for one in comparisons if not one.is_uninformative]
    every = [*deciding, *([mean] if mean is not None and deciding else [])]
    decisions = {one.decision for one in every}
    decision: Decision = (
        "refuse" if "refuse" in decisions else "inconclusive" if "inconclusive" in decisions or not every else "pass"
    )
    more = 0
    reasons = [
        f"{one.title}: the baseline has {one.baseline:.2f} points, no more than the {one.margin:g} that may be lost, so it "
        "decides nothing."
        for one in comparisons
        if one.is_uninformative
    ]
    for one in every:
        said = (
            f"{one.title}: {one.baseline:.2f} became {one.candidate:.2f}, a difference of {one.difference:+.2f} points "
            f"({one.lower:+.2f} to {one.upper:+.2f}) against a margin of {one.margin:g}"
        )
        if one.decision == "refuse":
            reasons.append(f"{said}: beyond the margin.")
        elif one.decision == "inconclusive":
            needed = math.ceil(one.samples * (one.more - 1))
            more = max(more, needed)
            reasons.append(f"{said}: not decided; about {needed:,} more samples would decide it half of the time.")
        elif one.gain_beyond_noise:
            reasons.append(f"{said}: a gain beyond noise, which quantization does not explain.")
    return GateReport(
        decision=decision,
        comparisons=tuple(comparisons),
        average=mean,
        reasons=tuple(reasons) or ("Every benchmark stays within its margin.",),
        more_samples=more,
    )
