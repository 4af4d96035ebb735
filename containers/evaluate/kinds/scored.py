"""Shared code of the kinds of suites that score single questions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from containers.evaluate import page
from containers.evaluate.samples import Samples, judge
from containers.evaluate.suite import Judgement

if TYPE_CHECKING:
    from pathlib import Path

    from containers.evaluate.declaration import ScoreGate
    from containers.evaluate.suite import Sizes
    from containers.suites import SuiteFiles


def judge_samples(files: SuiteFiles, rules: ScoreGate, candidate: Path, baseline: Path, sizes: Sizes) -> Judgement:
    """Read two measurements and judge them, with the report and its page; raises BadInput as `judge` and `Samples.read`."""
    report = judge(files, rules, Samples.read(candidate), Samples.read(baseline), sizes)
    return Judgement(report.verdict, report, page.render_gate(report))
