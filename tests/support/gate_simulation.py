"""How often the gate decides what, by simulation of right-or-wrong benchmarks.

What is drawn here are answers; bounds, levels and decisions are the gate's own.
"""

from __future__ import annotations

from collections import Counter
from statistics import NormalDist
from typing import TYPE_CHECKING

import numpy as np

from containers.evaluate import gate

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from containers.evaluate.gate import Comparison
    from containers.verdict import Decision

SCORE = 70.0  # points of every simulated baseline


def answers(rng: np.random.Generator, samples: int, differing: float, loss: float, runs: int) -> NDArray[np.float64]:
    """Questions lost, won and alike in each of `runs` benchmarks, of a candidate that truly loses `loss` points.

    `differing` is the share of questions on which the two models differ: no less than the share that is lost.
    """
    lost = (differing + loss / 100) / 2
    return rng.multinomial(samples, [lost, differing - lost, 1 - differing], runs).astype(float)


def compared(drawn: NDArray[np.float64], *, margin: float, confidence: float, tests: int) -> Sequence[Comparison]:
    """What the gate says of each row of `answers`."""
    lost, won, count = drawn[:, 0], drawn[:, 1], drawn.sum(axis=1)
    z_low, z_high = (NormalDist().inv_cdf(level) for level in gate.levels(confidence, tests))
    rows = zip(
        count.astype(int).tolist(),
        (SCORE + 100 * (won - lost) / count).tolist(),
        (100 * gate.tango(lost, won, count, z_low)).tolist(),
        (100 * gate.tango(lost, won, count, -z_high)).tolist(),
        strict=True,
    )
    return [
        gate.decided("simulated", samples, (SCORE, score), (low, high), margin) for samples, score, low, high in rows
    ]


def simulated(
    *, samples: int, differing: float, loss: float, margin: float, confidence: float, tests: int, runs: int, seed: int
) -> dict[Decision, float]:
    """The share of `runs` simulated benchmarks that each decision has."""
    drawn = answers(np.random.default_rng(seed), samples, differing, loss, runs)
    found = Counter(one.decision for one in compared(drawn, margin=margin, confidence=confidence, tests=tests))
    return {decision: found[decision] / runs for decision in ("pass", "inconclusive", "refuse")}
