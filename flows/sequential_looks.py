"""Measuring in looks: after each the verdict says whether another one may decide. For the flow and the command line."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from containers import suites

if TYPE_CHECKING:
    from collections.abc import Callable

    from containers.verdict import Verdict

M = TypeVar("M")
R = TypeVar("R")


def in_looks(suite: str) -> bool:
    """Whether the models may be measured again after the verdict: then none keeps serving before it."""
    return suites.read(suite).first_look > 0


def until_decided(
    first: tuple[M, M],
    *,
    judge: Callable[[list[tuple[M, M]]], tuple[Verdict, R]],
    measure: Callable[[int], tuple[M, M]],
) -> tuple[Verdict, R]:
    """The last verdict. Measurements are of candidate and baseline, in that order; `first` is all there is without looks.

    `judge` gets the looks so far, `measure` the number of the next one, from 2. Both find what is stored, so a run that was killed
    goes on where it stopped.
    """
    looks = [first]
    while True:
        verdict, result = judge(looks)
        if not (look := verdict.next_look):
            return verdict, result
        looks.append(measure(look))
