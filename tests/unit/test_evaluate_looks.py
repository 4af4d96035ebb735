"""Looks: the error is spent and not exceeded, what each look asks, what is put together, and what the verdict says."""

from __future__ import annotations

from statistics import NormalDist
from typing import TYPE_CHECKING

import numpy as np
import pytest
import yaml
from pydantic import ValidationError
from scipy.stats import multivariate_normal

from containers import suites
from containers.contract import Step, StepRequest
from containers.errors import BadInput
from containers.evaluate import kinds, look_parts, samples
from containers.evaluate.declaration import ScoreGate
from containers.evaluate.gate import Pair, assess
from containers.evaluate.kinds.benchmarks import BenchmarkDeclaration
from containers.evaluate.looks import AT_ONCE, Look, LookProgress, boundaries, check_looks
from containers.evaluate.measurement import RequestCounts, Scored
from containers.evaluate.suite import Sizes
from containers.suites import SHIPPED
from containers.verdict import Verdict

if TYPE_CHECKING:
    from pathlib import Path

LOOKS = (Look(questions=0.5), Look(), Look(answers=4), Look(answers=8))
REFERENCE = (SHIPPED.parents[2] / "docs" / "reference" / "evaluation.md").read_text()
SUBJECT = "sha256:" + "a" * 64
SEEDS = (11, 12, 13, 14, 15, 16, 17, 18)


@pytest.mark.parametrize("known", [(0.5, 1.0), (0.25, 0.5, 1.0), (1 / 16, 1 / 8, 1 / 2, 1.0)])
@pytest.mark.parametrize("error", [0.05, 0.05 / 8])
def test_the_boundaries_spend_the_error_of_each_look(known: tuple[float, ...], error: float) -> None:
    """By SciPy's multivariate normal distribution, whose correlations are sqrt(I_1 / I_2), instead of the recursion."""
    found = boundaries(known, error)
    covariance = [[(min(a, b) / max(a, b)) ** 0.5 for b in known] for a in known]
    for look in range(1, len(known) + 1):
        some = [row[:look] for row in covariance[:look]]
        beyond = 1 - multivariate_normal(cov=some, abseps=1e-7).cdf(found[:look])
        assert beyond == pytest.approx(error * (look / len(known)) ** 3, abs=1e-4 * error + 2e-6)


def test_one_look_is_what_it_was_without_looks() -> None:
    assert AT_ONCE.levels(0.95, 8) == (0.95, 1 - (1 - 0.95) / 8)
    assert boundaries((1.0,), 0.05)[0] == pytest.approx(NormalDist().inv_cdf(0.95), abs=1e-4)


def test_the_levels_of_looks_fall_to_little_more_than_those_of_one() -> None:
    levels = [LookProgress(LOOKS, number).levels(0.95, 8) for number in range(1, 5)]
    for side, at_once in zip(zip(*levels, strict=True), AT_ONCE.levels(0.95, 8), strict=True):
        assert sorted(side, reverse=True) == list(side)
        assert side[-1] > at_once
        assert NormalDist().inv_cdf(side[-1]) < NormalDist().inv_cdf(at_once) + 0.15


@pytest.mark.parametrize(
    ("looks", "said"),
    [
        ((Look(),), "a sequence needs two looks or more"),
        ((Look(questions=0.5), Look(questions=0.75)), "the last look asks all questions"),
        ((Look(questions=0.5), Look(questions=0.5)), "each look asks more questions"),
        ((Look(questions=0.5), Look(questions=1, answers=2)), "each look asks more questions"),
        ((Look(questions=0.5, answers=2), Look(questions=0.5, answers=4)), "each look asks more questions"),
        ((Look(answers=4), Look()), "each look asks more questions"),
        ((Look(), Look(answers=9)), "9 answers to each question, and there are seeds for 8"),
    ],
)
def test_looks_that_make_no_sense_are_told(looks: tuple[Look, ...], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        check_looks(looks, 8)


def test_each_question_is_asked_in_one_look_and_each_seed_too() -> None:
    parts = [LookProgress(LOOKS, number).asked("gsm8k", 1319) for number in (1, 2, 3)]
    assert [len(part) for part in parts] == [660, 659, 1319]
    assert sorted(parts[0] + parts[1]) == parts[2] == list(range(1319))
    assert parts[0] == sorted(parts[0])
    assert 250 < sum(number < 660 for number in parts[0]) < 410  # about half of each half: no prefix
    assert LookProgress(LOOKS, 1).asked("gsm8k", 1319) == parts[0]
    assert [LookProgress(LOOKS, number).seeds(SEEDS) for number in (1, 2, 3, 4)] == [
        SEEDS[:1],
        SEEDS[:1],
        SEEDS[1:4],
        SEEDS[4:8],
    ]
    assert LookProgress(LOOKS, 4).seeds(SEEDS[:3]) == LookProgress(LOOKS, 3).seeds(()) == ()
    assert AT_ONCE.seeds(SEEDS) == SEEDS
    assert AT_ONCE.asked("gsm8k", 3) == [0, 1, 2]


def pair(title: str, count: int, lost: int, won: int) -> Pair:
    names = [str(number) for number in range(count)]
    before = {name: float(number >= won) for number, name in enumerate(names)}
    after = {name: float(number < won or number >= won + lost) for number, name in enumerate(names)}
    return Pair(title, before, after, data_set=title)


def test_an_early_look_does_not_pass_what_seems_to_lose_too_much() -> None:
    """15 of 400 lost, 6 won: 2.25 points, which says little of 400 questions. At the last look the average decides."""
    pairs = [pair("large", 20_000, 100, 100), pair("other", 20_000, 100, 100), pair("small", 400, 15, 6)]
    gate = ScoreGate(margin_average=2.0)
    early = assess(pairs, gate, LookProgress(LOOKS, 2))
    assert early.decision == "inconclusive"
    assert any(reason.startswith("small:") and "not decided" in reason for reason in early.reasons)
    assert assess(pairs, gate, LookProgress(LOOKS, 4)).decision == "pass"
    assert assess(pairs, gate).decision == "pass"
    clear = [*pairs[:2], pair("small", 400, 5, 5)]
    assert assess(clear, gate, LookProgress(LOOKS, 2)).decision == "pass"
    assert assess([*pairs[:2], pair("small", 400, 60, 5)], gate, LookProgress(LOOKS, 1)).decision == "refuse"


def declared(tmp_path: Path, looks: str = "[{questions: 0.5}, {}, {answers: 3}]") -> suites.SuiteFiles:
    folder = tmp_path / "mine"
    folder.mkdir(parents=True)
    (folder / "suite.yaml").write_text(
        f"""
schema_version: 1
name: mine
description: of a test
serving: {{max_model_len: 4096}}
looks: {looks}
benchmarks:
  - {{key: sums, title: Sums, task: sums, metric: "exact_match,none", num_fewshot: 0, api: chat, max_length: 4096, samples: 400,
     data_set: sums, max_gen_toks: 9, sampling: {{temperature: 1.0}}, seeds: [1, 2, 3]}}
  - {{key: choices, title: Choices, task: choices, metric: "acc,none", num_fewshot: 0, api: completions, max_length: 4096,
     samples: 400, data_set: choices}}
"""
    )
    return suites.read(str(folder))


def part(files: suites.SuiteFiles, look: int, scores: dict[str, dict[str, float]], answers: int = 1) -> samples.Samples:
    return samples.Samples(
        suite=files.name,
        suite_digest=files.digest,
        subject=SUBJECT,
        server="toy",
        benchmarks=tuple(
            Scored(key=key, title=key, scores=one, data_set=key, answers=answers, clusters={"a": "same"})
            for key, one in scores.items()
        ),
        requests=RequestCounts(sent=1, retried=0, failed=0),
        cut={"sums": 1},
        look=look,
    )


def test_looks_are_put_together_by_their_answers(tmp_path: Path) -> None:
    files = declared(tmp_path)
    whole = look_parts.together(
        [
            part(files, 1, {"sums": {"a": 1.0}, "choices": {"x": 1.0}}),
            part(files, 2, {"sums": {"b": 0.0}, "choices": {"y": 0.0}}),
            part(files, 3, {"sums": {"a": 0.5, "b": 0.5}}, answers=2),
        ]
    )
    assert [one.scores for one in whole.benchmarks] == [
        pytest.approx({"a": 2 / 3, "b": 1 / 3}),
        {"x": 1.0, "y": 0.0},
    ]
    assert (whole.look, whole.requests.sent, whole.cut) == (3, 3, {"sums": 3})
    assert whole.benchmarks[0].answers == 3


def stored(folder: Path, *parts: samples.Samples) -> Path:
    for number, one in enumerate(parts, start=1):
        place = folder / look_parts.folder_of(number)
        place.mkdir(parents=True)
        for name, content in one.files().items():
            (place / name).write_bytes(content)
    return folder


def test_the_verdict_says_at_which_look_it_was_decided(tmp_path: Path) -> None:
    files = declared(tmp_path)
    suite = kinds.load(files)
    rng = np.random.default_rng(4)

    def answers(look: int, flips: float) -> dict[str, dict[str, float]]:
        found = {}
        for key in ("sums", "choices"):
            asked = LookProgress(BenchmarkDeclaration.model_validate(_yaml(files)).looks, look).asked(key, 400)
            found[key] = {str(number): float((number % 3 > 0) != (rng.random() < flips)) for number in asked}
        return found

    base = [part(files, look, answers(look, 0.0)) for look in (1, 2)]
    same = stored(tmp_path / "same", base[0])
    bad = stored(tmp_path / "bad", part(files, 1, answers(1, 0.4)))
    near = [part(files, look, answers(look, 0.1)) for look in (1, 2)]
    verdict = suite.judge(bad, same, Sizes()).verdict
    assert (verdict.decision, verdict.look, verdict.looks, verdict.next_look) == ("refuse", 1, 3, 0)
    assert verdict.reasons[0] == "Decided at look 1 of 3 (50% of the questions); what later ones ask was not needed."
    judged = suite.judge(stored(tmp_path / "near", *near), stored(tmp_path / "base", *base), Sizes())
    assert (judged.verdict.decision, judged.verdict.next_look) == ("inconclusive", 3)
    assert judged.verdict.reasons[0] == "Open at look 2 of 3 (all questions): the next one asks more."
    assert judged.verdict.reasons[0] in judged.page
    assert Verdict.model_validate_json(judged.verdict.model_dump_json()) == judged.verdict
    with pytest.raises(BadInput, match="the looks 2 were given, and the looks from the first one on are needed"):
        suite.judge(stored(tmp_path / "second", near[1]), same, Sizes())
    with pytest.raises(BadInput, match="not measured on the same benchmarks"):
        suite.judge(stored(tmp_path / "first", near[0]), stored(tmp_path / "both", *base), Sizes())


def _yaml(files: suites.SuiteFiles) -> object:
    return yaml.safe_load(files.files["suite.yaml"])


def test_a_look_is_part_of_a_measurements_name_and_none_is_not(tmp_path: Path) -> None:
    files = declared(tmp_path)

    def name(**more: int) -> str:
        asked = files.parameters(action="measure", subject=SUBJECT, server="toy", **more)
        return StepRequest(step=Step.EVALUATE, run="test", parameters=asked.dump()).fingerprint({})

    assert len({name(look=1), name(look=2), name()}) == 3
    assert name(look=0) == name()
    assert files.first_look == 1
    assert suites.read("smoke").first_look == 0
    with pytest.raises(BadInput, match="the request is for look 0, and the suite has 4"):
        LookProgress.at(LOOKS, 0)
    with pytest.raises(BadInput, match="the request is for look 5, and the suite has 4"):
        LookProgress.at(LOOKS, 5)


def test_a_wrong_declaration_is_told_when_the_suite_is_read(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="9 answers to each question, and there are seeds for 3"):
        kinds.load(declared(tmp_path, "[{}, {answers: 9}]"))
    with pytest.raises(
        BadInput, match="the first look would ask 1 of the 400 questions of sums, and it takes two to see a difference"
    ):
        kinds.load(declared(tmp_path / "few", "[{questions: 0.0025}, {}]"))
    with pytest.raises(ValidationError):
        Look(questions=0)


def test_a_suite_that_is_measured_at_once_altogether_has_nothing_to_look_at_again(tmp_path: Path) -> None:
    one = {"key": "a", "title": "A", "task": "a", "metric": "acc,none", "num_fewshot": 0, "api": "completions"}
    one |= {"max_length": 64, "samples": 9, "data_set": "a", "at_once": True}
    suite = {
        "schema_version": 1,
        "name": "mine",
        "description": "",
        "serving": {"max_model_len": 64},
        "benchmarks": [one],
    }
    assert BenchmarkDeclaration.model_validate(suite).looks == ()
    with pytest.raises(ValidationError, match="the looks after the first have nothing to ask"):
        BenchmarkDeclaration.model_validate(suite | {"looks": [{"questions": 0.5}, {}]})


def test_a_measurement_of_the_suite_before_it_had_looks_is_one_of_another_version(tmp_path: Path) -> None:
    files = declared(tmp_path)
    before = part(files, 0, {"sums": {"a": 1.0, "b": 0.0}}).model_copy(update={"suite_digest": SUBJECT})
    with pytest.raises(BadInput, match="the candidate was measured with another version of the suite mine"):
        kinds.load(files).judge(stored(tmp_path / "old", before), stored(tmp_path / "older", before), Sizes())


def test_a_benchmark_may_be_measured_whole_in_the_first_look() -> None:
    first, second = (LookProgress(LOOKS, number).of(at_once=True) for number in (1, 2))
    assert first is not None
    assert first.seeds(SEEDS) == SEEDS
    assert first.asked("aime25", 30) == list(range(30))
    assert second is None
    assert LookProgress(LOOKS, 2).of(at_once=False) == LookProgress(LOOKS, 2)
    assert AT_ONCE.of(at_once=True) is AT_ONCE


@pytest.mark.parametrize(
    ("title", "looks"),
    [
        ("one", ()),
        ("half of the questions, all", (Look(questions=0.5), Look())),
        ("all, 8 answers", (Look(), Look(answers=8))),
        ("half, all, 8 answers", (Look(questions=0.5), Look(), Look(answers=8))),
        ("half, all, 8, 32 answers", (Look(questions=0.5), Look(), Look(answers=8), Look(answers=32))),
        ("3 answers, 8 answers (`reasoning`)", (Look(answers=3), Look(answers=8))),
    ],
)
def test_the_values_of_the_documentation_are_those_of_the_code(title: str, looks: tuple[Look, ...]) -> None:
    levels = [LookProgress(looks, number).levels(0.95, 5.3) for number in range(1, len(looks) + 1)] or [
        AT_ONCE.levels(0.95, 5.3)
    ]
    cells = (", ".join(f"{NormalDist().inv_cdf(one):.2f}" for one in side) for side in zip(*levels, strict=True))
    assert f"| {title} | {' | '.join(cells)} |" in REFERENCE
