"""Shared code of the kinds of suites that score single questions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from containers.evaluate import look_parts, page
from containers.evaluate.samples import judge
from containers.evaluate.suite import Judgement

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from containers.evaluate.declaration import ScoreGate
    from containers.evaluate.looks import Look
    from containers.evaluate.suite import Sizes
    from containers.suites import SuiteFiles


def judge_samples(  # noqa: PLR0917 - a suite's rules, and two measurements
    files: SuiteFiles,
    rules: ScoreGate,
    candidate: Path,
    baseline: Path,
    sizes: Sizes,
    looks: Sequence[Look] = (),
    questions: Mapping[str, int] | None = None,
) -> Judgement:
    """Read two measurements and judge them, with the report and its page; raises BadInput as `judge` and `look_parts.read`."""
    mine, theirs = (look_parts.together(look_parts.read(folder)) for folder in (candidate, baseline))
    report = judge(files, rules, mine, theirs, sizes, looks=looks, questions=questions)
    return Judgement(report.verdict, report, page.render_gate(report))
