"""The verdict: each way of being wrong is refused for its own reason, and what cannot be known never passes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from containers import suites
from containers.errors import BadInput
from containers.evaluate.fidelity_gate import Limit
from containers.evaluate.judge import Report, judge
from containers.evaluate.measurement import (
    Arrays,
    Check,
    Measured,
    RequestCounts,
    Scored,
)
from tests.support.measurements import SUITE, TOKENS, measured


@pytest.fixture(scope="module")
def baseline() -> Measured:
    return measured()


def decided(candidate: Measured, baseline: Measured) -> tuple[str, str]:
    verdict = judge(SUITE, candidate, baseline).verdict
    return verdict.decision, " ".join(verdict.reasons)


def test_a_model_passes_against_itself(baseline: Measured) -> None:
    report = judge(SUITE, baseline, baseline)
    assert report.verdict.decision == "pass"
    assert report.verdict.measures["kl_mean"] == 0
    assert report.verdict.measures["perplexity_ratio"] == 1
    assert report.positions == (TOKENS - 1) * len(SUITE.passages)


def test_small_damage_passes_and_large_damage_is_refused(baseline: Measured) -> None:
    assert decided(measured(damage=0.05), baseline)[0] == "pass"
    decision, reasons = decided(measured(damage=1.5), baseline)
    assert decision == "refuse"
    assert "KL divergence" in reasons
    assert "beyond the limit" in reasons


def test_an_interval_that_holds_the_limit_is_inconclusive(baseline: Measured) -> None:
    """The limit is set to what was measured, so that the interval holds it."""
    candidate = measured(damage=0.3)
    value = judge(SUITE, candidate, baseline).measures["kl_mean"].value
    limits = {"kl_mean": Limit(at_most=value * 1.0001)}
    gate = SUITE.declared.gate.model_copy(update={"limits": limits})
    suite = replace(SUITE, declared=SUITE.declared.model_copy(update={"gate": gate}))
    verdict = judge(suite, candidate, baseline).verdict
    assert verdict.decision == "inconclusive"
    assert "times as much text would decide" in verdict.reasons[0]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"chat_template_tokens": (1, 2)}, "The chat template renders"),
        ({"non_finite": 3}, "3 of 3584 tokens have no finite log-probability"),
        ({"checks": (Check(name="health", passed=False, detail="no"),)}, "'health' failed: no"),
        (
            {
                "checks": (
                    Check(name="health", passed=True, detail=""),
                    Check(name="no loops", passed=False, detail="4"),
                )
            },
            "'no loops' failed: 4 (baseline: none)",
        ),
    ],
)
def test_each_fault_is_refused_for_its_reason(baseline: Measured, changes: dict[str, object], reason: str) -> None:
    decision, reasons = decided(measured(**changes), baseline)
    assert decision == "refuse"
    assert reason in reasons


def test_a_fault_of_the_model_that_the_baseline_shares_does_not_refuse() -> None:
    loops = (Check(name="health", passed=True, detail=""), Check(name="no loops", passed=False, detail="4 of 4"))
    assert decided(measured(checks=loops), measured(checks=loops))[0] == "pass"


def test_another_tokenizer_is_refused(baseline: Measured) -> None:
    candidate = measured()
    tokens = candidate.arrays.tokens.copy()
    tokens[300] += 1
    decision, reasons = decided(Measured(candidate.about, replace(candidate.arrays, tokens=tokens)), baseline)
    assert decision == "refuse"
    assert "the tokenizer was changed" in reasons


@pytest.mark.parametrize(
    "changes",
    [
        {"requests": RequestCounts(sent=10, retried=9, failed=1)},
        {"checks": (Check(name="health", passed=True, detail=""),)},
    ],
)
def test_an_incomplete_measurement_never_passes(baseline: Measured, changes: dict[str, object]) -> None:
    assert decided(measured(**changes), baseline)[0] == "inconclusive"


def test_fewer_passages_never_pass(baseline: Measured) -> None:
    """Another number of samples on one side than on the other."""
    passages = baseline.about.passages[:-1]
    kept = slice(0, passages[-1].start + TOKENS)
    arrays = Arrays(*(getattr(baseline.arrays, n)[kept] for n in ("tokens", "logprobs", "top_ids", "top_logprobs")))
    decision, reasons = decided(Measured(baseline.about.model_copy(update={"passages": passages}), arrays), baseline)
    assert decision == "inconclusive"
    assert "not measured on the same passages" in reasons


def test_a_broken_baseline_never_lets_pass(baseline: Measured) -> None:
    assert decided(baseline, measured(non_finite=5))[0] == "inconclusive"


def test_numbers_that_are_all_missing_are_refused_without_a_crash(baseline: Measured) -> None:
    arrays = replace(baseline.arrays, logprobs=np.full_like(baseline.arrays.logprobs, np.nan))
    broken = Measured(baseline.about.model_copy(update={"non_finite": 3570}), arrays)
    assert decided(broken, baseline)[0] == "refuse"


def test_another_version_of_the_suite_is_bad_input(baseline: Measured) -> None:
    other = measured(suite_digest=suites.SuiteFiles(name="smoke", files={}).digest)
    with pytest.raises(BadInput, match="measured with another version of the suite"):
        judge(SUITE, other, baseline)


def test_the_report_is_json_and_reads_back(baseline: Measured) -> None:
    report = judge(SUITE, measured(damage=0.2), baseline)
    assert Report.model_validate_json(report.model_dump_json()) == report


def test_a_measurement_reads_back_from_its_files(baseline: Measured, tmp_path: object) -> None:
    from pathlib import Path

    folder = Path(str(tmp_path))
    for name, content in baseline.files().items():
        (folder / name).write_bytes(content)
    again = Measured.read(folder)
    assert again.about == baseline.about
    assert again.files() == baseline.files()
    (folder / "logprobs.npy").write_bytes(b"not an array")
    with pytest.raises(BadInput, match="not a measurement"):
        Measured.read(folder)


def test_small_tasks_are_shown_and_decide_nothing(baseline: Measured) -> None:
    """All of twenty questions lost: a row of the table with its bounds, and still a pass, which fidelity gave."""

    def with_tasks(one: Measured, right: float) -> Measured:
        task = Scored(key="facts", title="Facts", scores={f"facts/{i}": right for i in range(20)}, metric="acc")
        return Measured(one.about.model_copy(update={"tasks": (task,)}), one.arrays)

    verdict = judge(SUITE, with_tasks(baseline, 0.0), with_tasks(baseline, 1.0)).verdict
    assert verdict.decision == "pass"
    row = verdict.scores[-1]
    assert (row.title, row.baseline, row.candidate, row.decision, row.margin) == ("Facts", 100, 0, None, None)
    assert row.upper is not None
    assert row.upper < -50
