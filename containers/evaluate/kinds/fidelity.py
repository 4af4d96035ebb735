"""Suites that compare a candidate's log-probabilities with its baseline's and check the server's behaviour."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from containers.endpoint_key import authorization
from containers.evaluate import page
from containers.evaluate.client import NotFinite
from containers.evaluate.fidelity_text import FidelityText
from containers.evaluate.harness.run import Harness, run_benchmarks
from containers.evaluate.judge import judge
from containers.evaluate.measure import measure
from containers.evaluate.measurement import Check, Measured
from containers.evaluate.suite import Judgement

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from containers.evaluate.harness.benchmark import Benchmark
    from containers.evaluate.harness.run import Ran
    from containers.evaluate.suite import Sizes
    from containers.parameters import EvaluateOptions, EvaluateParameters
    from containers.step import Context
    from containers.store import Store
    from containers.suites import SuiteFiles


class RunTasks(Protocol):
    """How the small benchmarks are run: `run_benchmarks`, unless a test gives its own."""

    def __call__(
        self,
        files: SuiteFiles,
        declared: Sequence[Benchmark],
        options: EvaluateOptions,
        store: Store,
        context: Context,
        /,
    ) -> Ran: ...


@dataclass(frozen=True)
class FidelitySuite(FidelityText):
    """See `containers.evaluate.suite.Suite`."""

    run_tasks: RunTasks = run_benchmarks

    def check(self, context: Context) -> None:
        if self.declared.tasks and not self.files.shipped:
            Harness(self.files, self.declared.tasks, context.scratch / "harness", context.settings).check()

    def measure(
        self, parameters: EvaluateParameters, options: EvaluateOptions, store: Store, context: Context
    ) -> dict[str, bytes]:
        key = authorization(context.settings.evaluate, options.endpoint)
        measured = asyncio.run(measure(self, parameters, options, context.report, key))
        if self.declared.tasks:
            try:
                ran = self.run_tasks(self.files, self.declared.tasks, options, store, context)
            except NotFinite as error:  # a finding, which refuses; without it no broken model would get a verdict
                measured = measured.with_check(Check(name="small tasks", passed=False, detail=str(error)))
            else:
                measured = measured.with_tasks(ran.scored, ran.requests)
        return measured.files()

    def judge(self, candidate: Path, baseline: Path, sizes: Sizes) -> Judgement:
        report = judge(self, Measured.read(candidate), Measured.read(baseline), sizes)
        return Judgement(report.verdict, report, page.render(report))
