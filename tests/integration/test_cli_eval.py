"""`carwright eval` and `compare` on endpoints that somebody else serves, as a person uses them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
import yaml

from containers import suites
from flows.serving.endpoint_probe import REPLICAS
from tests.support.command_line import CommandLine
from tests.support.openai_server import Behaviour, openai_server

if TYPE_CHECKING:
    from pathlib import Path


pytestmark = pytest.mark.integration


@pytest.fixture
def carwright(tmp_path: Path) -> CommandLine:
    return CommandLine(tmp_path)


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    """The shipped suite with little text and no tasks, so that the toy answers fast."""
    folder = tmp_path / "small"
    (folder / "text").mkdir(parents=True)
    declared = yaml.safe_load(suites.read("smoke").files["suite.yaml"])
    declared.pop("tasks", None)
    (folder / "suite.yaml").write_text(yaml.safe_dump({**declared, "name": "small"}))
    for number, name in enumerate(("01-bridge", "02-tides", "03-third")):
        (folder / "text" / f"{name}.txt").write_text("Rain fell on the crooked bridge.\n" * (number + 3))
    return folder


def test_two_endpoints_are_compared_and_judged(carwright: CommandLine, suite: Path, tmp_path: Path) -> None:
    """The same and a shifted toy: `compare` shows both and ends with 0, `eval` refuses the shifted one with 3."""
    with openai_server(Behaviour()) as a, openai_server(Behaviour(shift=0.8)) as b:
        shown = carwright("compare", a, b, "--suite", suite, "--json", "--output", tmp_path / "page.html")
        assert shown.returncode == 0, shown.stderr
        told = json.loads(shown.stdout)
        assert told["decision"] == "refuse"
        (score,) = (one for one in told["scores"] if one["metric"] == "perplexity")
        assert score["lower"] < score["candidate"] - score["baseline"] < score["upper"]
        assert told["engine"].startswith("the endpoint http://")
        assert "refuse" in (tmp_path / "page.html").read_text()
        table = carwright("compare", a, a, "--suite", suite)
        assert table.returncode == 0, table.stderr
        assert "100.0 %" in table.stdout
        assert "would say pass:" in table.stdout
        refused = carwright("eval", b, "--baseline", a, "--suite", suite)
        assert refused.returncode == 3, refused.stderr


@pytest.mark.campaign  # the harness is loaded for each look
def test_what_a_look_leaves_open_is_measured_further(carwright: CommandLine, tmp_path: Path) -> None:
    """60 questions that the same model answers alike: 20 of them cannot show that less than 10 points was lost, all of them can.

    The endpoint is asked for the second look only what the first one left, and a second candidate that fails is stopped early.
    """
    folder = tmp_path / "mine"
    (folder / "tasks").mkdir(parents=True)
    rows = [{"text": f"{number}. Which is a color", "choices": ["red", "seven"], "answer": 0} for number in range(60)]
    (folder / "tasks" / "colors.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = {
        "task": "colors",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": "tasks/colors.jsonl"}},
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "{{text}}",
        "doc_to_choice": "choices",
        "doc_to_target": "answer",
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
    }
    (folder / "tasks" / "colors.yaml").write_text(yaml.safe_dump(task))
    benchmark = {"key": "colors", "title": "Colors", "task": "colors", "metric": "acc,none", "num_fewshot": 0}
    benchmark |= {"api": "completions", "max_length": 256, "samples": 60, "data_set": "tasks/colors.jsonl"}
    declared = {"schema_version": 1, "name": "mine", "description": "of a test", "serving": {"max_model_len": 1024}}
    declared |= {"gate": {"margin": 10.0}, "benchmarks": [benchmark]}
    declared |= {"looks": [{"questions": 0.33}, {"questions": 1}]}
    (folder / "suite.yaml").write_text(yaml.safe_dump(declared))
    with openai_server(behaviour := Behaviour()) as url:
        same = carwright("eval", url, "--baseline", url, "--suite", folder, "--json", "-o", tmp_path / "page.html")
    assert same.returncode == 0, same.stderr
    told = json.loads(same.stdout)
    assert (told["decision"], told["look"], told["looks"]) == ("pass", 2, 2)
    assert told["reasons"][0] == "Decided at look 2 of 2 (all questions)."
    assert told["scores"][0]["samples"] == 60
    assert told["reasons"][0] in (tmp_path / "page.html").read_text()
    completions = [path for path in behaviour.paths if path.endswith("/completions")]
    # Two choices to each question, and to those of the first look again, to know the noise; before each of the two measurements
    # of a look the probes whether the endpoint is one, and before those of the first look that of what it can do.
    probes = 2 * 2 * REPLICAS + 2
    assert len(completions) == 2 * 60 + 2 * 20 + probes


def test_a_stored_measurement_is_compared_without_its_endpoint(carwright: CommandLine, suite: Path) -> None:
    with openai_server(Behaviour()) as url:
        measured = carwright("eval", url, "--suite", suite, "--json")
    assert measured.returncode == 0, measured.stderr
    stored = "measurement:" + json.loads(measured.stdout)["fingerprint"][:12]
    again = carwright("eval", stored, "--baseline", stored, "--suite", suite, "--json")
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout)["decision"] == "pass"
    unknown = carwright("compare", stored, "measurement:00000000", "--suite", suite)
    assert unknown.returncode == 2
    assert "0 stored measurements begin with '00000000'" in unknown.stderr
    down = carwright("eval", url, "--suite", suite)
    assert down.returncode == 75
    assert "does not answer" in down.stderr


def test_what_is_no_endpoint_is_told_before_anything_is_measured(carwright: CommandLine, suite: Path) -> None:
    """A wrong name, several names, a page that is no API, a server that cannot, an address that is none."""
    with openai_server(Behaviour()) as url:
        wrong = carwright("eval", f"{url}#other", "--suite", suite)
        assert (wrong.returncode, f"serves toy, not 'other'\n  give {url}#toy" in wrong.stderr) == (2, True)
        named = carwright("eval", f"{url}#toy", "--suite", suite)
        assert named.returncode == 0, named.stderr
        root = url.removesuffix("/v1")
        page = carwright("eval", root, "--suite", suite)
        assert (page.returncode, "is not an OpenAI-compatible endpoint" in page.stderr) == (2, True)
    with openai_server(Behaviour(failing=1.0)) as url:
        busy = carwright("eval", url, "--suite", suite)
        assert (busy.returncode, "answered with status 503" in busy.stderr) == (75, True)
    with openai_server(Behaviour(model="one", others=("two",))) as url:
        several = carwright("eval", url, "--suite", suite)
        assert (several.returncode, f"name one of them: {url}#one" in several.stderr) == (2, True)
    none = carwright("eval", "http://", "--suite", suite)
    assert (none.returncode, "not an endpoint" in none.stderr) == (2, True)


def test_a_slow_endpoint_is_given_the_time_that_is_set(carwright: CommandLine, suite: Path) -> None:
    with openai_server(Behaviour(hang=3.0)) as url:
        slow = carwright(
            "eval", url, "--suite", suite, CARWRIGHT_EVALUATE__REQUEST_TIMEOUT="0.5", CARWRIGHT_EVALUATE__ATTEMPTS="2"
        )
    assert slow.returncode == 75, slow.stderr
    assert "did not answer in time, 2 times in a row" in slow.stderr
    assert "CARWRIGHT_EVALUATE__REQUEST_TIMEOUT" in slow.stderr


def test_a_suite_that_is_wrong_is_told_before_anything_is_served(carwright: CommandLine, suite: Path) -> None:
    """Nothing of the model is looked at: the one that is named here does not exist."""
    unknown = carwright("eval", "file:///nowhere", "--suite", "smok")
    assert (unknown.returncode, "there is no suite 'smok'" in unknown.stderr) == (2, True)
    assert "did you mean smoke?" in unknown.stderr
    declared = (suite / "suite.yaml").read_text()
    (suite / "suite.yaml").write_text(declared.replace("fidelity:", "fidelty:"))
    typo = carwright("eval", "file:///nowhere", "--suite", suite)
    assert typo.returncode == 2
    assert "suite.yaml of the suite small is invalid: fidelity: Field required" in typo.stderr
    assert "fidelty: there is no such field, did you mean fidelity?" in typo.stderr
    plus = carwright("eval", "file:///nowhere", "--suite", "humaneval-plus")
    assert (plus.returncode, "needs the data set HumanEval+" in plus.stderr) == (2, True)


@pytest.mark.parametrize("command", [("eval", "x"), ("compare", "x", "y"), ("card", "x/y")])
def test_a_page_that_cannot_be_written_is_told_first(carwright: CommandLine, command: tuple[str, ...]) -> None:
    gone = carwright(*command, "--output", "gone/page.html")
    assert (gone.returncode, "there is no folder gone" in gone.stderr) == (2, True)


def test_what_is_neither_a_model_nor_an_endpoint_is_told_what_it_could_be(carwright: CommandLine, suite: Path) -> None:
    folder = carwright("eval", suite, "--suite", suite)
    assert (folder.returncode, f"file://{suite}" in folder.stderr) == (2, True)
    word = carwright("eval", "nonsense", "--suite", suite)
    assert (word.returncode, "hf://org/name" in word.stderr) == (2, True)
