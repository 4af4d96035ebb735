"""The gate's statistics, against first principles and against how often it is right."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy.optimize import brentq, minimize_scalar
from scipy.stats import norm

from containers.errors import BadInput
from containers.evaluate.declaration import ScoreGate
from containers.evaluate.gate import (
    Pair,
    assess,
    average,
    compare,
    decide,
)
from containers.evaluate.paired import bounds, design_effect, tango
from containers.verdict import Score
from tests.support.gate_simulation import compared, simulated

# The reference card: benchmark, baseline, FP8, number of questions.
CARD = [
    ("MMLU (5-shot)", 81.60, 81.31, 14042),
    ("MMLU (CoT, 0-shot)", 86.58, 86.34, 14042),
    ("ARC Challenge (0-shot)", 49.23, 51.96, 1172),
    ("GSM-8K (CoT, 8-shot, strict-match)", 94.16, 94.92, 1319),
    ("Hellaswag (10-shot)", 86.49, 86.43, 10042),
    ("Winogrande (5-shot)", 84.77, 84.53, 1267),
    ("TruthfulQA (0-shot, mc2)", 62.75, 63.21, 817),
    ("MMLU-Pro (5-shot)", 51.89, 51.50, 12032),
    ("IFEval (0-shot)", 90.89, 90.92, 541),
    ("BBH (3-shot)", 63.15, 62.84, 5761),
    ("Math-lvl-5 (4-shot)", 0.17, 0.33, 1324),
    ("GPQA (0-shot)", 46.10, 46.30, 1192),
    ("MuSR (0-shot)", 44.35, 43.96, 756),
    ("HumanEval pass@1", 83.20, 83.70, 164),
    ("HumanEval+ pass@1", 78.40, 78.70, 164),
    ("Portuguese MMLU (5-shot)", 79.76, 79.75, 14042),
    ("Spanish MMLU (5-shot)", 79.33, 79.17, 14042),
    ("Italian MMLU (5-shot)", 79.15, 78.84, 14042),
    ("German MMLU (5-shot)", 77.94, 77.95, 14042),
    ("French MMLU (5-shot)", 75.69, 75.45, 14042),
    ("Hindi MMLU (5-shot)", 73.81, 73.71, 14042),
    ("Thai MMLU (5-shot)", 71.98, 71.77, 14042),
]


def by_likelihood(lost: int, won: int, count: int, z: float) -> float:
    """The score bound with the nuisance share found by maximizing the likelihood numerically (scipy)."""

    def score(difference: float) -> float:
        def against(share: float) -> float:
            parts = (share, share + difference, 1 - 2 * share - difference)
            if min(parts) <= 0:
                return 1e9
            return -(lost * math.log(parts[0]) + won * math.log(parts[1]) + (count - lost - won) * math.log(parts[2]))

        low, high = max(0.0, -difference), (1 - difference) / 2
        share = minimize_scalar(against, bounds=(low, high), method="bounded", options={"xatol": 1e-12}).x
        variance = count * (2 * share + difference - difference**2)
        return (won - lost - count * difference) / math.sqrt(variance) - z

    return float(brentq(score, -0.9, 0.9, xtol=1e-10))


@pytest.mark.parametrize(("lost", "won", "count"), [(12, 7, 100), (30, 45, 1319), (3, 1, 44), (80, 20, 200)])
@pytest.mark.parametrize("z", [1.645, -1.645, 2.5, -2.5])
def test_bounds_are_those_of_the_score_test(lost: int, won: int, count: int, z: float) -> None:
    found = tango(np.array(float(lost)), np.array(float(won)), np.array(float(count)), z)
    assert float(found) == pytest.approx(by_likelihood(lost, won, count, z), abs=2e-5)


def test_identical_answers_are_bounded_too() -> None:
    """No question differs: the bound of z^2 / (n + z^2) by hand, 0.0263 for n = 100 and 95 %."""
    right = np.array([1.0] * 60 + [0.0] * 40)
    lower, upper = bounds(right, right, passing=0.95, refusing=0.95)
    z = norm.ppf(0.95)
    assert upper == pytest.approx(z**2 / (100 + z**2), abs=1e-6)
    assert lower == pytest.approx(-upper, abs=1e-6)


def test_partial_credit_has_normal_bounds() -> None:
    """Of a sample in which half a question more is lost, or won, moved by the skewness: that of what was lost, and that of this
    sample.
    """
    rng = np.random.default_rng(2)
    base, mine = rng.uniform(size=50), rng.uniform(size=50)
    each = mine - base
    lower, upper = bounds(base, mine, passing=0.975, refusing=0.975)
    weights = np.array([1.0] * 50 + [0.5])
    z = norm.ppf(0.975)
    for found, extra, side in ((lower, -1.0, -1), (upper, 1.0, 1)):
        more = np.array([*each, extra])
        mean = np.average(more, weights=weights)
        variance = np.average((more - mean) ** 2, weights=weights)
        third = (
            np.average((more - mean) ** 3, weights=weights) if side > 0 else min(np.mean((each - each.mean()) ** 3), 0)
        )
        expected = mean + side * z * math.sqrt(variance / 50) + third / variance * (1 + 2 * z**2) / 300
        assert found == pytest.approx(expected)


def test_partial_credit_that_is_the_same_is_bounded_too() -> None:
    """Fifty samples of each of 164 problems, all alike: that no problem differs is not known for good."""
    rates = np.linspace(0.1, 0.9, 164)
    lower, upper = bounds(rates, rates, passing=0.95, refusing=0.95)
    assert -0.02 < lower < -0.005
    assert 0.005 < upper < 0.03


def sampled(rng: np.random.Generator, loss: float, *, concentrated: bool, runs: int) -> np.ndarray:
    """Differences by problem of `runs` simulated HumanEvals with 50 samples a problem and a true loss of `loss`.

    The rates of the problems are mostly near 0 and 1, as at a low temperature; the loss is spread over all of them or
    some problems are lost altogether.
    """
    rates = rng.beta(0.3, 0.15, (runs, 164))
    mean = 2 / 3
    after = np.where(rng.random(rates.shape) < loss / mean, 0, rates) if concentrated else rates * (1 - loss / mean)
    return np.asarray(rng.binomial(50, after) / 50 - rng.binomial(50, rates) / 50)


@pytest.mark.parametrize("concentrated", [True, False])
def test_a_sampled_benchmark_at_the_margin_passes_as_rarely_as_promised(concentrated: bool) -> None:
    """2,000 simulated HumanEvals whose true loss is the margin, and as many that lose nothing."""
    rng = np.random.default_rng(11)
    zero = np.zeros(164)
    lost, honest = (sampled(rng, loss, concentrated=concentrated, runs=2000) for loss in (0.02, 0.0))
    low = [bounds(zero, each, passing=0.95, refusing=0.975)[0] for each in lost]
    assert np.mean(np.array(low) > -0.02) <= 0.055
    found = [bounds(zero, each, passing=0.95, refusing=0.975) for each in honest]
    assert np.mean([low > -0.02 for low, _ in found]) > 0.9
    assert np.mean([high < -0.02 for _, high in found]) == 0


@pytest.mark.parametrize("partial", [False, True])
def test_questions_that_are_not_independent_count_once(partial: bool) -> None:
    """Every question three times over says no more than once; clusters of independent questions change nothing."""
    rng = np.random.default_rng(3)
    base = rng.uniform(size=400) if partial else (rng.random(400) < 0.7).astype(float)
    mine = rng.uniform(size=400) if partial else np.where(rng.random(400) < 0.1, 1 - base, base)
    once = bounds(base, mine, passing=0.95, refusing=0.99)
    thrice = np.repeat(np.arange(400), 3)
    again = bounds(np.repeat(base, 3), np.repeat(mine, 3), passing=0.95, refusing=0.99, clusters=thrice)
    assert again == pytest.approx(once, abs=3e-4)
    apart = design_effect(mine - base, np.arange(400) // 2)
    assert 1 <= apart < 1.2
    assert design_effect(np.zeros(6), np.array([0, 0, 0, 1, 1, 1])) == 3


def test_clusters_are_named_by_question() -> None:
    """Two instructions of each prompt that are followed or not together: the interval is that of half as many."""
    first, second = by_hand("x", 80, 79, 1000, 0.1)
    base = {f"{key}/{part}": value for key, value in first.items() for part in (0, 1)}
    mine = {f"{key}/{part}": value for key, value in second.items() for part in (0, 1)}
    clusters = {key: key.partition("/")[0] for key in base}
    ((together, _), (apart, _), (half, _)) = (
        assess([Pair("x", base, mine, clusters=clusters), Pair("y", first, second)], ScoreGate()).scores[:2],
        assess([Pair("x", base, mine), Pair("y", first, second)], ScoreGate()).scores[:2],
        assess([Pair("x", first, second), Pair("y", first, second)], ScoreGate()).scores[:2],
    )
    assert together.samples == 2000
    assert together.lower == pytest.approx(half.lower, abs=0.05)
    assert (apart.lower or 0) - (together.lower or 0) > 0.4


def scores(right: int, count: int) -> dict[str, float]:
    return {f"{i:05}": float(i < right) for i in range(count)}


def by_hand(
    title: str, base: float, mine: float, count: int, differing: float
) -> tuple[dict[str, float], dict[str, float]]:
    """Answers that give these scores (in points) with about this share of differing questions."""
    right, after = round(base * count / 100), round(mine * count / 100)
    lost = max(round((differing * count - (after - right)) / 2), 0, right - after)
    lost = min(lost, right, count - after)
    first = scores(right, count)
    kept = right - lost
    gained = after - kept
    second = {key: float(i < kept or right <= i < right + gained) for i, key in enumerate(first)}
    assert sum(second.values()) == after, title
    return first, second


@pytest.mark.parametrize("differing", [0.0, 0.03, 0.1, 0.2])
def test_the_reference_card_is_not_refused(differing: float) -> None:
    """Its scores with its benchmarks' numbers of questions, however many answers differ."""
    found = [
        compare(title, *by_hand(title, base, mine, count, differing), margin=2.0, confidence=0.95, tests=len(CARD) + 1)
        for title, base, mine, count in CARD
    ]
    mean = average("Average", found, margin=1.0)
    report = decide(found, mean)
    assert report.decision != "refuse"
    assert {one.title for one in found if one.decision == "refuse"} == set()
    assert mean.decision == "pass"


def test_a_benchmark_passes_at_the_full_level_and_is_refused_at_its_share_of_it() -> None:
    """70 questions lost and 50 won of 1,319, in a suite of two benchmarks and their average: 95 % to pass, 95 % of all
    three together, or 98.33 % of each, to refuse (Bonferroni).
    """
    base = {f"{i:04}": float(i < 1000) for i in range(1319)}
    mine = {key: float(70 <= i < 1050) for i, key in enumerate(base)}
    row = assess([Pair("x", base, mine), Pair("y", base, base)], ScoreGate(confidence=0.95)).scores[0]
    expected = [100 * by_likelihood(70, 50, 1319, z) for z in (norm.ppf(0.95), -norm.ppf(1 - 0.05 / 3))]
    assert [row.lower, row.upper] == pytest.approx(expected, abs=2e-3)


@pytest.mark.parametrize(
    ("lost", "decision"), [(11, "pass"), (12, "inconclusive"), (30, "inconclusive"), (31, "refuse")]
)
def test_the_bounds_decide_on_either_side_of_the_margin(lost: int, decision: str) -> None:
    """Ten questions won of 1,000: the lower bound of 11 lost is -0.90 points and that of 12 -1.03, the upper one of 30
    lost is -0.995 and that of 31 -1.09, by the likelihood.
    """
    base = {f"{i:03}": float(i < 800) for i in range(1000)}
    mine = {key: float(lost <= i < 810) for i, key in enumerate(base)}
    one = compare("x", base, mine, margin=1.0, confidence=0.95, tests=1)
    expected = [100 * by_likelihood(lost, 10, 1000, z) for z in (norm.ppf(0.95), -norm.ppf(0.95))]
    assert [one.lower, one.upper] == pytest.approx(expected, abs=2e-3)
    assert one.decision == decision


def test_a_clear_loss_is_refused_and_said() -> None:
    base, mine = by_hand("x", 80, 72, 1319, 0.1)
    report = decide([compare("GSM-8K", base, mine, margin=2.0, confidence=0.95, tests=8)], None)
    assert report.decision == "refuse"
    assert "79.98 became 72.02, a difference of -7.96 points" in report.reasons[0]
    assert "beyond the margin" in report.reasons[0]


def test_too_few_questions_are_inconclusive_and_say_how_many_more() -> None:
    """Ten times the samples at the same rates decide, as promised by the number given."""
    base, mine = by_hand("x", 80, 79.5, 400, 0.1)
    one = compare("x", base, mine, margin=2.0, confidence=0.95, tests=8)
    assert one.decision == "inconclusive"
    assert "more samples would decide" in decide([one], None).reasons[0]
    enough = math.ceil(400 * one.more * 1.05)
    assert compare("x", *by_hand("x", 80, 79.5, enough, 0.1), margin=2.0, confidence=0.95, tests=8).decision == "pass"


def test_a_gain_beyond_noise_is_flagged() -> None:
    base, mine = by_hand("x", 60, 68, 2000, 0.1)
    one = compare("x", base, mine, margin=2.0, confidence=0.95, tests=8)
    assert one.gain_beyond_noise
    assert "a gain beyond noise" in decide([one], None).reasons[0]
    assert not compare("x", *by_hand("x", 60, 60.4, 2000, 0.1), margin=2, confidence=0.95, tests=8).gain_beyond_noise


@pytest.mark.parametrize(
    ("base", "mine", "message"),
    [
        (scores(5, 10), scores(5, 9), "answered 10 questions and the candidate 9"),
        (scores(5, 10), {f"x{i}": 1.0 for i in range(10)}, "0 of them the same"),
        (scores(5, 10), {**scores(5, 10), "00003": math.nan}, "are not numbers"),
        (scores(1, 1), scores(1, 1), "x: 1 question says nothing about a difference"),
        ({}, {}, "x: 0 questions say nothing about a difference"),
    ],
)
def test_samples_that_do_not_match_are_bad_input(base: dict[str, float], mine: dict[str, float], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        compare("x", base, mine, margin=2.0, confidence=0.95, tests=1)


@pytest.mark.parametrize("differing", [0.0, 0.03, 0.1, 0.2])
def test_every_group_of_the_reference_card_is_assessed_without_a_refusal(differing: float) -> None:
    """Group by group as the card has them, with an average for each, and its N/A where the baseline is next to nothing."""
    for group in (CARD[:7], CARD[7:13], CARD[13:15], CARD[15:]):
        pairs = [Pair(row[0], *by_hand(*row, differing)) for row in group]
        report = assess(pairs, ScoreGate())
        assert report.decision != "refuse"
        assert [one.title for one in report.scores if one.not_applicable] == [
            row[0] for row in group if row[0].startswith("Math-lvl-5")
        ]
        mean = report.scores[-1]
        assert (mean.title, mean.margin) == ("Average", 1.0)
        assert mean.baseline == pytest.approx(sum(row[1] for row in group) / len(group), abs=0.05)


def test_each_benchmark_has_its_margin_and_the_average_its_own() -> None:
    """Three points lost on each of four: within a margin of five, and far beyond the average's of one."""
    pairs = [Pair(f"b{i}", *by_hand("x", 80, 77, 8000, 0.06), margin=5.0) for i in range(4)]
    report = assess(pairs, ScoreGate())
    assert [one.decision for one in report.scores] == ["pass"] * 4 + ["refuse"]
    assert report.decision == "refuse"
    assert "Average: 80.00 became 77.00" in report.reasons[0]


def test_the_verdict_says_how_many_more_samples_would_decide() -> None:
    report = assess([Pair("x", *by_hand("x", 80, 79.5, 400, 0.1))], ScoreGate())
    assert report.decision == "inconclusive"
    assert report.average is None
    assert f"about {report.more_samples:,} more samples" in report.reasons[0]
    assert report.more_samples > 400


def test_a_baseline_that_cannot_lose_its_margin_decides_nothing() -> None:
    """No question right on either side is no pass; beside a benchmark that decides, it is told and stands in no way."""
    nothing = Pair("none right", *by_hand("x", 0, 0, 164, 0.0))
    alone = assess([nothing], ScoreGate())
    assert alone.decision == "inconclusive"
    assert alone.scores[0].decision is None
    assert "so it decides nothing" in alone.reasons[0]
    assert assess([nothing, Pair("fine", *by_hand("x", 80, 80, 8000, 0.02))], ScoreGate()).decision == "pass"


def renamed(pair: Pair) -> Pair:
    """The same with questions of its own."""
    base, mine = (
        {f"{pair.title}/{key}": value for key, value in side.items()} for side in (pair.baseline, pair.candidate)
    )
    return replace(pair, baseline=base, candidate=mine)


def test_benchmarks_over_one_data_set_do_not_make_the_average_surer() -> None:
    """Four translations of one benchmark: the average's interval is as wide as each one's, not half as wide."""
    one = by_hand("x", 80, 79.5, 2000, 0.1)
    translations = assess([Pair(f"t{i}", *one, data_set="mmlu") for i in range(4)], ScoreGate()).scores
    apart = assess([renamed(Pair(f"t{i}", *one, data_set=f"d{i}")) for i in range(4)], ScoreGate()).scores
    each = translations[0].difference - (translations[0].lower or 0)
    assert translations[-1].difference - (translations[-1].lower or 0) == pytest.approx(each)
    assert apart[-1].difference - (apart[-1].lower or 0) == pytest.approx(each / 2)


def test_two_benchmarks_of_the_same_answers_do_not_make_the_average_surer() -> None:
    """HumanEval and HumanEval+ have data sets of two names, and run one answer."""
    one = by_hand("x", 80, 79.5, 2000, 0.1)
    first, second = (Pair(name, *one, data_set=name) for name in ("HumanEval", "HumanEval+"))
    same, apart = (assess([first, other], ScoreGate()).scores[-1] for other in (second, renamed(second)))
    assert same.difference - (same.lower or 0) == pytest.approx(math.sqrt(2) * (apart.difference - (apart.lower or 0)))


def test_an_empty_suite_never_passes() -> None:
    assert decide([], None).decision == "inconclusive"


def test_a_candidate_at_the_margin_passes_as_rarely_as_promised() -> None:
    """4,000 simulated benchmarks whose true loss is the margin: at most about 5 % pass."""
    found = simulated(samples=1319, differing=0.1, loss=2.0, margin=2.0, confidence=0.95, tests=8, runs=4000, seed=1)
    assert 0.03 <= found["pass"] <= 0.065
    assert found["refuse"] <= 0.0125


@pytest.mark.parametrize(("samples", "differing"), [(817, 0.05), (1319, 0.1), (14042, 0.1)])
def test_an_honest_candidate_is_practically_never_refused(samples: int, differing: float) -> None:
    found = simulated(
        samples=samples, differing=differing, loss=0.2, margin=2.0, confidence=0.95, tests=8, runs=2000, seed=2
    )
    assert found["refuse"] <= 0.001


def test_damage_above_the_detectable_size_is_refused() -> None:
    """6 points on 1,319 questions are refused nearly always, 1 point never (the power table has the rest)."""
    settings = {"samples": 1319, "differing": 0.1, "margin": 2.0, "confidence": 0.95, "tests": 8, "runs": 2000}
    assert simulated(loss=6.0, seed=3, **settings)["refuse"] > 0.95
    assert simulated(loss=1.0, seed=4, **settings)["refuse"] < 0.005


@pytest.mark.parametrize(("row", "printed"), [(0, "99.6"), (2, "105.5"), (7, "99.2"), (13, "100.6"), (21, "99.7")])
def test_recovery_is_that_of_the_card(row: int, printed: str) -> None:
    """As the card prints it, for two rows 0.1 higher: it divides scores with more digits than it shows."""
    title, base, mine, count = CARD[row]
    one = Score(title=title, samples=count, baseline=base, candidate=mine)
    assert one.recovery is not None
    assert f"{one.recovery:.1f}" == printed


def test_the_number_of_samples_that_is_named_decides_half_of_the_time() -> None:
    """Benchmarks that stay open, each asked again that much larger with what was seen as the truth."""
    rng = np.random.default_rng(5)
    rules = {"margin": 2.0, "confidence": 0.95, "tests": 8}
    drawn = rng.multinomial(756, [0.0525, 0.0475, 0.9], 1000)
    open_ = [
        (row, one.more)
        for row, one in zip(drawn, compared(drawn, **rules), strict=True)
        if one.decision == "inconclusive" and one.more <= 1000
    ]
    assert len(open_) > 400
    again = rng.multinomial([round(756 * more) for _, more in open_], [row / 756 for row, _ in open_])
    assert np.mean([one.decision != "inconclusive" for one in compared(again, **rules)]) == pytest.approx(0.5, abs=0.1)
