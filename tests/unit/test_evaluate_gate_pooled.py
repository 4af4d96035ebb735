"""Who must show what: averages and categories must, a small benchmark need not, and none may lose more than noise explains."""

from __future__ import annotations

import numpy as np
import pytest

from containers.evaluate.declaration import ScoreGate
from containers.evaluate.gate import Pair, assess


def pair(title: str, lost: int, won: int, count: int, **more: object) -> Pair:
    """A benchmark of `count` questions, four fifths right, of which so many change."""
    right = count * 4 // 5
    base = {f"{title}/{i}": float(i < right) for i in range(count)}
    mine = {key: float(lost <= i < right + won) for i, key in enumerate(base)}
    return Pair(title, base, mine, **more)  # type: ignore[arg-type]


# Nothing lost, where 60 of 600 answers change: by Tango's bounds 2.2 points may be lost, so 2 are not excluded.
SMALL = [pair(f"small {n}", 30, 30, 600) for n in range(6)]
LARGE = pair("large", 300, 300, 12000)


def test_a_small_benchmark_is_not_asked_to_show_what_it_cannot() -> None:
    report = assess([LARGE, *SMALL], ScoreGate())
    assert {one.decision for one in report.comparisons[1:]} == {"inconclusive"}
    assert report.decision == "pass"
    assert (
        "Too few questions to show by themselves that less than the margin was lost: small 0, small 1"
        in (report.reasons[-1])
    )
    assert report.more_samples == 0


def test_a_loss_within_the_margin_that_is_no_noise_is_not_called_noise() -> None:
    """1.3 points lost by 3,000 questions: less than the margin of 2, and more than nothing with confidence."""
    report = assess([*[LARGE] * 4, pair("one", 150, 110, 3000)], ScoreGate())
    assert report.comparisons[-1].upper < 0
    assert report.decision == "pass"
    assert report.reasons[-1].endswith(
        "was lost: one. None of them lost both more than its margin and more than noise explains, and the average decides for them."
    )


def test_the_rule_each_asks_every_benchmark() -> None:
    report = assess([LARGE, *SMALL], ScoreGate(rule="each"))
    assert report.decision == "inconclusive"
    assert sum("not decided" in reason for reason in report.reasons) == 6


def test_one_benchmark_alone_is_its_own_average() -> None:
    assert assess(SMALL[:1], ScoreGate()).decision == "inconclusive"
    assert assess([LARGE], ScoreGate()).decision == "pass"


def test_the_average_must_show_its_margin() -> None:
    """1.1 points lost everywhere: within the margin of each benchmark, not within the average's."""
    report = assess([pair(f"b{n}", 290, 180, 10000) for n in range(4)], ScoreGate())
    assert {one.decision for one in report.comparisons} == {"pass"}
    assert report.average is not None
    assert report.average.decision == report.decision == "inconclusive"
    assert report.reasons[0].startswith("Average: 80.00 became 78.90")


@pytest.mark.parametrize(("lost", "decision"), [(45, "pass"), (66, "inconclusive"), (90, "refuse")])
def test_a_loss_in_one_benchmark_alone_is_seen(lost: int, decision: str) -> None:
    """30 of 1,319 won, in a suite of five tests: more than nothing is lost at the level of 99 % from 20 questions net on."""
    others = [pair(f"large {n}", 100, 100, 12000) for n in range(3)]
    report = assess([*others, pair("one", lost, 30, 1319)], ScoreGate())
    assert report.decision == decision, report.reasons
    if decision == "inconclusive":
        assert "more than noise explains, not decided" in report.reasons[0]
        assert report.more_samples > 0


def test_a_category_must_show_its_margin_where_the_suite_has_several() -> None:
    """4 points lost by both of one category: the other six benchmarks hold the average within 1.5 points."""
    good = [pair(f"fact {n}", 100, 100, 12000, category="Knowledge") for n in range(6)]
    bad = [pair(f"sum {n}", 48, 10, 900, category="Arithmetic") for n in range(2)]
    report = assess([*good, *bad], ScoreGate(margin_average=1.5))
    assert [one.title for one in report.categories] == ["Average of Knowledge", "Average of Arithmetic"]
    assert report.categories[0].decision == "pass"
    assert report.categories[1].decision == "refuse"
    assert report.decision == "refuse"
    assert report.average is not None
    assert report.average.decision == "pass"
    assert [one.title for one in report.scores[-3:]] == ["Average of Knowledge", "Average of Arithmetic", "Average"]
    alone = assess([*good, pair("alone", 30, 30, 600, category="Other")], ScoreGate())
    assert [one.title for one in alone.categories] == ["Average of Knowledge"], "one benchmark is no average"


def test_what_is_too_small_for_an_average_may_still_refuse() -> None:
    """30 problems, of which one is lost: 3.3 points would be more than half a point of the average of seven."""
    tiny = pair("tiny", 1, 0, 30, averaged=False)
    report = assess([LARGE, *SMALL, tiny], ScoreGate())
    assert report.decision == "pass"
    assert report.average is not None
    assert report.average.baseline == pytest.approx(80)
    assert report.average.difference == pytest.approx(0)
    collapsed = pair("tiny", 20, 0, 30, averaged=False)
    assert assess([LARGE, *SMALL, collapsed], ScoreGate()).decision == "refuse"


def test_an_honest_suite_passes_and_a_broken_one_does_not() -> None:
    """Drawn suites of the sizes of OpenLLM v1, 5 % of answers changed: by the long simulation 99 % pass, and with 2 points
    lost everywhere none.
    """
    rng = np.random.default_rng(4)

    def drawn(loss: float) -> str:
        sizes = (14042, 1172, 1319, 10042, 1267, 817)
        counts = [rng.multinomial(n, [0.025 + loss / 2, 0.025 - loss / 2, 0.95]) for n in sizes]
        pairs = [pair(str(n), int(c[0]), int(c[1]), n) for n, c in zip(sizes, counts, strict=True)]
        return assess(pairs, ScoreGate()).decision

    assert [drawn(0.0) for _ in range(12)].count("pass") >= 11
    assert [drawn(0.02) for _ in range(6)].count("pass") == 0
