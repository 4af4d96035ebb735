"""How often what loses exactly its margin passes or is refused, at the levels of early looks too; how the error is shared; and that
the fast simulation judges as the gate does.
"""

from __future__ import annotations

from statistics import NormalDist

import numpy as np
import pytest
from scipy.stats import binom

from containers import suites
from containers.evaluate import answer_margins, paired
from containers.evaluate.declaration import ScoreGate, parse
from containers.evaluate.error_shares import even_tests, share
from containers.evaluate.gate import Pair, assess
from containers.evaluate.kinds.benchmarks import BenchmarkDeclaration
from containers.evaluate.looks import Look
from containers.suites import SHIPPED
from tests.support import look_simulation
from tests.support.gate_simulation import with_margins

REFERENCE = (SHIPPED.parents[2] / "docs" / "reference" / "evaluation.md").read_text()


def at_the_margin(loss: float, differing: float, answers: int, runs: int) -> paired.Moments:
    """Of 1,319 questions that lose `loss` points for good, with `differing` for good and as many again by chance."""
    rng = np.random.default_rng(3)
    rows = []
    for _ in range(runs):
        one = look_simulation.generated(rng, 1319, 2 * differing, loss, answers, lasting=0.5)
        rows.append(paired.Moments.of(one.differences(1319, answers)))
    return paired.Moments(*(np.array(column) for column in zip(*rows, strict=True)))


@pytest.mark.parametrize("differing", [0.025, 0.05])
def test_strict_levels_hold_where_few_questions_make_up_the_loss(differing: float) -> None:
    """4,000 benchmarks that lose the margin of 2 points: at 0.94 and 0.19 %, normal bounds passed up to 1.7 and 0.4 % and refused
    0.5 and 0.08 %.
    """
    moments = at_the_margin(2.0, differing, 4, 4000)
    for level in (0.05, 0.0094, 0.0019):
        z = NormalDist().inv_cdf(1 - level)
        count = np.full(4000, 1319.0)
        passed = float((paired.mean_bound(moments, count, z) > -0.02).mean())
        refused = float((paired.mean_bound(moments, count, -z) < -0.02).mean())
        allowed = level + 3 * (level / 4000) ** 0.5
        assert level / 5 < passed < allowed
        assert level / 5 < refused < allowed


@pytest.mark.parametrize("count", [150, 164, 200, 270, 400, 600, 1319])
def test_the_level_holds_where_whole_questions_alone_are_lost(count: int) -> None:
    """Exactly, by the binomial distribution. Fewer than 150 may lose 2 points and show nothing of it, as the documentation says."""
    lost = np.arange(count + 1.0)
    chance = binom.pmf(lost, count, 0.02)
    moments = paired.Moments(-lost / count, lost / count, -lost / count)
    counts, z = np.full(count + 1, float(count)), NormalDist().inv_cdf(0.95)
    assert 0.01 < chance[paired.mean_bound(moments, counts, z) > -0.02].sum() <= 0.05
    assert 0.01 < chance[paired.mean_bound(moments, counts, -z) < -0.02].sum() <= 0.05


def test_more_is_refused_where_few_questions_make_up_the_loss() -> None:
    """4 points of 1,319 questions, a twentieth changed for good and as many by chance: 85 % with normal bounds at the same level."""
    moments = at_the_margin(4.0, 0.05, 32, 2000)
    assert (paired.mean_bound(moments, np.full(2000, 1319.0), -2.348) < -0.02).mean() > 0.85


def test_bounds_stay_within_what_is_possible() -> None:
    lost = np.array([-1.0] * 30)
    low, high = paired.normal_bounds(lost, passing=0.999, refusing=0.999)
    assert (low, -1 < high < -0.4) == (-1.0, True)


def test_what_doubts_and_what_contradicts() -> None:
    """A step that explains no more than half of what right and wrong say, from not at all to beyond chance."""
    rng = np.random.default_rng(9)
    base, mine = with_margins(rng, 2000, 0.1, 0.0)
    before, after = ((one > 0).astype(float) for one in (base, mine))
    settings = {"passing": 0.95, "refusing": 0.99}
    seen = []
    for lost in range(0, 150, 10):
        worse = after.copy()
        worse[np.flatnonzero(after)[:lost]] = 0.0
        found = answer_margins.smooth((before, worse), (base, mine))
        assert found is not None
        plain = paired.bounds(before, worse, **settings)
        smooth = paired.normal_bounds(found.each, **settings)
        got = answer_margins.interval((before, worse), (base, mine), **settings)
        if found.agrees:
            assert (got.lower, got.upper) == smooth
            assert got.expected == pytest.approx(found.each.mean())
        elif found.contradicts:
            assert (got.lower, got.upper, got.expected) == (*plain, None)
        else:
            assert (got.lower, got.upper) == (min(plain[0], smooth[0]), max(plain[1], smooth[1]))
            assert got.expected is None
        seen.append((found.agrees, found.contradicts))
    assert set(seen) == {(True, False), (False, False), (False, True)}


def test_the_sure_get_a_tenth_of_the_error() -> None:
    assert [share(one) for one in (30, 4999, 5000, 14042)] == [1, 1, 0.1, 0.1]
    declared = parse(suites.read("openllm-v1"), BenchmarkDeclaration)
    tests, whole = even_tests([one.samples for one in declared.benchmarks], 1)
    assert whole == pytest.approx(5.3)
    assert sum(1 / one for one in [*tests, whole]) == pytest.approx(1)
    assert even_tests([164], 0) == ([1.0], 1.0)
    assert even_tests([12000], 0)[0] == [1.0]


@pytest.mark.parametrize("name", ["openllm-v1", "openllm-v2", "reasoning", "bfcl"])
def test_the_shares_of_the_documentation_are_those_of_the_code(name: str) -> None:
    counts = {"bfcl": [400, 200, 200, 200, 240]}.get(name) or [
        one.samples for one in parse(suites.read(name), BenchmarkDeclaration).benchmarks
    ]
    tests, whole = even_tests(counts, 1)
    most, least = (f"{NormalDist().inv_cdf(1 - 0.05 / one):.2f}" for one in (whole, max(tests)))
    cells = f"{whole:.1f} | {most} | {least if max(tests) > whole else ''}".rstrip()
    assert f"| `{name}` | {cells}" in REFERENCE


def test_a_part_of_the_questions_has_the_share_of_all() -> None:
    """Half of 6,000 questions, with 4 tests otherwise: the bound that refuses is that of a tenth."""
    base = {str(i): float(i % 4 > 0) for i in range(3000)}
    mine = {key: value if int(key) > 60 else 0.0 for key, value in base.items()}
    other = {f"o{i}": float(i % 2) for i in range(1000)}
    half, small = (
        assess([Pair("x", base, mine, declared=count), Pair("y", other, other)], ScoreGate()).scores[0]
        for count in (6000, 0)
    )
    assert half.upper is not None
    assert small.upper is not None
    assert half.upper > small.upper
    assert half.lower == small.lower


def test_the_simulation_judges_as_the_gate_does() -> None:
    """Ten runs of a small suite, drawn once and judged by both."""
    declared = parse(suites.read("openllm-v2"), BenchmarkDeclaration)
    one = declared.benchmarks[1]
    small = declared.model_copy(
        update={
            "benchmarks": (
                one.model_copy(update={"samples": 300}),
                declared.benchmarks[4].model_copy(update={"samples": 400}),
            )
        }
    )
    looks = (Look(), Look(answers=4))
    drawn = look_simulation.draw(small, np.random.default_rng(1), 0.1, {one.key: 6.0}, looks, 10, sampled=(one.key,))
    rng = np.random.default_rng(1)
    written = [look_simulation.generated(rng, 300, 0.1, 6.0, 4, lasting=0.5) for _ in range(10)]
    choices = [with_margins(rng, 400, 0.1, 0.0) for _ in range(10)]
    found = look_simulation.judge(small, drawn, [looks[1]], in_looks=False)
    for generated, sides, decision in zip(written, choices, found.decisions, strict=True):
        each = generated.differences(300, 4)
        base = {f"w{i}": 0.5 + max(-value, 0) / 2 for i, value in enumerate(each)}
        mine = {f"w{i}": base[f"w{i}"] + value for i, value in enumerate(each)}
        margins = [{f"c{i}": float(value) for i, value in enumerate(side)} for side in sides]
        right = [{key: float(value > 0) for key, value in side.items()} for side in margins]
        pairs = [Pair("w", base, mine), Pair("c", right[0], right[1], margins=(margins[0], margins[1]))]
        assert assess(pairs, ScoreGate()).decision == decision
    assert len(set(found.decisions)) > 1
