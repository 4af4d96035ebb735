"""Whole suites that are measured in looks, by simulation: what the gate decides, at which look, and how many answers that took.

What is drawn here are answers and log-probabilities; levels, bounds and decisions are the gate's own.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from containers.evaluate import gate, paired
from containers.evaluate.answer_margins import smooth_differences
from containers.evaluate.looks import AT_ONCE, Look, LookProgress
from tests.support.gate_simulation import SCORE, with_margins

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from containers.evaluate.gate import Comparison
    from containers.evaluate.harness.benchmark import Benchmark
    from containers.evaluate.kinds.benchmarks import BenchmarkDeclaration
    from containers.verdict import Decision

CHOICES: Final = ("acc,", "acc_norm,")  # of which the harness keeps the log-probabilities of each choice
PARTIAL: Final = ("truthfulqa_mc2",)  # taken for right or wrong here, which has more spread


@dataclass(frozen=True)
class Ending:
    """One simulated run: its decision, at which look, and how many answers of each model that took."""

    decision: Decision
    look: int
    answers: int


@dataclass(frozen=True)
class _Choices:
    """Margins of both models, by question."""

    margins: tuple[NDArray[np.float64], NDArray[np.float64]]
    _known: dict[int, Any] = field(default_factory=dict)

    def differences(
        self, count: int, answers: int
    ) -> tuple[NDArray[np.float64], NDArray[np.float64] | None, tuple[NDArray[np.float64], NDArray[np.float64]]]:
        del answers  # the same each time
        if count not in self._known:
            self._known[count] = self._differences(count)
        return self._known[count]  # type: ignore[no-any-return]

    def _differences(
        self, count: int
    ) -> tuple[NDArray[np.float64], NDArray[np.float64] | None, tuple[NDArray[np.float64], NDArray[np.float64]]]:
        some = (self.margins[0][:count], self.margins[1][:count])
        before, after = ((one > 0).astype(float) for one in some)
        return after - before, smooth_differences((before, after), some), (before, after)


@dataclass(frozen=True)
class _Generated:
    """Each row a question: whether each model is right for good, or decides by a coin at every answer."""

    steady: NDArray[np.float64]  # difference of what is right for good
    chance: NDArray[np.bool_]
    coins: NDArray[np.float64]  # [2, answers, questions that are chance]

    def differences(
        self, count: int, answers: int
    ) -> tuple[NDArray[np.float64], None, tuple[NDArray[np.float64], NDArray[np.float64]]]:
        each = self.steady.copy()
        mine, theirs = self.coins[:, :answers].mean(axis=1)
        each[self.chance] = mine - theirs
        each = each[:count]
        # Only the difference counts; a score of one side that has it is right or wrong for a single answer.
        return each, None, (np.maximum(-each, 0), np.maximum(each, 0))


def generated(
    rng: np.random.Generator, samples: int, differing: float, loss: float, most: int, *, lasting: float
) -> _Generated:
    """As `gate_simulation.sampled` draws them, with every answer kept."""
    loss = loss / 100
    steady = max(differing * lasting, loss)
    draw = rng.random(samples)
    lost = (steady + loss) / 2
    each = np.where(draw < lost, -1.0, np.where(draw < steady, 1.0, 0.0))
    chance = draw >= 1 - 2 * (differing - steady) if differing > steady else np.zeros(samples, bool)
    coins = rng.integers(0, 2, (2, most, int(chance.sum()))).astype(float)
    return _Generated(each, chance, coins)


def run(
    declared: BenchmarkDeclaration,
    rng: np.random.Generator,
    differing: float,
    losses: Mapping[str, float],
    *,
    looks: tuple[Look, ...] = (),
    sampled: Sequence[str] = (),
    lasting: float = 0.5,
    log_probabilities: bool = True,
    once: Look = Look(),  # noqa: B008 - frozen
) -> Ending:
    """One run of a suite whose benchmarks lose `losses` points, by key. Those in `sampled` are answered as often as a look says,
    the others once. Without `looks` there is one look, `once`.
    """
    drawn: dict[tuple[str, int], _Choices | _Generated] = {}
    most = max([(looks or (once,))[-1].answers, *(len(one.seeds) for one in declared.benchmarks if one.at_once)])
    for one in declared.benchmarks:
        key, loss = (one.data_set, one.samples), losses.get(one.key, 0.0)
        if key in drawn:
            continue
        if log_probabilities and one.metric.startswith(CHOICES) and one.task not in PARTIAL:
            drawn[key] = _Choices(with_margins(rng, one.samples, differing, loss))
        else:
            share = lasting if one.key in sampled else 1.0
            drawn[key] = generated(rng, one.samples, max(differing, loss / 100), loss, most, lasting=share)
    decision: Decision = "inconclusive"
    for number, look in enumerate(looks or (once,), start=1):
        progress = LookProgress(looks, number) if looks else AT_ONCE
        rows, answers = [], 0
        for one in declared.benchmarks:
            count = one.samples if one.at_once else int(np.ceil(one.samples * look.questions))
            times = len(one.seeds) if one.at_once else look.answers if one.key in sampled else 1
            answers += count * times
            rows.append(_judged(declared, one, drawn[one.data_set, one.samples], count, times, progress))
        decision = _decided(declared, rows, progress)
        if decision != "inconclusive":
            break
    return Ending(decision, number, answers)


def _judged(
    declared: BenchmarkDeclaration,
    one: Benchmark,
    drawn: _Choices | _Generated,
    count: int,
    times: int,
    progress: LookProgress,
) -> Comparison:
    tests = len(declared.benchmarks) + 1
    passing, refusing = progress.levels(declared.gate.confidence, tests)
    plain, smooth, (before, after) = drawn.differences(count, times)
    if smooth is not None:
        low, high = paired.normal_bounds(smooth, passing=passing, refusing=refusing)
    elif times == 1:
        low, high = paired.bounds(before, after, passing=passing, refusing=refusing)
    else:
        low, high = paired.normal_bounds(plain, passing=passing, refusing=refusing)
    expected = None if smooth is None else 100 * float(smooth.mean())
    scores = (SCORE, SCORE + 100 * float(plain.mean()))
    return gate.decided(one.title, count, scores, (100 * low, 100 * high), declared.gate.margin, expected=expected)


def _decided(declared: BenchmarkDeclaration, rows: Sequence[Comparison], progress: LookProgress) -> Decision:
    averaged = [at for at, one in enumerate(declared.benchmarks) if one.averaged]
    mean = gate.average(
        "Average",
        [rows[at] for at in averaged],
        margin=declared.gate.margin_average,
        groups=[declared.benchmarks[at].data_set for at in averaged],
    )
    return gate.decide(rows, mean, pooled=declared.gate.rule == "pooled", early=progress.early).decision
