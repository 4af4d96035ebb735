"""What the gate makes of the campaign's measurements (tests/bench/_gate_campaign.py), as the section of the measurements' page."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from containers.evaluate.answer_margins import smooth_differences
from containers.evaluate.declaration import ScoreGate
from containers.evaluate.gate import Pair, assess

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from containers.evaluate.gate import GateReport
    from containers.verdict import Decision

# A thousand questions show 2 points by their log-probabilities, and not 1.
GATE: Final = ScoreGate(margin=4.0, margin_average=2.0)
_ORDER: Final[tuple[Decision, ...]] = ("pass", "inconclusive", "refuse")

Row = dict[str, Any]


def section(rows: Sequence[Row]) -> Iterator[str]:
    """Every decision, how many of each, and the log-probabilities beside right and wrong."""
    baselines = {row["draw"]: row for row in rows if row["role"] == "baseline"}
    judged = [
        (row, pairs(baselines[row["draw"]], row))
        for role in ("honest", "damaged")
        for row in rows
        if row["role"] == role and row["draw"] in baselines
    ]
    yield from _decisions(judged)
    yield ""
    yield from _counts(judged)
    yield ""
    yield from log_probabilities([each for _, each in judged])


def pairs(before: Row, after: Row) -> list[Pair]:
    """The benchmarks of two measurements of one draw."""
    found = []
    for key, mine in after["benchmarks"].items():
        theirs = before["benchmarks"][key]
        scores, margins = ([_named(one[what]) for one in (theirs, mine)] for what in ("scores", "margins"))
        found.append(Pair(mine["title"], scores[0], scores[1], margins=(margins[0], margins[1])))
    return found


def _named(values: Sequence[float]) -> dict[str, float]:
    return {f"{number:05}": float(value) for number, value in enumerate(values)}


def _decisions(judged: Sequence[tuple[Row, list[Pair]]]) -> Iterator[str]:
    yield "| candidate | draw | answers that differ | difference | by log-probabilities (bounds) | `pooled` | `each` |"
    yield "| --- | ---: | ---: | ---: | ---: | --- | --- |"
    for row, found in judged:
        report, mean = _assessed(found)
        each = assess(found, GATE.model_copy(update={"rule": "each"})).decision
        yield (
            f"| {row['name']} | {row['draw']} | {100 * _differing(found):.1f} % | {mean.difference:+.2f} "
            f"| {mean.center:+.2f} ({mean.lower:+.2f} to {mean.upper:+.2f}) | {report.decision} | {each} |"
        )


def _assessed(found: Sequence[Pair]) -> tuple[GateReport, Any]:
    report = assess(found, GATE)
    assert report.average is not None
    return report, report.average


def _differing(found: Sequence[Pair]) -> float:
    return float(np.mean([one.baseline[key] != one.candidate[key] for one in found for key in one.baseline]))


def _counts(judged: Sequence[tuple[Row, list[Pair]]]) -> Iterator[str]:
    yield "| | measured | pass | inconclusive | refuse |"
    yield "| --- | ---: | ---: | ---: | ---: |"
    for role in ("honest", "damaged"):
        said = Counter(assess(found, GATE).decision for row, found in judged if row["role"] == role)
        yield f"| {role} | {said.total()} | " + " | ".join(str(said[one]) for one in _ORDER) + " |"


def log_probabilities(judged: Sequence[Sequence[Pair]]) -> Iterator[str]:
    """The two differences of every candidate, over all its questions: what log-probabilities expect and what was seen."""
    plain, smooth, rest = [], [], []
    for found in judged:
        before, after, lead, trail = _arrays(found)
        each = smooth_differences((before, after), (lead, trail))
        if each is None:
            continue
        plain.append(100 * float((after - before).mean()))
        smooth.append(100 * float(each.mean()))
        rest.append(100 * (after - before - each))
    if not rest:
        return
    residual = np.concatenate(rest)
    yield (
        f"Log-probabilities were used for {len(rest)} of {len(judged)} candidates. Their difference minus the plain one is "
        f"{np.mean(smooth) - np.mean(plain):+.2f} points on average over {len(residual):,} pairs of answers, with a standard "
        f"error of {residual.std() / np.sqrt(len(residual)):.2f} if they were all other questions."
    )


def _arrays(found: Sequence[Pair]) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    sides: list[list[Mapping[str, float]]] = [
        [one.baseline for one in found],
        [one.candidate for one in found],
        [one.margins[0] for one in found],
        [one.margins[1] for one in found],
    ]
    first, second, third, fourth = (np.concatenate([list(part.values()) for part in side]) for side in sides)
    return first, second, third, fourth
