"""The limits of the smoke suite hold what they promise on the numbers they were set from: shipped, measured on a GPU."""

from __future__ import annotations

import json
from collections import Counter
from typing import TYPE_CHECKING

import numpy as np
import pytest

from containers import suites
from containers.evaluate import compare
from containers.evaluate.compare import Estimate
from containers.evaluate.fidelity_gate import decide
from containers.evaluate.kinds.fidelity import FidelitySuite

if TYPE_CHECKING:
    from containers.evaluate.fidelity_gate import Measure
    from containers.verdict import Decision

GATE = FidelitySuite.read(suites.read("smoke")).declared.gate
DATA = json.loads((suites.SHIPPED.parent / "calibration" / "smoke.json").read_text())


def recorded(row: dict[str, dict[str, tuple[float, float, float]]]) -> dict[str, Estimate]:
    """The measures of one checkpoint, with the bounds that they had when it was measured."""
    return {n: Estimate(value=v, lower=low, upper=up, blocks=2) for n, (v, low, up) in row["measures"].items()}


def decided(kind: str, words: str = "") -> dict[str, Decision]:
    found = {
        row["name"]: decide(GATE, recorded(row)).decision
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


@pytest.mark.parametrize(
    ("name", "passed", "undecided", "refused"),
    [
        ("kl_mean", 20, 7, 64),
        ("top1_agreement", 21, 12, 58),
        ("abs_dlogp_mean", 17, 10, 64),
        ("perplexity_ratio", 17, 13, 61),
        ("worst_passage_kl", 26, 4, 61),
    ],
)
def test_each_limit_alone_divides_the_checkpoints_as_it_was_set(
    name: Measure, passed: int, undecided: int, refused: int
) -> None:
    """Of the 91 measured ones. The limits together would hide one that was moved: the others still refuse."""
    alone = GATE.model_copy(update={"limits": {name: GATE.limits[name]}})
    found = Counter(decide(alone, recorded(row)).decision for row in DATA["rows"])
    assert found == {"pass": passed, "inconclusive": undecided, "refuse": refused}


def test_the_limits_have_been_calibrated_with_the_confidence_that_they_are_used_with() -> None:
    """95 % of all five together is 99 % of each (Bonferroni), the confidence of the recorded bounds."""
    assert GATE.confidence_each == pytest.approx(0.99)
    honest = {name: np.asarray(values, float) for name, values in DATA["honest_per_token"].items()}
    (row,) = (one for one in DATA["rows"] if one["name"] == "FP8_DYNAMIC")
    found = compare.estimate(
        honest["kl"], honest["passage"].astype(int), block=GATE.block, confidence=GATE.confidence_each
    )
    assert (found.value, found.lower, found.upper) == pytest.approx(row["measures"]["kl_mean"], rel=1e-3)


def simulated(seed: int, factor: float) -> Decision:
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
    return decide(GATE, compare.measures(tokens, block=GATE.block, confidence=GATE.confidence_each)).decision


def test_an_honest_checkpoint_is_never_refused_on_100_simulated_texts() -> None:
    decisions = [simulated(seed, 1.0) for seed in range(100)]
    assert decisions.count("refuse") == 0
    assert decisions.count("pass") >= 95


def test_damage_above_the_detectable_size_is_refused_and_below_is_not() -> None:
    """Differences twice the honest ones are refused on every simulated text, 1.1 times on none."""
    assert {simulated(seed, 2.0) for seed in range(20)} == {"refuse"}
    assert "refuse" not in {simulated(seed, 1.1) for seed in range(20)}
