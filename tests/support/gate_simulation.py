"""How often the gate decides what, by simulation of right-or-wrong benchmarks."""

from __future__ import annotations

from statistics import NormalDist
from typing import TYPE_CHECKING

import numpy as np

from containers.errors import BadInput
from containers.evaluate.gate import tango

if TYPE_CHECKING:
    from containers.verdict import Decision


def simulated(
    *, samples: int, differing: float, loss: float, margin: float, confidence: float, tests: int, runs: int, seed: int
) -> dict[Decision, float]:
    """How often the gate decides what, for a candidate that truly loses `loss` points.

    `differing` is the share of questions on which the two models differ. Shares of `runs` simulated benchmarks.
    """
    if differing < abs(loss) / 100:
        raise BadInput(f"a loss of {loss} points needs at least {abs(loss)} % of differing answers")
    lost = (differing + loss / 100) / 2
    drawn = (
        np.random.default_rng(seed).multinomial(samples, [lost, differing - lost, 1 - differing], runs).astype(float)
    )
    count = np.full(runs, float(samples))
    z_low, z_high = (NormalDist().inv_cdf(level) for level in (confidence, 1 - (1 - confidence) / tests))
    lower = 100 * tango(drawn[:, 0], drawn[:, 1], count, z_low)
    upper = 100 * tango(drawn[:, 0], drawn[:, 1], count, -z_high)
    passed, refused = lower > -margin, upper < -margin
    return {
        "pass": float(passed.mean()),
        "refuse": float((refused & ~passed).mean()),
        "inconclusive": float((~passed & ~refused).mean()),
    }
