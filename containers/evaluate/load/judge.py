"""The verdict of a suite of speed: two measurements, compared load by load and held against the suite's objectives.

A load is measured several times. What is told is the median of its rounds; its bounds are the least and the largest round. That
range holds the median of all rounds there could be with probability 1 - 2^(1-n), 94 % for n = 5, whatever their distribution
(the sign test's interval; Conover, Practical Nonparametric Statistics, 3rd edition, 1999, section 3.1). The ratio candidate /
baseline lies between the candidate's least round over the baseline's largest and the other way round. An objective within the
bounds is not decided: noise that is larger than a margin never passes it.
"""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING, Literal

from containers.contract import Frozen
from containers.errors import BadInput
from containers.evaluate.load.measurement import SpeedMeasurement
from containers.evaluate.load.measures import MEASURES, shown, title
from containers.evaluate.suite import Sizes
from containers.verdict import Decision, SpeedComparison, SpeedRow, Verdict, decide_by_limit

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from containers.evaluate.load.declaration import LoadDeclaration, Slo
    from containers.evaluate.load.measurement import LoadMeasured
    from containers.suites import SuiteFiles


class SpeedReport(Frozen):
    """Everything behind the verdict."""

    schema_version: Literal[1] = 1
    verdict: Verdict
    candidate: SpeedMeasurement
    baseline: SpeedMeasurement
    sizes: Sizes = Sizes()


def judge(
    files: SuiteFiles,
    declared: LoadDeclaration,
    candidate: SpeedMeasurement,
    baseline: SpeedMeasurement,
    sizes: Sizes | None = None,
) -> SpeedReport:
    """Judge two measurements; raises BadInput if they are of another suite, or cannot be compared."""
    _check(files, candidate, baseline)
    decided: list[tuple[Slo, SpeedRow]] = []
    rows: list[SpeedRow] = []
    for before, after in zip(baseline.loads, candidate.loads, strict=True):
        for measure in MEASURES:
            row = _row(measure, before, after)
            asked = [slo for slo in declared.slos if slo.measure == measure and _is_of(slo, after)]
            held = [(slo, _held(slo, row, after)) for slo in asked]
            decided += held
            if held:
                update = {"slo": " and ".join(str(slo) for slo in asked), "decision": _worst([one for _, one in held])}
                row = row.model_copy(update=update)
            rows.append(row)
    sentences = _sentences(rows, candidate, baseline)
    decision = _worst([row for _, row in decided])
    return SpeedReport(
        verdict=Verdict(
            decision=decision,
            subject=candidate.subject,
            baseline=baseline.subject,
            suite=declared.name,
            reasons=(*sentences, *_reasons(decided, candidate, declared)),
            server=candidate.server,
            baseline_server=baseline.server,
            speed=SpeedComparison(
                hardware=candidate.hardware,
                generator=candidate.generator,
                prompt_tokens=candidate.prompt_tokens,
                output_tokens=candidate.output_tokens,
                rounds=declared.load.rounds,
                sentences=sentences,
                rows=tuple(rows),
            ),
        ),
        candidate=candidate,
        baseline=baseline,
        sizes=sizes or Sizes(),
    )


def _check(files: SuiteFiles, candidate: SpeedMeasurement, baseline: SpeedMeasurement) -> None:
    for name, one in (("candidate", candidate), ("baseline", baseline)):
        if one.suite_digest != files.digest:
            raise BadInput(
                f"the {name} was measured with another version of the suite {files.name}", remedy="measure it again"
            )
    if candidate.hardware != baseline.hardware:
        where = {
            name: one.hardware or "hardware that is not known" for name, one in (("c", candidate), ("b", baseline))
        }
        raise BadInput(
            f"times from different hardware are not compared: the baseline was measured on {where['b']}, the candidate on "
            f"{where['c']}",
            remedy="measure both on the same machine and the same number of GPUs (--tensor-parallel-size), or both at endpoints",
        )
    versions = (baseline.server_version, candidate.server_version)
    if versions[0] != versions[1]:
        raise BadInput(
            f"the baseline was served by version {versions[0] or 'unknown'} and the candidate by {versions[1] or 'unknown'}",
            remedy="measure both with the same vLLM",
        )
    if candidate.generator != baseline.generator:
        raise BadInput(
            f"the load was made by {baseline.generator} for the baseline and by {candidate.generator} for the candidate",
            remedy="measure both with the same one",
        )


def _row(measure: str, before: LoadMeasured, after: LoadMeasured) -> SpeedRow:
    theirs, mine = ([one[measure] for one in load.rounds] for load in (before, after))
    tiny = 1e-9
    return SpeedRow(
        load=after.name,
        measure=measure,
        baseline=max(statistics.median(theirs), tiny),
        candidate=statistics.median(mine),
        lower=round(min(mine) / max(*theirs, tiny), 4),
        upper=round(max(mine) / max(min(theirs), tiny), 4),
    )


def _is_of(slo: Slo, load: LoadMeasured) -> bool:
    return slo.load == load.rate if isinstance(slo.load, float) else load.rate is None


def _held(slo: Slo, row: SpeedRow, load: LoadMeasured) -> SpeedRow:
    """The row with what this objective says of it."""
    values = [one[slo.measure] for one in load.rounds]
    low, high = (row.lower, row.upper) if slo.relative else (min(values), max(values))
    decision = decide_by_limit(low, high, at_most=slo.upper, at_least=slo.lower)
    return row.model_copy(update={"decision": decision, "slo": str(slo)})


def _worst(rows: Sequence[SpeedRow]) -> Decision:
    """What all of them say together; nothing that was not asked passes."""
    found = {row.decision for row in rows}
    return "refuse" if "refuse" in found else "pass" if found == {"pass"} else "inconclusive"


def _sentences(rows: Sequence[SpeedRow], candidate: SpeedMeasurement, baseline: SpeedMeasurement) -> tuple[str, ...]:
    """Whether the candidate is slower or faster than its baseline here, said plainly."""
    by_name: Mapping[tuple[str, str], SpeedRow] = {(row.load, row.measure): row for row in rows}
    first, last = candidate.loads[0].name, candidate.loads[-1].name
    where = candidate.hardware or "the endpoints' hardware, which is not known here"
    told = [
        _told(by_name[last, "output_tokens_per_second"], f"output tokens a second at {_at(last)}", where, more=True),
        _told(by_name[first, "e2e_p50"], f"ms for the median answer at {_at(first)}", where, more=False),
    ]
    if candidate.emulated_fp8 and not baseline.emulated_fp8:
        told.append(
            "FP8 is emulated in bfloat16 on these processors, so this says nothing about a GPU with FP8 arithmetic."
        )
    if not candidate.hardware:
        told.append("That both endpoints run on the same hardware is up to whoever runs them: it is not known here.")
    return tuple(told)


def _at(load: str) -> str:
    rate = load.removesuffix("/s")
    return load if load == "saturation" else f"{rate} request{'' if rate == '1' else 's'} a second"


def _told(row: SpeedRow, of_what: str, where: str, *, more: bool) -> str:
    low, high = (row.lower, row.upper) if more else (1 / max(row.upper, 1e-9), 1 / max(row.lower, 1e-9))
    word = "slower" if high < 1 else "faster" if low > 1 else ""
    told = (
        f"The candidate is {word} than its baseline"
        if word
        else "The noise hides whether the candidate is slower or faster"
    )
    return (
        f"{told} on {where}: {shown(row.candidate)} {of_what}, baseline "
        f"{shown(row.baseline)} (ratio {row.ratio:.2f}, {row.lower:.2f} to {row.upper:.2f})."
    )


def _reasons(
    decided: Sequence[tuple[Slo, SpeedRow]], candidate: SpeedMeasurement, declared: LoadDeclaration
) -> list[str]:
    if not decided:
        return ["The suite has no objectives (slos): speed is reported and decides nothing."]
    words = {"pass": "is met", "refuse": "is missed", "inconclusive": "is not decided: the rounds differ too much"}
    by_name = {load.name: load for load in candidate.loads}
    found = []
    for slo, row in decided:
        values = [one[slo.measure] for one in by_name[row.load].rounds]
        measured = (
            f"{row.ratio:.3f} ({row.lower:.3f} to {row.upper:.3f})"
            if slo.relative
            else f"{shown(row.candidate)} ({shown(min(values))} to {shown(max(values))})"
        )
        assert row.decision is not None
        found.append(f"{title(slo.measure)} at {_at(row.load)}, {slo}, {words[row.decision]}: {measured}.")
    if any(row.decision == "inconclusive" for _, row in decided):
        found.append(
            f"To decide, measure by a copy of the suite on a quiet machine, with more rounds than {declared.load.rounds} or longer "
            "ones (load.rounds, load.seconds): what was measured by this suite is not measured again."
        )
    return found
