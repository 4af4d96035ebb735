"""Measurements of suites that score single questions, and how they are judged.

An artifact of kind `measurement` of such a suite holds one file, samples.json: Samples, canonical JSON.
"""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING, Literal

from pydantic import Field, ValidationError

from containers.contract import Frozen
from containers.digest import Digest, canonical_json
from containers.errors import BadInput
from containers.evaluate import gate
from containers.evaluate.looks import LookProgress
from containers.evaluate.measurement import RequestCounts, Scored
from containers.evaluate.suite import Sizes
from containers.verdict import Verdict

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from containers.evaluate.declaration import ScoreGate
    from containers.evaluate.looks import Look
    from containers.parameters import EvaluateParameters
    from containers.suites import SuiteFiles
    from containers.verdict import Decision

FILE = "samples.json"


class Samples(Frozen):
    """`commands` reproduce the numbers; `cut` counts, by benchmark, answers that reached the token limit; `noise` is the share
    of repeated questions that the server answered with another score, by benchmark. `look` is the one that was measured, from 1, in a
    suite with looks.
    """

    schema_version: Literal[1] = 1
    suite: str
    suite_digest: Digest
    subject: str
    server: str = Field(alias="engine")
    max_model_len: int = 0
    tensor_parallel_size: int = 1
    benchmarks: tuple[Scored, ...]
    requests: RequestCounts
    commands: tuple[str, ...] = ()
    cut: dict[str, int] = Field(default_factory=dict)
    noise: dict[str, float] = Field(default_factory=dict)
    look: int = Field(default=0, exclude_if=operator.not_)

    @classmethod
    def of(
        cls,
        files: SuiteFiles,
        parameters: EvaluateParameters,
        *,
        max_model_len: int,
        benchmarks: tuple[Scored, ...],
        requests: RequestCounts,
        commands: tuple[str, ...] = (),
        cut: dict[str, int],
        noise: dict[str, float],
    ) -> Samples:
        """The samples of the subject that the request names."""
        return cls(
            suite=files.name,
            suite_digest=files.digest,
            subject=parameters.subject,
            server=parameters.server,
            max_model_len=max_model_len,
            tensor_parallel_size=parameters.tensor_parallel_size,
            benchmarks=benchmarks,
            requests=requests,
            commands=commands,
            cut=cut,
            noise=noise,
            look=parameters.look,
        )

    @property
    def served_by(self) -> str:
        """The server and, if the model was split over several devices, their number."""
        split = self.tensor_parallel_size
        return self.server + (f", tensor parallel {split}" if split > 1 else "")

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
    """Everything behind the verdict; `noise` is the share of repeated questions with another score, by benchmark; `cut` counts
    answers of baseline and candidate that reached the token limit.
    """

    schema_version: Literal[1] = 1
    verdict: Verdict
    gate: gate.GateReport
    sizes: Sizes = Sizes()
    requests: RequestCounts
    noise: dict[str, float] = Field(default_factory=dict)
    cut: dict[str, tuple[int, int]] = Field(default_factory=dict)


def judge(
    files: SuiteFiles,
    rules: ScoreGate,
    candidate: Samples,
    baseline: Samples,
    sizes: Sizes | None = None,
    *,
    looks: Sequence[Look] = (),
    questions: Mapping[str, int] | None = None,
) -> SamplesReport:
    """The gate over every benchmark; raises BadInput when the two did not answer the same questions.

    `looks` are those of the suite, if it has any; then both hold all that was measured so far, and `questions` says how many each
    benchmark has in all, by key.
    """
    for name, one in (("candidate", candidate), ("baseline", baseline)):
        if one.suite_digest != files.digest:
            raise BadInput(
                f"the {name} was measured with another version of the suite {files.name}", remedy="measure it again"
            )
    before = {one.key: one for one in baseline.benchmarks}
    if before.keys() != {one.key for one in candidate.benchmarks} or candidate.look != baseline.look:
        raise BadInput("candidate and baseline were not measured on the same benchmarks", remedy="measure both again")
    progress = LookProgress.at(looks, candidate.look)
    report = gate.assess(
        [
            gate.Pair(
                one.title,
                before[one.key].scores,
                one.scores,
                category=one.category or files.name,
                data_set=one.data_set,
                metric=one.metric,
                margin=one.margin,
                clusters=one.clusters,
                margins=(before[one.key].margins, one.margins),
                averaged=one.averaged,
                declared=(questions or {}).get(one.key, 0),
            )
            for one in candidate.benchmarks
        ],
        rules,
        progress,
    )
    measures: dict[str, float] = {}
    for benchmark, row in zip(candidate.benchmarks, report.comparisons, strict=True):
        measures |= {f"{benchmark.key}_baseline": row.baseline, f"{benchmark.key}_candidate": row.candidate}
    verdict = Verdict(
        decision=report.decision,
        subject=candidate.subject,
        baseline=baseline.subject,
        suite=files.name,
        reasons=(*_told(report.decision, progress), *report.reasons),
        measures={name: float(f"{value:.6g}") for name, value in measures.items()},
        scores=report.scores,
        commands=candidate.commands,
        server=candidate.served_by,
        baseline_server=baseline.served_by,
        look=progress.number,
        looks=len(progress.looks),
    )
    return SamplesReport(
        verdict=verdict,
        gate=report,
        sizes=sizes or Sizes(),
        requests=candidate.requests,
        noise=candidate.noise,
        cut={
            key: (baseline.cut.get(key, 0), candidate.cut.get(key, 0))
            for key in sorted({*baseline.cut, *candidate.cut})
        },
    )


def _told(decision: Decision, progress: LookProgress) -> tuple[str, ...]:
    """At which look it was decided, or that it is open."""
    if not progress.looks:
        return ()
    if decision != "inconclusive":
        return (f"Decided at {progress}" + ("; what later ones ask was not needed." if progress.early else "."),)
    return (
        f"Open at {progress}" + (": the next one asks more." if progress.early else ": nothing more can be asked."),
    )
