"""Suites that score single questions: declared, measured against an endpoint, judged by the gate."""

from __future__ import annotations

import io
import itertools
from typing import TYPE_CHECKING, cast

import pytest

from containers import suites
from containers.errors import BadInput
from containers.evaluate import humaneval, samples
from containers.evaluate.kinds.humaneval import HumanEvalSuite
from containers.evaluate.sandbox import Outcome, Sandbox
from containers.events import Reporter
from containers.step import Context
from infra.settings import Settings
from tests.support.measurements import GATE, GREEDY, scored
from tests.support.openai_server import Behaviour, openai_server

if TYPE_CHECKING:
    from pathlib import Path

    from containers.store import Store


@pytest.mark.parametrize(("right", "decision"), [(120, "pass"), (118, "inconclusive"), (80, "refuse")])
def test_the_gate_decides(right: int, decision: str) -> None:
    """Against 120 of 164: the same answers, two lost, forty lost."""
    report = samples.judge(GREEDY, GATE, scored(right), scored(120))
    verdict = report.verdict
    assert verdict.decision == report.gate.decision == decision
    assert verdict.measures["humaneval_baseline"] == pytest.approx(73.1707)


def test_another_number_of_samples_is_bad_input() -> None:
    with pytest.raises(BadInput, match="answered 164 questions and the candidate 163"):
        samples.judge(GREEDY, GATE, scored(120, count=163), scored(120))
    with pytest.raises(BadInput, match="not measured on the same benchmarks"):
        samples.judge(GREEDY, GATE, scored(120, benchmarks=()), scored(120))
    with pytest.raises(BadInput, match="another version of the suite"):
        samples.judge(GREEDY, GATE, scored(120, suite_digest=suites.read("humaneval").digest), scored(120))


def test_scores_read_back(tmp_path: Path) -> None:
    for name, content in scored(7).files().items():
        (tmp_path / name).write_bytes(content)
    assert samples.Samples.read(tmp_path) == scored(7)
    (tmp_path / samples.FILE).write_text("{}")
    with pytest.raises(BadInput, match="not a measurement of benchmarks"):
        samples.Samples.read(tmp_path)


def test_a_typing_error_in_the_declaration_is_named() -> None:
    text = GREEDY.files["suite.yaml"].replace("temperature: 0.0", "temperatur: 0.0")
    with pytest.raises(BadInput, match=r"humaneval\.temperatur: there is no such field, did you mean temperature"):
        HumanEvalSuite.read(GREEDY.model_copy(update={"files": {"suite.yaml": text}}))


def measured(suite: suites.SuiteFiles, url: str, folder: Path) -> samples.Samples:
    """What the suite measures of the endpoint, read back from the files that it is kept in."""
    parameters = suite.parameters(subject="sha256:" + "a" * 64, server="toy")
    context = Context(Settings(), Reporter(io.StringIO()), folder / "scratch", folder / "result")
    options = suite.options(endpoint=url, served_model_name="toy")
    store = cast("Store", None)  # HumanEval needs none
    for name, content in HumanEvalSuite.read(suite).measure(parameters, options, store, context).items():
        (folder / name).write_bytes(content)
    return samples.Samples.read(folder)


@pytest.mark.parametrize("api", ["completions", "chat"])
def test_every_problem_is_asked_and_scored(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, api: str) -> None:
    """With a sandbox that lets every second program pass: what is run is the function, as written, and the test."""
    programs: list[dict[str, str]] = []

    class Box:
        def run(self, code: str, **more: str) -> Outcome:
            programs.append({"code": code, **more})
            return Outcome(passed=len(more["test"]) % 2 == 0, detail="")

    monkeypatch.setattr(Sandbox, "find", classmethod(lambda cls, **_: Box()))
    text = GREEDY.files["suite.yaml"].replace("api: chat", f"api: {api}")
    suite = GREEDY.model_copy(update={"files": {"suite.yaml": text}})
    first = humaneval.problems()["HumanEval/0"]
    written = {"completions": "    return 1\n", "chat": f"Sure!\n```python\n{first.prompt}    return 1\n```\n"}[api]
    behaviour = Behaviour(text=written)
    with openai_server(behaviour) as url:
        coded = measured(suite, url, tmp_path)
    known = humaneval.problems()
    path = {"completions": "/v1/completions", "chat": "/v1/chat/completions"}[api]
    (scored,) = coded.benchmarks
    assert behaviour.paths.count(path) == len(programs) == 164 + 16, "the first ones are asked twice"
    assert coded.requests.sent == 165 + 16  # and one for the list of models
    assert coded.max_model_len == behaviour.context
    assert coded.noise == {"humaneval": 0.0}
    assert coded.cut == {}
    del programs[164:]
    assert scored.scores.keys() == known.keys()
    (run,) = [one for one in programs if one["entry_point"] == "has_close_elements"]
    assert run["code"].startswith("from typing import List\n")
    assert "\n    return 1\n" in run["answer" if api == "chat" else "code"]
    assert (run["preamble"], run["test"]) == (first.preamble, first.test)
    assert sum(scored.scores.values()) == sum(len(one["test"]) % 2 == 0 for one in programs)


def test_answers_that_are_cut_and_other_answers_to_the_same_question_are_counted(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Every answer runs into its limit, and a sandbox that lets every second of the first problem's programs pass."""
    turns = itertools.count()

    class Box:
        def run(self, code: str, *, entry_point: str, **_: str) -> Outcome:
            return Outcome(passed=entry_point == "has_close_elements" and next(turns) % 2 == 0, detail="")

    monkeypatch.setattr(Sandbox, "find", classmethod(lambda cls, **_: Box()))
    suite = GREEDY.model_copy(
        update={"files": {"suite.yaml": GREEDY.files["suite.yaml"].replace("max_tokens: 512", "max_tokens: 2")}}
    )
    with openai_server(Behaviour(text="far too long for two tokens")) as url:
        coded = measured(suite, url, tmp_path)
    assert coded.cut == {"humaneval": 164}
    assert coded.noise == {"humaneval": 1 / 16}


def test_what_was_run_and_how_is_in_the_verdict() -> None:
    """The commands for the card, the split of each side, and the server's noise."""
    report = samples.judge(
        GREEDY,
        GATE,
        scored(120, commands=("lm_eval run --tasks x",), noise={"HumanEval": 0.1}, cut={"humaneval": 4}),
        scored(120, tensor_parallel_size=8, cut={"humaneval": 3, "other": 1}),
    )
    assert report.verdict.commands == ("lm_eval run --tasks x",)
    assert (report.verdict.server, report.verdict.baseline_server) == ("toy", "toy, tensor parallel 8")
    assert report.noise == {"HumanEval": 0.1}
    assert report.cut == {"humaneval": (3, 4), "other": (1, 0)}
