"""The verdict: compares a candidate's measurement with its baseline's, with confidence bounds, and explains it in sentences.

What refuses, in this order: a protocol check that the candidate fails; numbers that are not finite; another tokenizer
or chat template; a conversation check that the baseline passes and the candidate does not; a fidelity measure that is
beyond its limit with confidence. A measure whose interval holds its limit, and anything incomplete, is inconclusive:
an incomplete sample set never passes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np

from containers.contract import Frozen
from containers.errors import BadInput
from containers.evaluate import compare
from containers.evaluate.compare import Estimate
from containers.evaluate.declaration import ScoreGate
from containers.evaluate.fidelity_gate import Findings, decide
from containers.evaluate.gate import Pair, assess
from containers.evaluate.suite import Sizes
from containers.verdict import Score, Verdict

if TYPE_CHECKING:
    from containers.evaluate.fidelity_text import FidelityText
    from containers.evaluate.measurement import Arrays, Measured

# What the model says depends on the model: these count only against what the baseline did.
_OF_THE_MODEL = frozenset({"end of turn", "no loops", "stop"})


class Report(Frozen):
    """Everything behind the verdict, for programs and the HTML page."""

    schema_version: Literal[1] = 1
    verdict: Verdict
    measures: dict[str, Estimate]
    limits: dict[str, dict[str, float]]
    confidence_each: float
    perplexity: dict[str, float]
    positions: int
    per_passage: tuple[dict[str, int | float | str], ...]
    dlogp_histogram: dict[str, list[float]]
    candidate: dict[str, object]
    baseline: dict[str, object]
    sizes: Sizes = Sizes()


def judge(suite: FidelityText, candidate: Measured, baseline: Measured, sizes: Sizes | None = None) -> Report:
    """Judge two measurements; raises BadInput if they were not measured with this suite."""
    for name, one in (("candidate", candidate), ("baseline", baseline)):
        if one.about.suite_digest != suite.files.digest:
            raise BadInput(
                f"the {name} was measured with another version of the suite {suite.declared.name}",
                remedy="measure it again",
            )
    findings = Findings()
    _sanity(findings, candidate, baseline)
    comparable = _same_text(findings, suite, candidate, baseline)
    gate = suite.declared.gate
    estimates: dict[str, Estimate] = {}
    perplexities: dict[str, float] = {}
    tokens = None
    if comparable:
        tokens = compare.per_token(
            baseline.arrays, candidate.arrays, candidate.about.passages, skip=suite.declared.fidelity.skip
        )
        if len(tokens.kl):
            estimates = compare.measures(tokens, block=gate.block, confidence=gate.confidence_each)
            perplexities = {
                "baseline": compare.perplexity(tokens.baseline_logprob),
                "candidate": compare.perplexity(tokens.baseline_logprob + tokens.dlogp),
            }
        findings.add(decide(gate, estimates))
    numbers = {name: one.value for name, one in estimates.items()}
    numbers |= {f"perplexity_{name}": value for name, value in perplexities.items()}
    numbers |= _speed(candidate, baseline)
    return Report(
        verdict=Verdict(
            decision=findings.decision,
            subject=candidate.about.subject,
            baseline=baseline.about.subject,
            suite=suite.declared.name,
            reasons=findings.reasons,
            measures={name: float(f"{value:.6g}") for name, value in numbers.items()},
            scores=(
                *_scores(suite, perplexities, estimates, 0 if tokens is None else len(tokens.kl)),
                *_tasks(suite, candidate, baseline),
            ),
            server=candidate.about.server,
            baseline_server=baseline.about.server,
        ),
        measures=estimates,
        limits={name: limit.model_dump(exclude_none=True) for name, limit in gate.limits.items()},
        confidence_each=gate.confidence_each,
        perplexity=perplexities,
        positions=0 if tokens is None else len(tokens.kl),
        per_passage=() if tokens is None else tuple(_per_passage(candidate, tokens)),
        dlogp_histogram={} if tokens is None else _histogram(tokens),
        candidate=candidate.about.model_dump(mode="json"),
        baseline=baseline.about.model_dump(mode="json"),
        sizes=sizes or Sizes(),
    )


def _scores(
    suite: FidelityText, perplexities: dict[str, float], estimates: dict[str, Estimate], positions: int
) -> tuple[Score, ...]:
    """The suite's rows of the accuracy table: the perplexity of both over the shipped text."""
    ratio = estimates.get("perplexity_ratio")
    if not perplexities or ratio is None:
        return ()
    before = perplexities["baseline"]
    return (
        Score(
            title="Perplexity, shipped text",
            category=suite.declared.name,
            data_set=f"carwright/{suite.declared.name}",
            metric="perplexity",
            samples=positions,
            baseline=before,
            candidate=perplexities["candidate"],
            lower=None if ratio.lower is None else before * (ratio.lower - 1),
            upper=None if ratio.upper is None else before * (ratio.upper - 1),
            lower_is_better=True,
        ),
    )


def _tasks(suite: FidelityText, candidate: Measured, baseline: Measured) -> tuple[Score, ...]:
    """The suite's small benchmarks, for information: they have too few questions to affect the decision."""
    before = {one.key: one for one in baseline.about.tasks}
    pairs = [
        Pair(
            title=one.title,
            baseline=before[one.key].scores,
            candidate=one.scores,
            category=one.category or suite.declared.name,
            data_set=one.data_set,
            metric=one.metric,
        )
        for one in candidate.about.tasks
        if one.key in before
    ]
    rows = assess(pairs, ScoreGate()).scores[: len(pairs)]
    return tuple(row.model_copy(update={"decision": None, "margin": None}) for row in rows)


def _sanity(findings: Findings, candidate: Measured, baseline: Measured) -> None:
    of_baseline = {check.name: check for check in baseline.about.checks}
    of_the_model = set(_OF_THE_MODEL)
    if not candidate.about.chat_template_tokens and not baseline.about.chat_template_tokens:
        of_the_model.add("chat")  # two base models: neither has a chat template
    passed = 0
    for check in candidate.about.checks:
        before = of_baseline.get(check.name)
        if check.passed:
            passed += 1
        elif check.name not in of_the_model or (before is not None and before.passed):
            findings.refuse.append(
                f"The check {check.name!r} failed: {check.detail}"
                + (f" (baseline: {before.detail})." if before is not None else ".")
            )
        else:
            findings.good.append(f"The check {check.name!r} fails for the baseline too: {check.detail}.")
    if missing := sorted(set(of_baseline) - {check.name for check in candidate.about.checks}):
        findings.open.append(f"The candidate was not checked for: {', '.join(missing)}.")
    if candidate.about.requests.failed or baseline.about.requests.failed:
        findings.open.append("Some requests were never answered, so the sample set is incomplete.")
    findings.good.insert(0, f"{passed} of {len(candidate.about.checks)} sanity checks passed.")


def _same_text(findings: Findings, suite: FidelityText, candidate: Measured, baseline: Measured) -> bool:
    """Whether the two can be compared token by token; adds a reason if not."""
    if candidate.about.non_finite:
        findings.refuse.append(
            f"{candidate.about.non_finite} of {len(candidate.arrays.tokens)} tokens have no finite log-probability: "
            "the weights or the arithmetic are broken."
        )
    if baseline.about.non_finite:
        findings.open.append(
            f"The baseline itself has {baseline.about.non_finite} log-probabilities that are not finite."
        )
    if candidate.about.chat_template_tokens != baseline.about.chat_template_tokens:
        findings.refuse.append(
            "The chat template renders the same conversation into other tokens than the baseline's "
            f"({len(candidate.about.chat_template_tokens)} tokens, baseline "
            f"{len(baseline.about.chat_template_tokens)}): the template or the tokenizer was changed."
        )
    mine, theirs = candidate.about.passages, baseline.about.passages
    if [p.path for p in mine] != [p.path for p in theirs] or set(suite.passages) != {p.path for p in mine}:
        findings.open.append("Candidate and baseline were not measured on the same passages.")
        return False
    if mine != theirs or (candidate.arrays.tokens != baseline.arrays.tokens).any():
        at = next((a.path for a, b in zip(mine, theirs, strict=True) if a.tokens != b.tokens), "the text")
        findings.refuse.append(
            f"The same text becomes other tokens than with the baseline, first in {at} "
            f"({len(candidate.arrays.tokens)} tokens in all, baseline {len(baseline.arrays.tokens)}): "
            "the tokenizer was changed."
        )
        return False
    return not (_broken(candidate.arrays) or _broken(baseline.arrays))


def _broken(arrays: Arrays) -> bool:
    """Whether so few numbers are finite that a mean is useless."""
    return bool(np.isnan(arrays.logprobs).mean() > 0.5)


def _speed(candidate: Measured, baseline: Measured) -> dict[str, float]:
    mine, theirs = candidate.about.speed, baseline.about.speed
    return {
        "first_token_seconds": mine.first_token,
        "baseline_first_token_seconds": theirs.first_token,
        "tokens_per_second": mine.concurrent,
        "baseline_tokens_per_second": theirs.concurrent,
    }


def _per_passage(candidate: Measured, tokens: compare.PerToken) -> list[dict[str, int | float | str]]:
    rows: list[dict[str, int | float | str]] = []
    for number, passage in enumerate(candidate.about.passages):
        chosen = tokens.passage == number
        if chosen.any():
            rows.append(
                {
                    "path": passage.path,
                    "tokens": passage.tokens,
                    "kl_mean": float(tokens.kl[chosen].mean()),
                    "top1_agreement": float(tokens.agree[chosen].mean()),
                    "perplexity_baseline": compare.perplexity(tokens.baseline_logprob[chosen]),
                    "perplexity_candidate": compare.perplexity((tokens.baseline_logprob + tokens.dlogp)[chosen]),
                }
            )
    return rows


def _histogram(tokens: compare.PerToken) -> dict[str, list[float]]:
    """Counts of log-probability differences, for the report's plot; what lies outside is in the outermost bins."""
    edges = np.linspace(-2, 2, 41)
    counts, _ = np.histogram(np.clip(tokens.dlogp, -2, 2), bins=edges)
    return {"edges": edges.round(3).tolist(), "counts": counts.astype(float).tolist()}
