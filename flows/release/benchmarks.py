"""The rows of a verdict that are benchmarks over a data set, for those who export them."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from containers.verdict import Score, Verdict


def benchmarks(verdict: Verdict) -> Iterator[tuple[Score, str]]:
    """Every benchmark with the harness's name of its task, empty where the commands do not tell it."""
    rows = [one for one in verdict.scores if one.data_set and not one.lower_is_better]
    words = [shlex.split(command) for command in verdict.commands]
    tasks = list(dict.fromkeys(one[one.index("--tasks") + 1] for one in words if "--tasks" in one[:-1]))
    yield from zip(rows, tasks if len(tasks) == len(rows) else [""] * len(rows), strict=True)
