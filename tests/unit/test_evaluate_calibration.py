"""The limits of the smoke suite hold what they promise on the numbers they were set from: shipped, measured on a GPU."""

from __future__ import annotations

import json

import numpy as np
import pytest

from containers import suites
from containers.evaluate import compare, suite
from containers.evaluate.compare import Estimate

GATE = suite.parse(suites.read("smoke")).suite.gate
DATA = json.loads((suites.SHIPPED.parent / "calibration" / "smoke.json").read_text())
CONFIDENCE = 1 - (1 - GATE.confidence) / len(GATE.limits)


def decision(measures: dict[str, Estimate]) -> str:
    """The rule as the suite file states it, written down a second time."""
    refused = undecided = False
    for name, limit in GATE.limits.items():
        found = measures[name]
        assert found.lower is not None
        assert found.upper is not None
        if limit.at_most is not None:
            refused |= found.lower > limit.at_most
            undecided |= not found.upper <= limit.at_most
        else:
            refused |= found.upper < limit.at_least
            undecided |= not found.lower >= limit.at_least
    return "refuse" if refused else "inconclusive" if undecided else "pass"


def decided(kind: str, words: str = "") -> dict[str, str]:
    found = {
        row["name"]: decision(
            {n: Estimate(value=v, lower=low, upper=up, blocks=2) for n, (v, low, up) in row["measures"].items()}
        )
        for row in DATA["rows"]
        if row["kind"] == kind and words in row["name"]
    }
    assert found
    return found


def test_honest_checkpoints_pass() -> None:
    assert set(decided("honest").values()) == {"pass"}


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("scales of a layer", "times 1.15"),
        ("scales of a layer", "times 1.5"),
        ("scales of a layer", "times 2.0"),
        ("scales of a layer", "times 0.5"),
        ("rows shuffled", ""),
        ("layers swapped", ""),
        ("bytes corrupted", "share 0.1"),
        ("bytes corrupted", "share 1.0"),
    ],
)
def test_declared_damage_is_refused_wherever_it_is(kind: str, words: str) -> None:
    """The sizes of damage that the documentation says are seen, in the first, a middle and the last layer."""
    assert set(decided(kind, words).values()) == {"refuse"}


@pytest.mark.parametrize(("kind", "words"), [("scales of a layer", "times 1.02"), ("bytes corrupted", "share 0.001")])
def test_damage_below_the_declared_size_is_not_refused(kind: str, words: str) -> None:
    """What cannot be told from an honest checkpoint is not guessed at."""
    assert set(decided(kind, words).values()) == {"pass"}


def simulated(seed: int, factor: float) -> str:
    """The verdict on another text like the shipped one: its passages and blocks drawn again, damage scaled."""
    rng = np.random.default_rng(seed)
    told = {name: np.asarray(values, float) for name, values in DATA["honest_per_token"].items()}
    chosen: list[np.ndarray] = []
    number: list[np.ndarray] = []
    for passage in np.unique(told["passage"]):
        places = np.flatnonzero(told["passage"] == passage)
        starts = rng.integers(0, len(places) - GATE.block + 1, len(places) // GATE.block + 1)
        drawn = np.concatenate([places[s : s + GATE.block] for s in starts])[: len(places)]
        chosen.append(drawn)
        number.append(np.full(len(drawn), int(passage)))
    at = np.concatenate(chosen)
    tokens = compare.PerToken(
        dlogp=told["dlogp"][at] * factor,
        kl=told["kl"][at] * factor**2,  # to second order a divergence grows with the square of the difference
        agree=1 - (1 - told["agree"][at]) * min(factor, 1 / (1 - told["agree"].mean())),
        baseline_logprob=np.zeros(len(at)),
        passage=np.concatenate(number),
    )
    return decision(compare.measures(tokens, block=GATE.block, confidence=CONFIDENCE))


def test_an_honest_checkpoint_is_never_refused_on_100_simulated_texts() -> None:
    decisions = [simulated(seed, 1.0) for seed in range(100)]
    assert decisions.count("refuse") == 0
    assert decisions.count("pass") >= 95


def test_damage_above_the_detectable_size_is_refused_and_below_is_not() -> None:
    """Differences twice the honest ones are refused on every simulated text, 1.1 times on none."""
    assert {simulated(seed, 2.0) for seed in range(20)} == {"refuse"}
    assert "refuse" not in {simulated(seed, 1.1) for seed in range(20)}
