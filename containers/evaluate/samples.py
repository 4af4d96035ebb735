"""Suites that score single questions: what is measured, kept and judged of them.

An artifact of kind `measurement` of such a suite holds one file, samples.json: Samples, canonical JSON.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field, ValidationError

from containers.contract import Frozen
from containers.digest import Digest, canonical_json
from containers.errors import BadInput
from containers.evaluate import gate, humaneval, sanity
from containers.evaluate.benchmarks import Gate, Serving, declaration, unfit
from containers.evaluate.client import Client
from containers.evaluate.judge import Sizes
from containers.evaluate.measure import together
from containers.evaluate.measurement import Requests
from containers.evaluate.sandbox import Sandbox
from containers.verdict import Verdict

if TYPE_CHECKING:
    from pathlib import Path

    from containers.contract import EvaluateOptions, EvaluateParameters
    from containers.events import Reporter
    from containers.suites import SuiteFiles

FILE = "samples.json"
_KEY = "humaneval"


class HumanEvalSuite(Frozen):
    schema_version: Literal[1]
    name: str
    description: str
    serving: Serving
    gate: Gate = Gate()
    humaneval: humaneval.Sampling


class Scored(Frozen):
    """One benchmark: scores from 0 to 1 by question."""

    key: str
    title: str
    scores: dict[str, float] = Field(min_length=1)


class Samples(Frozen):
    schema_version: Literal[1] = 1
    suite: str
    suite_digest: Digest
    subject: str
    engine: str
    benchmarks: tuple[Scored, ...]
    requests: Requests

    def files(self) -> dict[str, bytes]:
        return {FILE: canonical_json(self.model_dump(mode="json"))}

    @classmethod
    def read(cls, folder: Path) -> Samples:
        """Read a materialized artifact; raises BadInput when it holds no scores."""
        try:
            return cls.model_validate_json((folder / FILE).read_bytes())
        except (OSError, ValidationError) as error:
            raise BadInput(f"not a measurement of benchmarks: {error}", remedy="measure the model again") from error


class SamplesReport(Frozen):
    """Everything that the verdict rests on; `noise` is the share of questions by benchmark that the engine, asked again,
    scored otherwise.
    """

    schema_version: Literal[1] = 1
    verdict: Verdict
    gate: gate.GateReport
    sizes: Sizes = Sizes()
    requests: Requests
    noise: dict[str, float] = Field(default_factory=dict)


def is_humaneval(files: SuiteFiles) -> bool:
    """Whether a suite declares HumanEval."""
    declared = declaration(files)
    return isinstance(declared, dict) and _KEY in declared


def parse(files: SuiteFiles) -> HumanEvalSuite:
    """Read the declaration; raises BadInput that names what is wrong with it."""
    try:
        suite = HumanEvalSuite.model_validate(declaration(files))
    except ValidationError as error:
        raise unfit(files, error) from error
    if suite.name != files.name:
        raise BadInput(f"the suite in the folder {files.name} calls itself {suite.name}", remedy="give both one name")
    return suite


async def measure(
    files: SuiteFiles, parameters: EvaluateParameters, options: EvaluateOptions, report: Reporter
) -> Samples:
    """All problems of HumanEval; raises what `containers.evaluate.measure.measure` does, and BadInput without a sandbox."""
    suite = parse(files)
    sandbox = Sandbox.find()
    known = humaneval.problems()
    async with Client(options) as client:
        await sanity.served(client, suite.serving.max_model_len)
        with report.progress("HumanEval, written", total=len(known), unit="problems") as progress:

            async def write(problem: humaneval.Problem) -> list[str]:
                texts = await humaneval.completions(client, problem, suite.humaneval)
                progress.advance(1)
                return texts

            texts = await together([write(problem) for problem in known.values()])
        requests = Requests(**vars(client.counts))
    report.log("running what was written")
    outcomes = await humaneval.score(sandbox, known, dict(zip(known, texts, strict=True)))
    return Samples(
        suite=suite.name,
        suite_digest=files.digest,
        subject=parameters.subject,
        engine=parameters.engine,
        benchmarks=(
            Scored(
                key=_KEY,
                title=f"HumanEval pass@1 ({suite.humaneval.samples} at temperature {suite.humaneval.temperature:g})",
                scores={name: sum(one.passed for one in found) / len(found) for name, found in outcomes.items()},
            ),
        ),
        requests=requests,
    )


def judge(files: SuiteFiles, candidate: Samples, baseline: Samples, sizes: Sizes | None = None) -> SamplesReport:
    """The gate over every benchmark; raises BadInput when the two did not answer the same questions."""
    suite = parse(files)
    for name, one in (("candidate", candidate), ("baseline", baseline)):
        if one.suite_digest != files.digest:
            raise BadInput(
                f"the {name} was measured with another version of the suite {files.name}", remedy="measure it again"
            )
    before = {one.key: one for one in baseline.benchmarks}
    if before.keys() != {one.key for one in candidate.benchmarks}:
        raise BadInput("candidate and baseline were not measured on the same benchmarks", remedy="measure both again")
    report = gate.assess(
        [
            gate.Pair(one.title, before[one.key].scores, one.scores, category=files.name, metric=_KEY)
            for one in candidate.benchmarks
        ],
        suite.gate,
    )
    measures: dict[str, float] = {}
    for benchmark, row in zip(candidate.benchmarks, report.comparisons, strict=True):
        measures |= {f"{benchmark.key}_baseline": row.baseline, f"{benchmark.key}_candidate": row.candidate}
    verdict = Verdict(
        decision=report.decision,
        subject=candidate.subject,
        baseline=baseline.subject,
        suite=files.name,
        reasons=report.reasons,
        measures={name: float(f"{value:.6g}") for name, value in measures.items()},
        scores=report.scores,
        engine=candidate.engine,
        baseline_engine=baseline.engine,
    )
    return SamplesReport(verdict=verdict, gate=report, sizes=sizes or Sizes(), requests=candidate.requests)
