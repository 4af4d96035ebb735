"""What the gate makes of the campaign's measurements (tests/bench/_gate_campaign.py), as the section of the measurements' page."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from containers.evaluate.answer_margins import smooth_differences
from containers.evaluate.declaration import ScoreGate
from containers.evaluate.gate import Pair, assess
from containers.evaluate.looks import Look, LookProgress

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from containers.evaluate.gate import GateReport
    from containers.verdict import Decision

# A thousand questions show 2 points by their log-probabilities, and not 1.
GATE: Final = ScoreGate(margin=4.0, margin_average=2.0)
LOOKS: Final = (Look(questions=0.5), Look())
_ORDER: Final[tuple[Decision, ...]] = ("pass", "inconclusive", "refuse")

Row = dict[str, Any]


def section(rows: Sequence[Row]) -> Iterator[str]:
    """Every decision, how many of each, and the log-probabilities beside right and wrong."""
    baselines = {(row["draw"], row.get("suite", "")): row for row in rows if row["role"] == "baseline"}
    judged = [
        (row, pairs(baselines[row["draw"], row.get("suite", "")], row))
        for role in ("honest", "damaged")
        for row in sorted(rows, key=_order)
        if row["role"] == role and (row["draw"], row.get("suite", "")) in baselines
    ]
    yield from _decisions(judged)
    yield ""
    yield from _counts(judged)
    yield ""
    yield from log_probabilities([each for _, each in judged])


def _order(row: Row) -> int:
    """The honest ones by their number, the damaged ones as they are."""
    number = row["name"].removeprefix("honest ").partition(":")[0]
    return int(number) if number.isdigit() else 0


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
    yield "| candidate | draw | answers that differ | difference | by log-probabilities (bounds) | `pooled` | in looks | `each` |"
    yield "| --- | ---: | ---: | ---: | ---: | --- | --- | --- |"
    for row, found in judged:
        report, mean = _assessed(found)
        said, look = in_looks(found)
        each = assess(found, GATE.model_copy(update={"rule": "each"})).decision
        yield (
            f"| {row['name']} | {row['draw']} | {100 * _differing(found):.1f} % | {mean.difference:+.2f} "
            f"| {mean.center:+.2f} ({mean.lower:+.2f} to {mean.upper:+.2f}) | {report.decision} | {said}, {look} | {each} |"
        )


def _assessed(found: Sequence[Pair]) -> tuple[GateReport, Any]:
    report = assess(found, GATE)
    assert report.average is not None
    return report, report.average


def in_looks(found: Sequence[Pair]) -> tuple[Decision, int]:
    """The decision where half of the questions are asked first, and at which look it fell."""
    for number in range(1, len(LOOKS) + 1):
        progress = LookProgress(LOOKS, number)
        asked = {
            one.title: [key for part in range(1, number + 1) for key in _part(one, LookProgress(LOOKS, part))]
            for one in found
        }
        decision = assess([_some(one, asked[one.title]) for one in found], GATE, progress).decision
        if decision != "inconclusive":
            break
    return decision, number


def _part(one: Pair, progress: LookProgress) -> list[str]:
    names = sorted(one.baseline)
    return [names[number] for number in progress.asked(one.title, len(names))]


def _some(one: Pair, keys: Sequence[str]) -> Pair:
    sides = [{key: side[key] for key in keys} if side else {} for side in (one.baseline, one.candidate, *one.margins)]
    return Pair(one.title, sides[0], sides[1], margins=(sides[2], sides[3]))


def _differing(found: Sequence[Pair]) -> float:
    return float(np.mean([one.baseline[key] != one.candidate[key] for one in found for key in one.baseline]))


def _counts(judged: Sequence[tuple[Row, list[Pair]]]) -> Iterator[str]:
    yield "| | measured | pass | inconclusive | refuse | in looks: pass | inconclusive | refuse | ended at half |"
    yield "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |"
    for role in ("honest", "damaged"):
        some = [found for row, found in judged if row["role"] == role]
        said = Counter(assess(found, GATE).decision for found in some)
        ended = [in_looks(found) for found in some]
        looked = Counter(decision for decision, _ in ended)
        cells = [str(counts[one]) for counts in (said, looked) for one in _ORDER]
        yield f"| {role} | {len(some)} | {' | '.join(cells)} | {sum(look == 1 for _, look in ended)} |"


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
        f"error of {residual.std() / np.sqrt(len(residual)):.2f} if all questions were different."
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
