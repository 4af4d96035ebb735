"""The suites of HumanEval: functions written by the model, run in a sandbox, scored by problem."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

from containers.endpoint_key import authorization
from containers.evaluate import humaneval, humaneval_plus, sanity
from containers.evaluate.client import Client
from containers.evaluate.declaration import ScoredDeclaration, parse
from containers.evaluate.kinds.scored import judge_samples
from containers.evaluate.measure import gather
from containers.evaluate.measurement import RequestCounts, Scored
from containers.evaluate.samples import Samples
from containers.evaluate.sandbox import Sandbox

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from containers.evaluate.humaneval import Problem, Solution
    from containers.evaluate.sandbox import Outcome
    from containers.evaluate.suite import Judgement, Sizes
    from containers.parameters import EvaluateOptions, EvaluateParameters
    from containers.settings import EvaluateSettings
    from containers.step import Context
    from containers.store import Store
    from containers.suites import SuiteFiles

_REPEATED = 16  # problems, a tenth of them


class HumanEvalDeclaration(ScoredDeclaration):
    """With `plus` the same answers are also run on HumanEval+'s inputs."""

    humaneval: humaneval.CodeSampling
    plus: bool = False


@dataclass(frozen=True)
class HumanEvalSuite:
    """See `containers.evaluate.suite.Suite`."""

    declared: HumanEvalDeclaration
    files: SuiteFiles

    @classmethod
    def read(cls, files: SuiteFiles) -> HumanEvalSuite:
        return cls(parse(files, HumanEvalDeclaration), files)

    def check(self, context: Context) -> None:
        _ready(self.declared, context.settings.evaluate)

    def measure(
        self, parameters: EvaluateParameters, options: EvaluateOptions, store: Store, context: Context
    ) -> dict[str, bytes]:
        return asyncio.run(self._measured(parameters, options, context)).files()

    async def _measured(self, parameters: EvaluateParameters, options: EvaluateOptions, context: Context) -> Samples:
        """Measure all problems of HumanEval. With greedy sampling the first ones are repeated, to measure the server's noise.

        The sandbox and the problems of HumanEval+ are checked before the first request.
        """
        suite, report = self.declared, context.report
        sandbox, known, harder = _ready(suite, context.settings.evaluate)
        cut: list[str] = []
        some = {} if suite.humaneval.temperature else dict(list(known.items())[:_REPEATED])
        key = authorization(context.settings.evaluate, options.endpoint)
        async with Client(options, headers=key) as client:
            length = await sanity.served(client, suite.serving.max_model_len)
            with report.progress("HumanEval, written", total=len(known), unit="problems") as progress:

                async def write(problem: Problem) -> list[Solution]:
                    texts = await humaneval.solutions(client, problem, suite.humaneval, cut)
                    progress.advance(1)
                    return texts

                texts = await gather([write(problem) for problem in known.values()])
            repeated = await gather(
                [humaneval.solutions(client, problem, suite.humaneval) for problem in some.values()]
            )
            requests = RequestCounts(**vars(client.counts))
        written = dict(zip(known, texts, strict=True))
        report.log(f"running the generated code {sandbox}")
        outcomes = await humaneval.score(sandbox, known, written)
        later = await humaneval.score(sandbox, known, dict(zip(some, repeated, strict=True)))
        scored = [_scored(suite, "humaneval", "HumanEval", outcomes)]
        if harder:
            report.log("running the generated code on the inputs of HumanEval+")
            scored.append(
                _scored(suite, "humaneval-plus", "HumanEval+", await humaneval.score(sandbox, harder, written))
            )
        changed = sum([one.passed for one in later[name]] != [one.passed for one in outcomes[name]] for name in later)
        return Samples.of(
            self.files,
            parameters,
            max_model_len=length,
            benchmarks=tuple(scored),
            requests=requests,
            cut={"humaneval": len(cut)} if cut else {},
            noise={"humaneval": changed / len(later)} if later else {},
        )

    def judge(self, candidate: Path, baseline: Path, sizes: Sizes) -> Judgement:
        return judge_samples(self.files, self.declared.gate, candidate, baseline, sizes)


def _ready(
    declared: HumanEvalDeclaration, settings: EvaluateSettings
) -> tuple[Sandbox, Mapping[str, Problem], Mapping[str, Problem]]:
    """The sandbox, the problems of HumanEval, and those of HumanEval+ where the suite asks for them.

    Raises BadInput for the first one that is missing.
    """
    sandbox = Sandbox.find(kind=settings.sandbox)
    known = humaneval.problems()
    return sandbox, known, humaneval_plus.problems(settings.humaneval_plus, known) if declared.plus else {}


def _scored(declared: HumanEvalDeclaration, key: str, title: str, outcomes: Mapping[str, list[Outcome]]) -> Scored:
    """pass@1: the share of a problem's answers that pass (what the unbiased estimate comes to for k = 1)."""
    drawn = declared.humaneval
    return Scored(
        key=key,
        title=f"{title} pass@1 ({drawn.samples} at temperature {drawn.temperature:g})",
        scores={name: sum(one.passed for one in found) / len(found) for name, found in outcomes.items()},
        category=declared.category,
        data_set="openai/openai_humaneval" if key == "humaneval" else "evalplus/humanevalplus",
        metric="pass@1",
    )
