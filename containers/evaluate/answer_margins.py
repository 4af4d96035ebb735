"""What log-probabilities say about a difference in points, beyond right and wrong.

The *margin* of an answer is how far the right choice's log-probability lies above the best wrong one (below: negative); the
answer is right where it is positive. Quantization moves every margin a little. Answers change only where a margin was
near zero, and there as often to right as to wrong: of 1,000 questions with 10 % of answers that change, the difference in
points moves by a point for this reason alone. The margins of all questions near zero show the same movement without that
chance, as a smoothed distribution function does.

Each question counts with a smooth step of its margin in place of the step from wrong to right. As a control variate: what
is left of the plain difference of a question has the expectation zero up to the sixth order of the step's width, so it is
subtracted, with the coefficient 1. The step is the integral of a kernel of sixth order, 105/256 (1 - u^2) (5 - 30 u^2 + 33 u^4)
(Gasser, Mueller and Mammitzsch, JRSS B 47, 1985, 238-252), because a lower order takes the bend in the density of margins for a
difference. It is as wide as six times the spread with which the candidate moves margins near zero, and never wider than two
spreads of the baseline's margins: beyond, the density's shape far from zero is taken for a difference (tests.bench._gate_power
`shape`: eight and three gave up to 0.4 points where 9 % of answers changed, and 1.2 at 15 %; six and two at most 0.2). A margin
beyond the width counts as right or wrong, so what a broken model answers wrongly is lost as a whole.

The assumption is tested on each pair. Where the mean of what is subtracted differs from zero with 99.99 % confidence, margins are
not used, and right or wrong alone decides. Between 99 and 99.99 % both have to say it: the bounds are the wider ones of the two. One
pair of a hundred gets there by chance, and where right or wrong alone decided those, whose answers are by selection an outlier, that
alone passed and refused 0.1 to 0.2 % of the candidates at the margin, as much as an early look may altogether.
"""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np
from numpy.polynomial import Polynomial

from containers.evaluate.paired import bounds, design_effect, normal_bounds

if TYPE_CHECKING:
    from numpy.typing import NDArray

_WIDTHS: Final = 6.0  # of the spread of what moves
_MOST: Final = 2.0  # of the spread of the baseline's margins: a wider step would not look near zero
_OF_NORMAL: Final = 1.4826  # median absolute deviation to standard deviation, for normal values
_AGREEMENT: Final = 0.995  # two-sided 99 %
_CONTRADICTION: Final = 0.99995  # two-sided 99.99 %
_SQUARE: Final = Polynomial([0.0, 0.0, 1.0])
_STEP: Final = (105 / 256 * (1 - _SQUARE) * (5 - 30 * _SQUARE + 33 * _SQUARE**2)).integ(lbnd=-1)


class Smooth(NamedTuple):
    """Differences by question, candidate minus baseline, whose mean is that of the scores with less chance in it; and how many
    standard errors its mean is away from that of the scores.
    """

    each: NDArray[np.float64]
    apart: float

    @property
    def agrees(self) -> bool:
        return self.apart <= NormalDist().inv_cdf(_AGREEMENT)

    @property
    def contradicts(self) -> bool:
        return self.apart > NormalDist().inv_cdf(_CONTRADICTION)


class Bounds(NamedTuple):
    """Bounds of a difference, as shares; `expected` is the difference that they belong to where log-probabilities give it."""

    lower: float
    upper: float
    expected: float | None


def interval(
    scores: tuple[NDArray[np.float64], NDArray[np.float64]],
    margins: tuple[NDArray[np.float64], NDArray[np.float64]] | None,
    *,
    passing: float,
    refusing: float,
    clusters: NDArray[np.int64] | None = None,
) -> Bounds:
    """The bounds that decide: by log-probabilities where they help, by the scores, or the wider ones of the two."""
    found = None if margins is None else smooth(scores, margins, clusters)
    if found is not None and found.agrees:
        lower, upper = normal_bounds(found.each, passing=passing, refusing=refusing, clusters=clusters)
        return Bounds(lower, upper, float(found.each.mean()))
    lower, upper = bounds(*scores, passing=passing, refusing=refusing, clusters=clusters)
    if found is not None and not found.contradicts:
        other = normal_bounds(found.each, passing=passing, refusing=refusing, clusters=clusters)
        lower, upper = min(lower, other[0]), max(upper, other[1])
    return Bounds(lower, upper, None)


def smooth(
    scores: tuple[NDArray[np.float64], NDArray[np.float64]],
    margins: tuple[NDArray[np.float64], NDArray[np.float64]],
    clusters: NDArray[np.int64] | None = None,
) -> Smooth | None:
    """Both tuples are baseline, candidate; scores 0 or 1, margins in nats, in the same order of questions. None where nothing moved."""
    baseline, candidate = margins
    width = step_width(baseline, candidate)
    if not width > 0:
        return None
    each = smooth_step(candidate, width) - smooth_step(baseline, width)
    rest = scores[1] - scores[0] - each
    count = len(rest) / (1.0 if clusters is None else design_effect(rest, clusters))
    off, error = abs(float(rest.mean())), math.sqrt(float(rest.var()) / max(count - 1, 1.0))
    return Smooth(each, off / error if error else math.inf if off else 0.0)


def smooth_differences(
    scores: tuple[NDArray[np.float64], NDArray[np.float64]],
    margins: tuple[NDArray[np.float64], NDArray[np.float64]],
    clusters: NDArray[np.int64] | None = None,
) -> NDArray[np.float64] | None:
    """The differences of `smooth` where they agree with the scores; None elsewhere."""
    found = smooth(scores, margins, clusters)
    return found.each if found is not None and found.agrees else None


def step_width(baseline: NDArray[np.float64], candidate: NDArray[np.float64]) -> float:
    """The width of the smooth step, in nats; 0 where half of the margins near zero did not move."""
    nearest = np.minimum(np.abs(baseline), np.abs(candidate))
    near = nearest <= np.median(nearest)
    return min(_WIDTHS * _spread((candidate - baseline)[near]), _MOST * _spread(baseline))


def smooth_step(margins: NDArray[np.float64], width: float) -> NDArray[np.float64]:
    """0 below -width, 1 above width, and between also a little less and more."""
    return np.asarray(_STEP(np.clip(margins / width, -1, 1)), np.float64)


def _spread(values: NDArray[np.float64]) -> float:
    return _OF_NORMAL * float(np.median(np.abs(values - np.median(values))))
