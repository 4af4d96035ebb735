"""Suites that compare a candidate's log-probabilities with its baseline's, and check that it answers as a server should."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Annotated, Literal, Protocol, Self

from pydantic import Field, model_validator

from containers.contract import Frozen
from containers.errors import BadInput
from containers.evaluate import page
from containers.evaluate.client import NotFinite
from containers.evaluate.declaration import Declaration, Positive, Serving, parse
from containers.evaluate.fidelity_gate import FidelityGate
from containers.evaluate.harness.benchmark import Benchmark, check_benchmarks
from containers.evaluate.harness.run import Harness, run_benchmarks
from containers.evaluate.judge import judge
from containers.evaluate.measure import measure
from containers.evaluate.measurement import Check, Measured
from containers.evaluate.suite import Judgement

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from containers.contract import EvaluateOptions, EvaluateParameters
    from containers.evaluate.harness.run import Ran
    from containers.evaluate.suite import Sizes
    from containers.step import Context
    from containers.store import Store
    from containers.suites import SuiteFiles


class FidelityServing(Serving):
    """`max_logprobs` is vLLM's --max-logprobs, which must allow fidelity.top_k."""

    max_logprobs: Positive = 20


class Message(Frozen):
    role: Literal["system", "user", "assistant"]
    content: str


class Sanity(Frozen):
    max_tokens: Positive = 32
    chat: tuple[str, ...] = Field(min_length=1)
    completion: tuple[str, ...] = Field(min_length=1)
    repeats: Annotated[int, Field(ge=2)] = 3
    long_prompt_tokens: Positive
    concurrent: Positive = 8


class Fidelity(Frozen):
    """`text` are patterns of paths inside the suite; each file is one passage."""

    text: tuple[str, ...] = Field(min_length=1)
    top_k: Annotated[int, Field(gt=0, le=20)] = 20
    repeat: str
    skip: Annotated[int, Field(ge=0)] = 1
    chat_template: tuple[Message, ...] = Field(min_length=1)


class FidelityDeclaration(Declaration):
    """`tasks` are small benchmarks of the suite's own (its folder `tasks`): they are reported, and fidelity decides."""

    serving: FidelityServing
    sanity: Sanity
    fidelity: Fidelity
    gate: FidelityGate
    tasks: tuple[Benchmark, ...] = ()

    @model_validator(mode="after")
    def _fits(self) -> Self:
        check_benchmarks(self.tasks, self.serving.max_model_len)
        return self


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
class FidelitySuite:
    """See `containers.evaluate.suite.Suite`."""

    declared: FidelityDeclaration
    files: SuiteFiles
    run_tasks: RunTasks = run_benchmarks

    @classmethod
    def read(cls, files: SuiteFiles) -> FidelitySuite:
        suite = cls(parse(files, FidelityDeclaration), files)
        wanted = suite.declared.fidelity
        if not suite.passages:
            raise BadInput(f"no file of the suite {files.name} matches fidelity.text {list(wanted.text)}")
        if wanted.repeat not in suite.passages:
            raise BadInput(f"fidelity.repeat of the suite {files.name} is none of its passages: {wanted.repeat}")
        return suite

    @property
    def passages(self) -> dict[str, str]:
        """The fidelity text by path, sorted."""
        wanted = self.declared.fidelity.text
        return {
            path: text
            for path, text in sorted(self.files.files.items())
            if any(fnmatchcase(path, pattern) for pattern in wanted)
        }

    def check(self, context: Context) -> None:
        if self.declared.tasks and not self.files.shipped:
            Harness(self.files, self.declared.tasks, context.scratch / "harness", context.settings).check()

    def measure(
        self, parameters: EvaluateParameters, options: EvaluateOptions, store: Store, context: Context
    ) -> dict[str, bytes]:
        measured = asyncio.run(measure(self, parameters, options, context.report))
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
