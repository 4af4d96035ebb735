"""Suites of benchmarks that lm-evaluation-harness runs."""

from __future__ import annotations

import asyncio
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from pydantic import Field, model_validator

from containers.endpoint_key import authorization
from containers.evaluate import sanity
from containers.evaluate.client import Client
from containers.evaluate.declaration import ScoredDeclaration, parse
from containers.evaluate.harness.benchmark import Benchmark, check_benchmarks
from containers.evaluate.harness.run import Harness, run_benchmarks
from containers.evaluate.kinds.scored import judge_samples
from containers.evaluate.looks import Look, LookProgress, check_looks
from containers.evaluate.samples import Samples

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from containers.evaluate.suite import Judgement, Sizes
    from containers.parameters import EvaluateOptions, EvaluateParameters
    from containers.step import Context
    from containers.store import Store
    from containers.suites import SuiteFiles

_REPEATED = 64  # questions of a benchmark, or one of each of its tasks: enough to see noise that would matter


class BenchmarkDeclaration(ScoredDeclaration):
    benchmarks: tuple[Benchmark, ...] = Field(min_length=1)
    looks: tuple[Look, ...] = ()

    @model_validator(mode="after")
    def _fits(self) -> Self:
        check_benchmarks(self.benchmarks, self.serving.max_model_len)
        answers = [len(one.seeds) or 1 for one in self.benchmarks if not one.at_once]
        if self.looks and not answers:
            raise ValueError("every benchmark is measured at_once, so the looks after the first have nothing to ask")
        check_looks(self.looks, max(answers, default=1))
        for one in self.benchmarks:
            if self.looks and not one.at_once and (first := math.ceil(one.samples * self.looks[0].questions)) < 2:
                raise ValueError(
                    f"the first look would ask {first} of the {one.samples} questions of {one.key}, and it takes two to see a difference"
                )
        return self


@dataclass(frozen=True)
class BenchmarkSuite:
    """See `containers.evaluate.suite.Suite`."""

    declared: BenchmarkDeclaration
    files: SuiteFiles

    @classmethod
    def read(cls, files: SuiteFiles) -> BenchmarkSuite:
        return cls(parse(files, BenchmarkDeclaration), files)

    def check(self, context: Context) -> None:
        Harness(self.files, self.declared.benchmarks, context.scratch / "harness", context.settings).check()

    def measure(
        self, parameters: EvaluateParameters, options: EvaluateOptions, store: Store, context: Context
    ) -> dict[str, bytes]:
        progress = LookProgress.at(self.declared.looks, parameters.look)
        key = authorization(context.settings.evaluate, options.endpoint)
        length = asyncio.run(_served(options, self.declared.serving.max_model_len, key))
        ran = run_benchmarks(
            self.files,
            self.declared.benchmarks,
            options,
            store,
            context,
            category=self.declared.category,
            repeated=_REPEATED if parameters.look < 2 else 0,
            progress=progress,
        )
        return Samples.of(
            self.files,
            parameters,
            max_model_len=length,
            benchmarks=ran.scored,
            requests=ran.requests,
            commands=ran.commands,
            cut=ran.cut,
            noise=ran.noise,
        ).files()

    def judge(self, candidate: Path, baseline: Path, sizes: Sizes) -> Judgement:
        # A look may ask a part of them; without looks all were answered.
        questions = {one.key: one.samples for one in self.declared.benchmarks if self.declared.looks}
        return judge_samples(self.files, self.declared.gate, candidate, baseline, sizes, self.declared.looks, questions)


async def _served(options: EvaluateOptions, needed: int, key: Mapping[str, str]) -> int:
    async with Client(options, headers=key) as client:
        return await sanity.served(client, needed)
