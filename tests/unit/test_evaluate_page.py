"""The HTML report: complete in itself, well formed, and safe with whatever a model wrote."""

from __future__ import annotations

from html.parser import HTMLParser
from typing import TYPE_CHECKING

import pytest

from containers.evaluate import page, plots, samples
from containers.evaluate.compare import Estimate
from containers.evaluate.judge import judge
from containers.evaluate.suite import Sizes
from containers.verdict import Score
from tests.support.measurements import GATE, GREEDY, SUITE, measured, scored

if TYPE_CHECKING:
    from containers.evaluate.judge import Report

CUT = "HumanEval: 3 of the baseline's, 4 of the candidate's"
_VOID = {"meta", "br", "circle", "rect", "line"}


class Reader(HTMLParser):
    """Collects text and attributes; complains about a tag that is closed out of order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text: list[str] = []
        self.tags: list[str] = []
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value or "" for name, value in attrs if name in ("src", "href", "xlink:href")]
        if tag not in _VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open, tag
        if tag != "li":
            assert self.open.pop() == tag
        else:
            self.open.pop()

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def read(report: Report) -> Reader:
    return parsed(page.render(report))


def parsed(content: str) -> Reader:
    reader = Reader()
    reader.feed(content)
    reader.close()
    assert reader.open == []
    return reader


def test_the_page_says_all_and_needs_nothing() -> None:
    hostile = {"Who are you?": "<script>alert(1)</script><img src=http://x/y>"}
    report = judge(SUITE, measured(damage=0.1, answers=hostile), measured(answers={"Who are you?": "A & B"}))
    reader = read(report)
    assert reader.links == []
    assert "script" not in reader.tags
    assert "img" not in reader.tags
    text = " ".join(reader.text)
    assert "<script>alert(1)</script>" in text
    assert "A & B" in text
    for reason in report.verdict.reasons:
        assert reason in text
    assert f"{report.measures['kl_mean'].value:.4g}" in text
    assert "text/07-deutsch.txt" in text
    assert reader.tags.count("svg") == 4


def test_a_verdict_without_numbers_has_a_page_too() -> None:
    """Another tokenizer: nothing can be compared token by token."""
    report = judge(SUITE, measured(passages=measured().about.passages[:3]), measured())
    assert report.measures == {}
    assert "Fidelity to the baseline" not in " ".join(read(report).text)


@pytest.mark.parametrize("bounds", [(None, None), (0.1, 0.1)])
def test_a_measure_without_a_spread_is_shown(bounds: tuple[float | None, float | None]) -> None:
    report = judge(SUITE, measured(), measured())
    estimate = Estimate(value=0.1, lower=bounds[0], upper=bounds[1], blocks=1)
    reader = read(report.model_copy(update={"measures": {"kl_mean": estimate}}))
    drawn = "0.1, limit 0.05" in reader.text
    assert drawn is (bounds[0] is not None), "the plot has what has an interval"
    assert "0.1" in reader.text, "the table has both"


def test_the_page_of_a_gate_has_scores_recovery_and_interval() -> None:
    """120 of 164 became 118: 73.17 and 71.95 points, 98.3 % of it; a baseline near zero has no recovery."""
    report = samples.judge(GREEDY, GATE, scored(118), scored(120), Sizes(baseline=270_000_000, candidate=163_000_000))
    reader = parsed(
        page.render_gate(report.model_copy(update={"noise": {"HumanEval": 0.125}, "cut": {"HumanEval": (3, 4)}}))
    )
    assert reader.links == []
    row = report.verdict.scores[0]
    recovery = f"98.3 % ({100 + row.lower / 0.7317073:.1f} to {100 + row.upper / 0.7317073:.1f})"
    difference = f"-1.22 ({row.lower:+.2f} to {row.upper:+.2f})"
    for text in ("73.17", "71.95", recovery, difference, "inconclusive", "HumanEval: 12.5 %", CUT):
        assert text in reader.text
    assert "270,000,000 bytes became 163,000,000, 39.6 % less" in " ".join(reader.text)
    assert reader.tags.count("svg") == 3
    low = samples.judge(GREEDY, GATE, scored(2), scored(1))
    assert "N/A" in parsed(page.render_gate(low)).text


def test_recovery_of_a_perplexity_is_baseline_over_candidate() -> None:
    """20 that became 25, give or take 1: 80 %, and 20/26 to 20/24."""
    score = Score(title="x", baseline=20, candidate=25, lower=4, upper=6, lower_is_better=True)
    assert score.recovery == pytest.approx(80)
    assert score.recovery_bounds == pytest.approx((100 * 20 / 26, 100 * 20 / 24))


def test_the_report_of_the_smoke_suite_has_scores_sizes_and_recovery() -> None:
    report = judge(SUITE, measured(damage=0.1), measured(), Sizes(baseline=2_000, candidate=1_000))
    score = report.verdict.scores[0]
    text = " ".join(read(report).text)
    assert f"{score.baseline:.2f}" in text
    assert f"{score.recovery:.1f} %" in text
    assert "2,000 bytes became 1,000, 50.0 % less" in text


def test_the_page_says_where_an_interval_comes_from_log_probabilities() -> None:
    score = Score(title="MuSR", baseline=44, candidate=43, lower=-1.2, upper=0.4, margin=2, log_probabilities=True)
    report = samples.judge(GREEDY, GATE, scored(120), scored(120))
    told = report.model_copy(update={"verdict": report.verdict.model_copy(update={"scores": (score,)})})
    assert "-1.00 (-1.20 to +0.40), by log-probabilities" in page.render_gate(told)
    assert ", by log-probabilities" not in page.render_gate(report)


@pytest.mark.parametrize(
    ("low", "high", "found"),
    [
        (0.9, 60, [1, 2, 5, 10, 20, 50]),
        (3, 11, [4, 6, 8, 10]),  # 5 and 10 alone would be too few
        (82, 198, [100, 150]),
    ],
)
def test_a_logarithmic_scale_has_round_numbers(low: float, high: float, found: list[float]) -> None:
    assert plots.log_ticks(low, high) == pytest.approx(found)
