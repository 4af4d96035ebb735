"""The gate for benchmarks: is the candidate, question by question, not worse than the baseline by more than a margin?

Differences are candidate minus baseline, in points; scores of single questions lie between 0 and 1. Bounds are those of
`containers.evaluate.paired`, of what `containers.evaluate.answer_margins` makes of the log-probabilities where both
measurements hold them.

The rule `pooled`. To pass, the average and the average of each category must show that they lose less than their margins
(non-inferiority), each at the full level: a candidate that is really worse in one of them slips through with at most
`1 - confidence` (an intersection-union test needs no correction; Berger, Technometrics 24, 1982, 295-300). A single
benchmark is not asked to show it, because a few hundred questions cannot; a suite of one benchmark is that one's average.
To refuse, one test is enough, so there the level is divided over the tests (`containers.evaluate.error_shares`): a candidate that
loses no more than its margins is refused with at most `1 - confidence` over the whole suite. Between the two lies doubt: a benchmark
that lost more than its margin, and more than nothing at the same corrected level, keeps the suite from passing.

The rule `each`: every benchmark and the average must show it.

At a look before the last one (`containers.evaluate.looks`) nothing passes while a benchmark is seen to have lost more than its
margin, however little that says: more answers will tell.
"""

from __future__ import annotations

import math
import operator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from pydantic import Field

from containers.contract import Frozen
from containers.errors import BadInput
from containers.evaluate.answer_margins import interval
from containers.evaluate.error_shares import even_tests
from containers.evaluate.looks import AT_ONCE, LookProgress
from containers.verdict import Decision, Score

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from containers.evaluate.declaration import ScoreGate


@dataclass(frozen=True)
class Pair:
    """One benchmark as both models answered it: scores from 0 to 1 by question; `margin` in points, None the suite's.

    `clusters` names what dependent questions share; questions without an entry are independent. `margins` are the answer
    margins of baseline and candidate, in nats, where log-probabilities were kept. One that is not `averaged` has too few
    questions to be part of an average. `declared` is the number of questions of the suite, of which a look may ask a part; 0 where
    all were asked.
    """

    title: str
    baseline: Mapping[str, float]
    candidate: Mapping[str, float]
    category: str = ""
    data_set: str = ""
    metric: str = "accuracy"
    margin: float | None = None
    clusters: Mapping[str, str] = field(default_factory=dict)
    margins: tuple[Mapping[str, float], Mapping[str, float]] = ({}, {})
    averaged: bool = True
    declared: int = 0

    @property
    def questions(self) -> int:
        """How many the whole benchmark has."""
        return self.declared or len(self.baseline)


class Comparison(Frozen):
    """One benchmark, or an average. `lower` is the bound that passes, `upper` the one that refuses (see the module's text).

    `expected` is the difference that log-probabilities expect, and the bounds belong to; None where they were not used.
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
    expected: float | None = Field(default=None, exclude_if=lambda value: value is None)

    @property
    def is_uninformative(self) -> bool:
        """Whether the baseline scores no more points than the margin, so that no candidate could lose more."""
        return self.baseline <= self.margin

    @property
    def center(self) -> float:
        """The difference that the bounds belong to."""
        return self.difference if self.expected is None else self.expected

    @property
    def is_doubtful(self) -> bool:
        """Whether it lost more than its margin and more than noise explains."""
        return self.center < -self.margin and self.upper < 0


class GateReport(Frozen):
    """`more_samples` is how many more questions would decide what is open; 0 when nothing is. `categories` holds the averages of
    categories, where the suite has several.
    """

    decision: Decision
    comparisons: tuple[Comparison, ...]
    average: Comparison | None
    reasons: tuple[str, ...]
    more_samples: int = 0
    scores: tuple[Score, ...] = ()
    categories: tuple[Comparison, ...] = Field(default=(), exclude_if=operator.not_)


def assess(pairs: Sequence[Pair], gate: ScoreGate, progress: LookProgress = AT_ONCE) -> GateReport:
    """The verdict over a suite: every benchmark against its margin and, where there are several, their averages too.
    `progress` says at which look, if the suite has looks.

    Raises BadInput when the two did not answer the same questions.
    """
    together = [at for at, pair in enumerate(pairs) if pair.averaged]
    several = len(pairs) > 1 and bool(together)
    shared = _categories(pairs) if gate.rule == "pooled" else {}
    tests, whole = even_tests([pair.questions for pair in pairs], several + len(shared))

    def compared(pair: Pair, part: float) -> Comparison:
        return compare(
            pair.title,
            pair.baseline,
            pair.candidate,
            margin=gate.margin if pair.margin is None else pair.margin,
            confidence=gate.confidence,
            tests=part,
            clusters=pair.clusters,
            margins=pair.margins,
            progress=progress,
        )

    rows = [compared(pair, part) for pair, part in zip(pairs, tests, strict=True)]
    # The same at the level of an average, for those that have another one.
    parts = [
        row if part == whole or not (several or shared) else compared(pair, whole)
        for pair, row, part in zip(pairs, rows, tests, strict=True)
    ]
    groups = correlated(pairs)

    def averaged(title: str, places: Sequence[int], margin: float) -> Comparison:
        return average(title, [parts[at] for at in places], margin=margin, groups=[groups[at] for at in places])

    categories = [averaged(f"Average of {name}", places, gate.margin_category) for name, places in shared.items()]
    mean = averaged("Average", together, gate.margin_average) if several else None
    report = decide(rows, mean, categories=categories, pooled=gate.rule == "pooled", early=progress.early)
    described = [*zip(pairs, rows, strict=True)]
    described += [(Pair("", {}, {}, category=name), row) for name, row in zip(shared, categories, strict=True)]
    if mean is not None:
        described.append((Pair("", {}, {}, category="" if shared else pairs[0].category), mean))
    return report.model_copy(update={"scores": tuple(_score(pair, row, gate) for pair, row in described)})


def _score(pair: Pair, row: Comparison, gate: ScoreGate) -> Score:
    """One row of the accuracy table."""
    return Score(
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
        log_probabilities=row.expected is not None,
    )


def _categories(pairs: Sequence[Pair]) -> dict[str, list[int]]:
    """The benchmarks of each category of two or more, by position; none where the suite has only one category."""
    names = [pair.category if pair.averaged else "" for pair in pairs]
    if len({*names} - {""}) <= 1:
        return {}
    found = {name: [at for at, one in enumerate(names) if one == name] for name in dict.fromkeys(names) if name}
    return {name: places for name, places in found.items() if len(places) > 1}


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


def compare(
    title: str,
    baseline: Mapping[str, float],
    candidate: Mapping[str, float],
    *,
    margin: float,
    confidence: float,
    tests: float,
    clusters: Mapping[str, str] | None = None,
    margins: tuple[Mapping[str, float], Mapping[str, float]] = ({}, {}),
    progress: LookProgress = AT_ONCE,
) -> Comparison:
    """One benchmark from the scores of its questions by identity; `clusters` and `margins` as in `Pair`, `tests` as in
    `paired.levels`.

    Raises BadInput when the two did not answer the same questions: an incomplete sample set never passes. Likewise for fewer than two.
    """
    if baseline.keys() != candidate.keys():
        raise BadInput(
            f"{title}: the baseline answered {len(baseline)} questions and the candidate {len(candidate)}, "
            f"{len(baseline.keys() & candidate.keys())} of them the same",
            remedy="measure both on the whole benchmark",
        )
    if (count := len(baseline)) < 2:
        raise BadInput(
            f"{title}: {count} question{' says' if count else 's say'} nothing about a difference",
            remedy="take a benchmark with more questions",
        )
    keys = sorted(baseline)
    before, after = (np.array([one[key] for key in keys], np.float64) for one in (baseline, candidate))
    if not (np.isfinite(before).all() and np.isfinite(after).all()):
        raise BadInput(f"{title}: some scores are not numbers", remedy="measure both again")
    shared = None
    if clusters:
        shared = np.unique([clusters.get(key, f"alone {key}") for key in keys], return_inverse=True)[1]
    sides = None
    if all(margins):
        if any(one.keys() != baseline.keys() for one in margins):
            counts = " and ".join(str(len(one)) for one in margins)
            raise BadInput(
                f"{title}: {len(keys)} questions, and log-probabilities of {counts}", remedy="measure both again"
            )
        sides = (np.array([margins[0][key] for key in keys]), np.array([margins[1][key] for key in keys]))
        if not all(np.isfinite(one).all() for one in sides):
            raise BadInput(f"{title}: some log-probabilities are not numbers", remedy="measure both again")
    passing, refusing = progress.levels(confidence, tests)
    found = interval((before, after), sides, passing=passing, refusing=refusing, clusters=shared)
    return decided(
        title,
        len(keys),
        (float(before.mean()) * 100, float(after.mean()) * 100),
        (found.lower * 100, found.upper * 100),
        margin,
        expected=None if found.expected is None else found.expected * 100,
    )


def decided(
    title: str,
    samples: int,
    scores: tuple[float, float],
    interval: tuple[float, float],
    margin: float,
    *,
    expected: float | None = None,
) -> Comparison:
    """Compare the bounds with the margin; scores, bounds and margin in points; `expected` where log-probabilities say more
    than the difference of the scores.
    """
    baseline, candidate = scores
    difference = candidate - baseline
    center = difference if expected is None else expected
    lower, upper = interval
    decision: Decision = "pass" if lower > -margin else "refuse" if upper < -margin else "inconclusive"
    more = 1.0
    if decision == "inconclusive":
        # A bound moves towards the difference as the square root of the number of samples.
        distance = center + margin
        reach = center - lower if distance > 0 else upper - center
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
        gain_beyond_noise=2 * center - upper > 0,
        expected=expected,
    )


def average(title: str, comparisons: Sequence[Comparison], *, margin: float, groups: Sequence[str] = ()) -> Comparison:
    """The mean over benchmarks. Errors of different data sets are independent, so half widths add up in squares.

    `groups` names the data set of each: benchmarks over one data set (translations, another prompt) err together, and
    their half widths simply add up. An empty name, and no names at all, stand for data sets of their own.
    """
    count = len(comparisons)
    base, mine, center = (
        sum(getattr(c, name) for c in comparisons) / count for name in ("baseline", "candidate", "center")
    )
    down: dict[object, float] = {}
    up: dict[object, float] = {}
    for number, one in enumerate(comparisons):
        group = groups[number] if number < len(groups) and groups[number] else number
        down[group] = down.get(group, 0.0) + one.center - one.lower
        up[group] = up.get(group, 0.0) + one.upper - one.center
    lower = center - math.hypot(*down.values()) / count
    upper = center + math.hypot(*up.values()) / count
    samples = sum(c.samples for c in comparisons)
    expected = center if any(c.expected is not None for c in comparisons) else None
    return decided(title, samples, (base, mine), (lower, upper), margin, expected=expected)


def decide(
    comparisons: Sequence[Comparison],
    mean: Comparison | None,
    *,
    categories: Sequence[Comparison] = (),
    pooled: bool = False,
    early: bool = False,
) -> GateReport:
    """The verdict over a suite, with a sentence for whatever keeps it from passing; `pooled` is the rule, `early` a look before
    the last one.

    An uninformative benchmark decides nothing, and neither does a suite of only such benchmarks.
    """
    deciding = [one for one in comparisons if not one.is_uninformative]
    averages = [*categories, *([mean] if mean is not None else [])] if deciding else []
    every = [*deciding, *averages]
    # Who must show that it loses less than its margin. Without an average the one benchmark is it.
    shown = averages if pooled and averages else every
    unshown = [one for one in every if one.decision == "inconclusive"]
    open_ = [one for one in unshown if one in shown or one.is_doubtful or (early and one.center < -one.margin)]
    refused = any(one.decision == "refuse" for one in every)
    decision: Decision = "refuse" if refused else "inconclusive" if open_ or not every else "pass"
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
            f"({one.lower:+.2f} to {one.upper:+.2f}{'' if one.expected is None else ' by log-probabilities'}) "
            f"against a margin of {one.margin:g}"
        )
        if one.decision == "refuse":
            reasons.append(f"{said}: beyond the margin.")
        elif one in open_:
            needed = math.ceil(one.samples * (one.more - 1))
            more = max(more, needed)
            doubt = "more than noise explains, " if one.is_doubtful and one not in shown else ""
            reasons.append(
                f"{said}: {doubt}not decided; about {needed:,} more samples would decide it half of the time."
            )
        elif one.gain_beyond_noise:
            reasons.append(f"{said}: a gain beyond noise, which quantization does not explain.")
    alone = [one.title for one in unshown if one not in open_]
    if alone:
        reasons.append(
            f"Too few questions to show by themselves that less than the margin was lost: {', '.join(alone)}. "
            "None of them lost both more than its margin and more than noise explains, and the average decides for them."
        )
    every_one = (
        "Every average stays within its margin." if shown is averages else "Every benchmark stays within its margin."
    )
    return GateReport(
        decision=decision,
        comparisons=tuple(comparisons),
        average=mean,
        reasons=tuple(reasons) or (every_one,),
        more_samples=more,
        categories=tuple(categories),
    )
