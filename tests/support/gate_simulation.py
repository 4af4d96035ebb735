"""How often the gate decides what, by simulation of benchmarks.

What is drawn here are answers and log-probabilities; bounds, levels and decisions are the gate's own.
"""

from __future__ import annotations

from collections import Counter
from functools import cache
from statistics import NormalDist
from typing import TYPE_CHECKING

import numpy as np
from scipy.optimize import brentq
from scipy.stats import multivariate_normal, norm
from scipy.stats import t as student

from containers.evaluate import gate, paired
from containers.evaluate.answer_margins import interval

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from containers.evaluate.gate import Comparison
    from containers.verdict import Decision

SCORE = 70.0  # points of every simulated baseline
_TAILS = 3  # degrees of freedom


def answers(rng: np.random.Generator, samples: int, differing: float, loss: float, runs: int) -> NDArray[np.float64]:
    """Questions lost, won and alike in each of `runs` benchmarks, of a candidate that truly loses `loss` points.

    `differing` is the share of questions on which the two models differ: no less than the share that is lost.
    """
    lost = (differing + loss / 100) / 2
    return rng.multinomial(samples, [lost, differing - lost, 1 - differing], runs).astype(float)


def compared(drawn: NDArray[np.float64], *, margin: float, confidence: float, tests: float) -> Sequence[Comparison]:
    """What the gate says of each row of `answers`."""
    lost, won, count = drawn[:, 0], drawn[:, 1], drawn.sum(axis=1)
    z_low, z_high = (NormalDist().inv_cdf(level) for level in paired.levels(confidence, tests))
    rows = zip(
        count.astype(int).tolist(),
        (SCORE + 100 * (won - lost) / count).tolist(),
        (100 * paired.tango(lost, won, count, z_low)).tolist(),
        (100 * paired.tango(lost, won, count, -z_high)).tolist(),
        strict=True,
    )
    return [
        gate.decided("simulated", samples, (SCORE, score), (low, high), margin) for samples, score, low, high in rows
    ]


def simulated(
    *, samples: int, differing: float, loss: float, margin: float, confidence: float, tests: float, runs: int, seed: int
) -> dict[Decision, float]:
    """The share of `runs` simulated benchmarks that each decision has."""
    drawn = answers(np.random.default_rng(seed), samples, differing, loss, runs)
    found = Counter(one.decision for one in compared(drawn, margin=margin, confidence=confidence, tests=tests))
    return {decision: found[decision] / runs for decision in ("pass", "inconclusive", "refuse")}


@cache
def correlation(differing: float) -> float:
    """Of two models' margins, both standard normal around what SCORE needs, for that share of answers that differ."""
    right = NormalDist().inv_cdf(SCORE / 100)

    def too_many(between: float) -> float:
        both = multivariate_normal([0, 0], [[1, between], [between, 1]]).cdf([right, right])
        return float(2 * (SCORE / 100 - both) - differing)

    return float(brentq(too_many, 0, 0.999999))


def with_margins(
    rng: np.random.Generator, samples: int, differing: float, loss: float, heavy: bool = False
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Margins of one benchmark by question, baseline's and candidate's, as `answers` draws counts. With `heavy` they have the
    tails of a t distribution with 3 degrees of freedom, as log-probabilities of long choices do, and are denser near zero.
    """
    between = correlation(differing)
    first, second = rng.standard_normal((2, samples))
    if heavy:
        scale = np.sqrt(_TAILS / rng.chisquare(_TAILS, samples))
        first, second = first * scale, second * scale
    quantile = student(_TAILS).ppf if heavy else norm.ppf
    before, after = (float(quantile(score / 100)) for score in (SCORE, SCORE - loss))
    return first + before, between * first + np.sqrt(1 - between**2) * second + after


def sampled(
    rng: np.random.Generator, samples: int, differing: float, loss: float, repeats: int, *, lasting: float
) -> NDArray[np.float64]:
    """Differences of one sampled benchmark by question, each answered `repeats` times by both models.

    Of the answers that differ between one sample of each model, the share `lasting` changed for good; the others are
    chance: questions that either model answers half of the time.
    """
    loss = loss / 100
    steady = max(differing * lasting, loss)
    draw = rng.random(samples)
    lost = (steady + loss) / 2
    each = np.where(draw < lost, -1.0, np.where(draw < steady, 1.0, 0.0))
    chance = draw >= 1 - 2 * (differing - steady)
    many = int(chance.sum())
    each[chance] = (rng.binomial(repeats, 0.5, many) - rng.binomial(repeats, 0.5, many)) / repeats
    return each


def judged(title: str, each: NDArray[np.float64], margin: float, confidence: float, tests: float) -> Comparison:
    """One sampled benchmark of these differences."""
    passing, refusing = paired.levels(confidence, tests)
    bounds = paired.normal_bounds(each, passing=passing, refusing=refusing)
    low, high = (100 * bound for bound in bounds)
    return gate.decided(title, len(each), (SCORE, SCORE + 100 * float(each.mean())), (low, high), margin)


def judged_margins(
    title: str,
    margins: tuple[NDArray[np.float64], NDArray[np.float64]],
    margin: float,
    confidence: float,
    tests: float,
) -> Comparison:
    """One benchmark of these margins, as `gate.compare` judges it."""
    before, after = ((one > 0).astype(float) for one in margins)
    passing, refusing = paired.levels(confidence, tests)
    found = interval((before, after), margins, passing=passing, refusing=refusing)
    scores = (100 * float(before.mean()), 100 * float(after.mean()))
    expected = None if found.expected is None else 100 * found.expected
    return gate.decided(title, len(before), scores, (100 * found.lower, 100 * found.upper), margin, expected=expected)
