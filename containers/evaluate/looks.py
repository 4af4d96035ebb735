"""Looks at a comparison while it is measured: clear cases end early, open ones get more answers by themselves.

A suite may declare looks. Each measures what it adds to the one before: more of the questions, then more sampled answers to each
of them. After each look the gate judges all answers so far, and the next one is measured only if it cannot decide.

Who looks several times has several chances to be wrong by chance, so the error of a test is spent over the looks: at look k of K
it may have used error * (k / K)^3 in all, and all of it at the last one (the power family of Kim and DeMets, Biometrika 74, 1987,
149-154). How much is spent when is fixed by the declaration and not by what was seen, as calendar time is in Lan and DeMets
(Statistics in Medicine 8, 1989, 1191-1198). The bounds that spend it come from the joint distribution of the looks, by the
recursion of Armitage, McPherson and Rowe (JRSS A 132, 1969, 235-244): the estimates of two looks have the correlation
sqrt(I_1 / I_2), I being what is known at each. Questions count as what they are. Of repeated answers each is taken to tell as much
as the first one, which is the least correlation that they can have and makes the bounds a little wider than they need to be.

What passes and what refuses are spent separately, as if the other did not exist: a candidate that is refused early can no longer
pass, which only makes errors rarer.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from itertools import pairwise
from statistics import NormalDist
from typing import TYPE_CHECKING, Annotated, Final

import numpy as np
from pydantic import Field

from containers.contract import Frozen
from containers.errors import BadInput
from containers.evaluate.paired import levels

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

Share = Annotated[float, Field(gt=0, le=1)]

_POWER: Final = 3  # of the share of looks, in the error that is spent
_REACH: Final = 8.0  # standard deviations below zero beyond which nothing is integrated
_POINTS: Final = 401  # of the grid, for Simpson's rule
_HALVINGS: Final = 50


class Look(Frozen):
    """What is measured when it ends: this share of the `questions` of each benchmark, and this many sampled `answers` to each.

    A benchmark with fewer seeds than `answers` has as many answers as seeds, one without seeds has one.
    """

    questions: Share = 1.0
    answers: Annotated[int, Field(gt=0)] = 1

    def __str__(self) -> str:
        of_them = "all questions" if self.questions == 1 else f"{self.questions:.0%} of the questions"
        return of_them + ("" if self.answers == 1 else f", {self.answers} answers to each that is sampled")


def check_looks(looks: Sequence[Look], answers: int) -> None:
    """Raises ValueError unless each look adds questions or, once all are asked, answers, of which a question can have so many, and
    the last one has all questions.
    """
    if len(looks) == 1:
        raise ValueError("a sequence needs two looks or more: give more, or none")
    for before, after in pairwise(looks):
        more_questions = after.questions > before.questions and after.answers == before.answers
        more_answers = after.questions == before.questions == 1 and after.answers > before.answers
        if not (more_questions or more_answers):
            raise ValueError("each look asks more questions or, once all are asked, takes more answers to them")
    if looks and looks[-1].questions != 1:
        raise ValueError("the last look asks all questions")
    if looks and looks[-1].answers > answers:
        raise ValueError(
            f"a look takes {looks[-1].answers} answers to each question, and there are seeds for {answers}"
        )


@dataclass(frozen=True)
class LookProgress:
    """At which look a comparison is, from 1; without looks all is measured at once."""

    looks: tuple[Look, ...] = ()
    number: int = 0

    @classmethod
    def at(cls, looks: Sequence[Look], number: int) -> LookProgress:
        """Raises BadInput for a look that the suite does not have."""
        if (number > 0) != bool(looks) or number > len(looks):
            raise BadInput(
                f"the request is for look {number}, and the suite has {len(looks)}",
                remedy="start the step from the same version of the project as the flow",
            )
        return cls(tuple(looks), number)

    @property
    def early(self) -> bool:
        """Whether more can be measured."""
        return self.number < len(self.looks)

    def levels(self, confidence: float, tests: float) -> tuple[float, float]:
        """The one-sided confidences of the bound that passes and of the one that refuses, so that over all looks the errors are those
        of `paired.levels`.
        """
        at_once = levels(confidence, tests)
        if not self.looks:
            return at_once
        most = self.looks[-1].answers
        known = tuple(one.questions * one.answers / most for one in self.looks)
        passing, refusing = (NormalDist().cdf(boundaries(known, 1 - one)[self.number - 1]) for one in at_once)
        return passing, refusing

    def of(self, *, at_once: bool) -> LookProgress | None:
        """That of a benchmark which is measured with the others, or `at_once` in the first look; None where nothing is left of it."""
        if not at_once or not self.looks:
            return self
        return AT_ONCE if self.number == 1 else None

    def adds_questions(self) -> bool:
        """Whether this look asks other questions than the one before, and not the same ones again."""
        return self.number < 2 or self.looks[self.number - 1].questions > self.looks[self.number - 2].questions

    def seeds(self, declared: Sequence[int]) -> tuple[int, ...]:
        """The seeds of the answers that this look adds to each of its questions."""
        if not self.looks:
            return tuple(declared)
        before = 0 if self.adds_questions() else self.looks[self.number - 2].answers
        return tuple(declared[before : self.looks[self.number - 1].answers])

    def asked(self, task: str, count: int) -> list[int]:
        """Which of the questions 0 to `count` of a task this look asks: drawn once for all, the same for every model.

        The first ones of a data set may be about one subject, so they are no sample of it.
        """
        if not self.looks:
            return list(range(count))
        order = sorted(range(count), key=lambda number: sha256(f"{task} {number}".encode()).digest())
        share = self.looks[self.number - 1].questions
        before = self.looks[self.number - 2].questions if self.number > 1 and self.adds_questions() else 0.0
        return sorted(order[math.ceil(count * before) : math.ceil(count * share)])

    def __str__(self) -> str:
        return f"look {self.number} of {len(self.looks)} ({self.looks[self.number - 1]})" if self.looks else "one look"


AT_ONCE: Final = LookProgress()


@cache
def boundaries(known: tuple[float, ...], error: float) -> tuple[float, ...]:
    """The standard normal values at which each look spends its part of `error`; `known` is what share is known at each, rising to 1.

    Without an effect, the probability that any look passes its boundary is `error`.
    """
    found: list[float] = []
    spent = 0.0
    grid, density = np.zeros(1), np.ones(1)  # of the sum of what was seen, where no look has passed its boundary yet
    before = 0.0
    for number, now in enumerate(known, start=1):
        spending = error * (number / len(known)) ** _POWER - spent
        spent += spending
        step = math.sqrt(now - before)
        low, high = -_REACH, _REACH
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            beyond = float(density @ _tail((middle * math.sqrt(now) - grid) / step))
            low, high = (middle, high) if beyond > spending else (low, middle)
        found.append(low)
        points = np.linspace(-_REACH * math.sqrt(now), low * math.sqrt(now), _POINTS)
        moved = np.exp(-(((points[:, None] - grid) / step) ** 2) / 2) / (step * math.sqrt(2 * math.pi))
        grid, density, before = points, (moved @ density) * _simpson(points), now
    return tuple(found)


def _tail(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.array([math.erfc(value / math.sqrt(2)) / 2 for value in values])


def _simpson(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """The weights of Simpson's rule on an odd number of equally distant points."""
    weights = np.where(np.arange(len(points)) % 2 == 1, 4.0, 2.0)
    weights[[0, -1]] = 1.0
    return np.asarray(weights * (points[1] - points[0]) / 3, np.float64)
