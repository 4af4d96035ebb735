"""Whole suites that are measured in looks, by simulation: what the gate decides, at which look, and how many answers that took.

What is drawn here are answers and log-probabilities. Of each run only what its bounds need is kept, so that thousands of runs take
seconds, and all rules and sequences of looks are tried on the same runs. Bounds, levels and decisions are the gate's own
(tests/unit/test_evaluate_level.py compares with `gate.assess`).
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from containers.evaluate import gate, paired
from containers.evaluate.answer_margins import Smooth, smooth
from containers.evaluate.error_shares import even_tests
from containers.evaluate.looks import AT_ONCE, Look, LookProgress
from tests.support.gate_simulation import SCORE, with_margins

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from containers.evaluate.gate import Comparison
    from containers.evaluate.harness.benchmark import Benchmark
    from containers.evaluate.kinds.benchmarks import BenchmarkDeclaration
    from containers.verdict import Decision

    Numbers = NDArray[np.float64]

CHOICES: Final = ("acc,", "acc_norm,")  # of which the harness keeps the log-probabilities of each choice
PARTIAL: Final = ("truthfulqa_mc2",)  # taken for right or wrong here, which has more spread


class Seen(NamedTuple):
    """One benchmark as one look sees it, each field an array over the runs. `moments` are those of the scores, `smoothed` those of
    what log-probabilities give; `agrees` and `contradicts` as in `Smooth`.
    """

    samples: Numbers
    moments: paired.Moments
    lost: Numbers
    won: Numbers
    whole: NDArray[np.bool_]  # right or wrong, and no shares of answers
    smoothed: paired.Moments
    agrees: NDArray[np.bool_]
    contradicts: NDArray[np.bool_]


class Drawn(NamedTuple):
    """What each look sees of each benchmark, by its key, in `runs` runs; and how many answers a look has taken in all."""

    seen: Mapping[tuple[str, Look], Seen]
    answers: Mapping[Look, int]
    runs: int


@dataclass(frozen=True)
class Endings:
    """What became of each run: its decision, at which look (from 1), and how many answers of each model that took."""

    decisions: Sequence[Decision]
    looks: Sequence[int]
    answers: Sequence[int]

    def shares(self) -> tuple[float, float]:
        """Of runs that passed and that were refused, in percent."""
        said = Counter(self.decisions)
        return 100 * said["pass"] / len(self.decisions), 100 * said["refuse"] / len(self.decisions)


class Generated(NamedTuple):
    """One benchmark: whether each question is lost (-1) or won (1) for good, and which ones both models decide by a coin each time."""

    steady: Numbers
    chance: NDArray[np.bool_]
    coins: Numbers  # [2, answers, questions that are chance]

    def differences(self, count: int, answers: int) -> Numbers:
        each = self.steady.copy()
        mine, theirs = self.coins[:, :answers].mean(axis=1)
        each[self.chance] = mine - theirs
        return each[:count]


def generated(
    rng: np.random.Generator, samples: int, differing: float, loss: float, most: int, *, lasting: float
) -> Generated:
    """As `gate_simulation.sampled` draws them, with every answer kept."""
    loss = loss / 100
    steady = max(differing * lasting, loss)
    draw = rng.random(samples)
    lost = (steady + loss) / 2
    each = np.where(draw < lost, -1.0, np.where(draw < steady, 1.0, 0.0))
    chance = draw >= 1 - 2 * (differing - steady) if differing > steady else np.zeros(samples, bool)
    coins = rng.integers(0, 2, (2, most, int(chance.sum()))).astype(float)
    return Generated(each, chance, coins)


def asked(one: Benchmark, look: Look, sampled: Sequence[str]) -> tuple[int, int]:
    """How many questions a look has asked of a benchmark, and how many answers it took to each."""
    if one.at_once:
        return one.samples, len(one.seeds) or 1
    return math.ceil(one.samples * look.questions), look.answers if one.key in sampled else 1


def draw(
    declared: BenchmarkDeclaration,
    rng: np.random.Generator,
    differing: float,
    losses: Mapping[str, float],
    looks: Sequence[Look],
    runs: int,
    *,
    sampled: Sequence[str] = (),
    lasting: float = 0.5,
    log_probabilities: bool = True,
) -> Drawn:
    """Runs of a suite whose benchmarks lose `losses` points, by key. Those in `sampled` are answered as often as a look says, the
    others once. Benchmarks over one data set with as many questions get the very same answers.
    """
    seen: dict[tuple[str, Look], Seen] = {}
    same: dict[tuple[str, int], str] = {}
    for one in declared.benchmarks:
        key, loss = (one.data_set, one.samples), losses.get(one.key, 0.0)
        if key in same:
            seen |= {(one.key, look): seen[same[key], look] for look in looks}
            continue
        same[key] = one.key
        states = {look: asked(one, look, sampled) for look in looks}
        choices = log_probabilities and one.metric.startswith(CHOICES) and one.task not in PARTIAL
        rows: dict[tuple[int, int], list[tuple[float, ...]]] = {state: [] for state in states.values()}
        for _ in range(runs):
            if choices:
                margins = with_margins(rng, one.samples, differing, loss)
                before, after = ((side > 0).astype(float) for side in margins)
                for (count, _), some in rows.items():
                    found = smooth((before[:count], after[:count]), (margins[0][:count], margins[1][:count]))
                    some.append(_row(after[:count] - before[:count], found))
            else:
                most = max(answers for _, answers in rows)
                share = lasting if one.key in sampled or one.at_once else 1.0
                answered = generated(rng, one.samples, max(differing, loss / 100), loss, most, lasting=share)
                for (count, answers), some in rows.items():
                    some.append(_row(answered.differences(count, answers), None))
        columns = {state: np.array(some).T for state, some in rows.items()}
        seen |= {(one.key, look): _seen(columns[state], whole=state[1] == 1) for look, state in states.items()}
    totals = {look: sum(math.prod(asked(one, look, sampled)) for one in declared.benchmarks) for look in looks}
    return Drawn(seen, totals, runs)


def _row(plain: Numbers, found: Smooth | None) -> tuple[float, ...]:
    each = plain if found is None else found.each
    return (
        len(plain),
        *map(float, paired.Moments.of(plain)),
        float((plain < 0).sum()),
        float((plain > 0).sum()),
        *map(float, paired.Moments.of(each)),
        found is not None and found.agrees,
        found is None or found.contradicts,
    )


def _seen(column: Numbers, *, whole: bool) -> Seen:
    return Seen(
        samples=column[0],
        moments=paired.Moments(*column[1:4]),
        lost=column[4],
        won=column[5],
        whole=np.full(column.shape[1], whole),
        smoothed=paired.Moments(*column[6:9]),
        agrees=column[9] > 0,
        contradicts=column[10] > 0,
    )


def intervals(one: Seen, passing: float, refusing: float) -> tuple[Numbers, Numbers]:
    """`answer_margins.interval` of every run, without its expected difference."""
    sides = []
    for z, wider in ((NormalDist().inv_cdf(passing), np.minimum), (-NormalDist().inv_cdf(refusing), np.maximum)):
        by_scores = np.where(
            one.whole, paired.tango(one.lost, one.won, one.samples, z), paired.mean_bound(one.moments, one.samples, z)
        )
        by_margins = paired.mean_bound(one.smoothed, one.samples, z)
        doubted = np.where(one.contradicts, by_scores, wider(by_scores, by_margins))
        sides.append(np.where(one.agrees, by_margins, doubted))
    return sides[0], sides[1]


def rows(
    title: str, one: Seen, margin: float, levels: tuple[float, float], runs: Sequence[int]
) -> dict[int, Comparison]:
    """What the gate says of one benchmark in each of these runs."""
    low, high = intervals(one, *levels)
    found = {}
    for at in runs:
        expected = 100 * float(one.smoothed.first[at]) if one.agrees[at] else None
        scores = (SCORE, SCORE + 100 * float(one.moments.first[at]))
        bounds = (100 * float(low[at]), 100 * float(high[at]))
        found[at] = gate.decided(title, int(one.samples[at]), scores, bounds, margin, expected=expected)
    return found


def judge(declared: BenchmarkDeclaration, drawn: Drawn, looks: Sequence[Look], *, in_looks: bool = True) -> Endings:
    """What the gate decides of every run in these looks; with `in_looks` false there is one, and it is all that the suite has."""
    rules, averaged = declared.gate, [at for at, one in enumerate(declared.benchmarks) if one.averaged]
    tests, whole = even_tests([one.samples for one in declared.benchmarks], len(averaged) > 1)
    decisions: list[Decision] = ["inconclusive"] * drawn.runs
    ended, answers = [len(looks)] * drawn.runs, [drawn.answers[looks[-1]]] * drawn.runs
    for number, look in enumerate(looks, start=1):
        progress = LookProgress(tuple(looks), number) if in_looks else AT_ONCE
        runs = [run for run, one in enumerate(decisions) if one == "inconclusive"]
        found, parts = [], []
        for one, part in zip(declared.benchmarks, tests, strict=True):
            at_its_share, at_a_whole = (
                rows(one.title, drawn.seen[one.key, look], rules.margin, progress.levels(rules.confidence, level), runs)
                for level in (part, max(whole, 1.0))
            )
            found.append(at_its_share)
            parts.append(at_a_whole)
        for run in runs:
            mean = gate.average(
                "Average",
                [parts[at][run] for at in averaged],
                margin=rules.margin_average,
                groups=[declared.benchmarks[at].data_set for at in averaged],
            )
            said = gate.decide(
                [one[run] for one in found],
                mean if len(averaged) > 1 else None,
                pooled=rules.rule == "pooled",
                early=progress.early,
            )
            if said.decision != "inconclusive":
                decisions[run], ended[run], answers[run] = said.decision, number, drawn.answers[look]
    return Endings(decisions, ended, answers)
