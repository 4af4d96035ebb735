"""Calls of tools: the checker beside BFCL's own, what is asked, what is read of an answer, and a whole measurement."""

from __future__ import annotations

import json
from functools import cache
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pytest

from containers import suites
from containers.errors import BadInput
from containers.evaluate import kinds
from containers.evaluate.kinds.tool_calling import ToolCallingSuite, wrong
from containers.evaluate.suite import Sizes
from containers.evaluate.tool_calling.asking import CallSampling, called, request, written
from containers.evaluate.tool_calling.checker import Call, fault
from containers.evaluate.tool_calling.questions import Question, read_questions
from containers.events import Reporter
from containers.step import Context
from containers.suites import SuiteFiles
from infra.settings import Settings
from tests.support.openai_server import Behaviour, openai_server

if TYPE_CHECKING:
    from collections.abc import Callable

    from containers.store import Store

GOLDEN = Path(__file__).parents[1] / "golden" / "bfcl_checker.jsonl"
WEATHER = {
    "name": "weather.get",
    "description": "The weather.",
    "parameters": {
        "type": "dict",
        "properties": {
            "city": {"type": "string", "description": "A city."},
            "days": {"type": "float", "description": "Days."},
            "hours": {"type": "array", "items": {"type": "integer"}},
        },
        "required": ["city"],
    },
}
TRUTH = [{"weather.get": {"city": ["Oslo", "Oslo, Norway"], "days": [2.5, ""], "hours": [[1, 2], ""]}}]
RIGHT = {"city": "oslo", "hours": [1, 2]}


def question(truth: list[dict[str, Any]] | None = None, **more: Any) -> Question:
    asked = {"id": "q0", "question": [[{"role": "user", "content": "Weather in Oslo?"}]], "function": [WEATHER | more]}
    files = SuiteFiles(
        name="own",
        files={
            "q": json.dumps(asked),
            "a": json.dumps({"id": "q0", "ground_truth": TRUTH if truth is None else truth}),
        },
    )
    return read_questions(files, "q", "a", 1)[0]


@cache
def shipped() -> dict[str, Question]:
    suite = kinds.load(suites.read("bfcl"))
    assert isinstance(suite, ToolCallingSuite)
    return {one.id: one for some in suite.questions().values() for one in some}


def test_the_checker_says_what_bfcls_says() -> None:
    """420 right and damaged calls of 130 questions, judged by ast_checker.py of bfcl_eval 2026.3.23."""
    rows = [json.loads(line) for line in GOLDEN.read_text().splitlines()]
    assert {row["valid"] for row in rows} == {True, False}
    assert len(rows) == 420
    for row in rows:
        calls = [Call(*next(iter(one.items()))) for one in row["calls"]]
        assert (fault(shipped()[row["id"]], calls) == "") is row["valid"], row


def test_every_answer_that_ships_is_right_by_itself() -> None:
    """Each question's own ground truth, with the first value of each parameter, passes; so every question can be answered.

    Two answers of BFCL's allow a parameter that their function does not have, which their checker refuses as well.
    """
    odd = {"parallel_multiple_12", "parallel_multiple_26"}
    for one in shipped().values():
        calls = [Call(name, of_answer(wanted)) for name, wanted in one.answers]
        assert not one.answers or (fault(one, calls) == "unknown parameter") == (one.id in odd), one.id
        assert not one.answers or fault(one, calls) in ("", "unknown parameter"), one.id


def of_answer(wanted: dict[str, list[Any]]) -> dict[str, Any]:
    """Arguments that an answer allows: the first value of each parameter that has one."""
    return {name: plain(values) for name, values in wanted.items() if values != [""]}


def plain(values: list[Any]) -> Any:
    """A value of an answer as a call would have it: the fields of a dictionary hold lists of values in turn."""
    value = next(one for one in values if one != "")
    if isinstance(value, dict):
        return of_answer(value)
    return [of_answer(one) if isinstance(one, dict) else one for one in value] if isinstance(value, list) else value


@pytest.mark.parametrize(
    ("calls", "said"),
    [
        ([Call("weather.get", RIGHT)], ""),
        ([Call("weather.get", RIGHT | {"days": 2.5})], ""),
        ([Call("weather.get", {"city": "OSLO Norway"})], ""),
        ([], "no call"),
        ([Call("weather.get", RIGHT)] * 2, "another number of calls"),
        ([Call("weather_get", RIGHT)], "wrong function"),
        ([Call("weather.get", {})], "required parameter left out"),
        ([Call("weather.get", RIGHT | {"unit": "C"})], "unknown parameter"),
        ([Call("weather.get", RIGHT | {"days": "2.5"})], "wrong type"),
        ([Call("weather.get", RIGHT | {"hours": ["1", "2"]})], "wrong value"),
        ([Call("weather.get", RIGHT | {"hours": [2, 1]})], "wrong value"),
        ([Call("weather.get", RIGHT | {"days": 2})], "wrong value"),
        ([Call("weather.get", RIGHT | {"days": 10**400})], "wrong value"),
        ([Call("weather.get", RIGHT | {"city": None})], "wrong type"),
        ([Call("weather.get", RIGHT | {"city": {"$ne": 1}})], "wrong type"),
    ],
)
def test_what_is_wrong_is_said(calls: list[Call], said: str) -> None:
    assert fault(question(), calls) == said


def test_a_parameter_that_the_answer_needs_may_not_be_left_out() -> None:
    needs = question([{"weather.get": {"city": ["Oslo"], "days": [2.5]}}])
    assert fault(needs, [Call("weather.get", {"city": "Oslo"})]) == "parameter left out"


def test_functions_go_into_tools_as_json_schema() -> None:
    body = request(question(), CallSampling(max_tokens=9))
    (tool,) = body["tools"]
    assert (tool["type"], tool["function"]["name"]) == ("function", "weather_get")
    assert tool["function"]["parameters"] == {
        "type": "object",
        "properties": {
            "city": {"type": "string", "description": "A city."},
            "days": {"type": "number", "format": "float", "description": "Days. This is a float type value."},
            "hours": {"type": "array", "items": {"type": "integer"}},
        },
        "required": ["city"],
    }
    assert (body["tool_choice"], body["max_tokens"], body["temperature"]) == ("auto", 9, 0)
    assert "seed" not in body


def test_prompted_the_functions_stand_in_the_system_prompt_after_an_example() -> None:
    example = {"question": "Hello?", "calls": [{"function": "f", "parameters": {"a": 1}}]}
    sampling = CallSampling.model_validate({"calls": "prompted", "example": example})
    system, asked, answered, last = request(question(), sampling)["messages"]
    assert '"name": "weather.get"' in system["content"]
    assert system["content"].startswith("You are an expert in composing functions.")
    assert (asked["content"], last["content"]) == ("Hello?", "Weather in Oslo?")
    assert answered == {"role": "assistant", "content": '```json\n[{"function":"f","parameters":{"a":1}}]\n```'}
    assert written(answered["content"]) == (Call("f", {"a": 1}),)


ONE = '[{"function": "weather.get", "parameters": {"city": "Oslo"}}]'


@pytest.mark.parametrize(
    ("text", "count"),
    [
        (ONE, 1),
        (f"Sure:\n```json\n{ONE}\n```\nAnything else? [1]", 1),
        (ONE.replace("}}]", '}}, {"function": "b", "parameters": {}}]'), 2),
        ("None of the functions can be used.", None),
        ("[1, 2]", None),
        (ONE[:-1], None),  # cut at the token limit
        ('[{"function": "a", "parameters": "b"}]', None),
        ('[{"function": "a", "parameters": {}}, 1]', None),
        ("[{" * 100_000, None),
        ('[{"function": "a", "parameters": ' + '{"a":' * 100 + "1" + "}" * 100 + "}]", None),
        ('[{"function": "a", "parameters": {"a": NaN}}]', None),
        ('[{"function": "a", "parameters": {"a": 1, "a": 2}}]', None),
        ('[{"function": "a", "parameters": {"a": ' + "9" * 5000 + "}}]", None),
        ('[{"function": "a", "parameters": {"a": "\\ud800"}}]', None),
        ("[{" + "a" * 1_000_000, None),
        ("__import__('os').system('id')", None),
    ],
)
def test_a_text_is_read_as_json_and_nothing_else(text: str, count: int | None) -> None:
    found = written(text)
    assert (None if found is None else len(found)) == count


def choice(*calls: Any) -> dict[str, Any]:
    return {"message": {"role": "assistant", "content": None, "tool_calls": list(calls)}}


def tool(name: Any, arguments: Any) -> dict[str, Any]:
    return {"id": "1", "type": "function", "function": {"name": name, "arguments": arguments}}


def test_calls_of_the_server_get_their_names_back() -> None:
    assert called(choice(tool("weather_get", '{"city": "Oslo"}')), question()) == (
        Call("weather.get", {"city": "Oslo"}),
    )
    assert called(choice(tool("other", "{}")), question()) == (Call("other", {}),)
    assert called({"message": {"content": "no"}}, question()) is None
    assert called(choice(), question()) is None
    for arguments in ("", "{", "[]", '{"a": NaN}', "[" * 100_000):
        assert called(choice(tool("weather_get", arguments)), question()) is None


@pytest.mark.parametrize(
    "odd",
    [
        choice(1),
        choice({"function": 1}),
        choice(tool(1, "{}")),
        choice(tool("a", {"b": 1})),
        {"message": {"tool_calls": 5}},
        {"message": 1},
    ],
)
def test_a_server_that_answers_in_another_form_is_bad_input(odd: dict[str, Any]) -> None:
    with pytest.raises(BadInput, match="the endpoint"):
        called(odd, question())


def test_where_nothing_fits_nothing_is_to_be_called() -> None:
    call = (Call("a", {}),)
    assert [wrong("none", question(), one) for one in (None, call)] == ["", "a call"]
    assert [wrong("some", question(), one) for one in (None, call)] == ["no call", ""]


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({}, "has no file q"),
        ({"q": "{}\n", "a": ""}, "has not one turn"),
        ({"q": "nothing", "a": ""}, "line 1 of q of the suite own is not JSON"),
        (
            {"q": '{"id": "x", "question": [[{"role": "user", "content": "?"}]], "function": []}', "a": ""},
            "has no answer",
        ),
    ],
)
def test_files_that_are_not_in_the_format_are_named(files: dict[str, str], said: str) -> None:
    with pytest.raises(BadInput, match=said):
        read_questions(SuiteFiles(name="own", files=files), "q", "a", 1)


def test_an_answer_with_another_function_or_type_is_named() -> None:
    with pytest.raises(BadInput, match="calls 'other', which is not among its functions"):
        question([{"other": {}}])
    with pytest.raises(BadInput, match=r"the parameter 'a' of 'weather.get' .* has the type 'Bigint'"):
        question(parameters={"type": "dict", "properties": {"a": {"type": "Bigint"}}, "required": []})
    with pytest.raises(BadInput, match=r"has the type \['string', 'null'\]"):
        question(parameters={"type": "dict", "properties": {"a": {"type": ["string", "null"]}}, "required": []})
    with pytest.raises(BadInput, match=r"has the type \{'type': 'string'\}"):
        question(
            parameters={
                "type": "dict",
                "properties": {"a": {"type": "array", "items": {"type": {"type": "string"}}}},
                "required": [],
            }
        )


@pytest.mark.parametrize("kind", [["string", "null"], {}, None, 7])
def test_a_type_that_is_no_name_is_told(kind: Any) -> None:
    """JSON schema has lists of types; BFCL's checker knows none."""
    for schema in ({"type": kind}, {"type": "array", "items": {"type": kind}}):
        with pytest.raises(BadInput, match=r"the parameter 'a' of 'weather.get' .* has the type"):
            question(parameters={"type": "dict", "properties": {"a": schema}, "required": []})


def declared(**more: Any) -> SuiteFiles:
    suite = suites.read("bfcl-small")
    text = suite.files["suite.yaml"]
    for old, new in more.items():
        text = text.replace(old, new)
    return SuiteFiles(name="bfcl-small", files=suite.files | {"suite.yaml": text})


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("calls: prompted", "calls: native", "an `example` belongs to `calls: prompted`"),
        ("expected: none", "expected: some\n      answers: x", "`answers` belong to `expected: calls`"),
        ("key: irrelevance", "key: simple", "two categories have the key simple"),
        ("samples: 24", "samples: 25", "has 24 questions, and 25 are declared"),
        ("samples: 24", "samples: 1", "samples: Input should be greater than or equal to 2"),
        ("max_tokens: 96", "max_token: 96", "did you mean max_tokens?"),
    ],
)
def test_a_wrong_declaration_is_named(tmp_path: Path, old: str, new: str, said: str) -> None:
    with pytest.raises(BadInput) as caught:
        kinds.load(declared(**{old: new})).check(context(tmp_path))
    assert said in str(caught.value)


def context(folder: Path) -> Context:
    return Context(Settings(), Reporter(StringIO(), structured=True), folder, folder / "result")


def answering(suite: ToolCallingSuite, right: set[str]) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """A model that answers the questions of `right` rightly, calls something else at the others, and nothing where none fits."""
    by_text = {one.messages[-1].content: one for some in suite.questions().values() for one in some}

    def message(body: dict[str, Any]) -> dict[str, Any]:
        asked = by_text[body["messages"][-1]["content"]]
        if not asked.answers:
            return {"content": "None of them fits."}
        calls = [{"function": "no.such", "parameters": {}}]
        if asked.id in right:
            calls = [{"function": name, "parameters": of_answer(wanted)} for name, wanted in asked.answers]
        return {"content": json.dumps(calls)}

    return message


def test_a_measurement_of_two_models_and_its_verdict(tmp_path: Path) -> None:
    """Right and wrong per question, the average of each category, and the gate that all scored suites have."""
    files = suites.read("bfcl-small")
    suite = kinds.load(files)
    assert isinstance(suite, ToolCallingSuite)
    simple = [one.id for one in suite.questions()["simple"]]
    for name, right in (("baseline", set(simple)), ("candidate", set(simple[::2]))):
        with openai_server(Behaviour(message=answering(suite, right))) as url:
            made = suite.measure(
                files.parameters(action="measure", subject=name, server="toy"),
                files.options(endpoint=url, served_model_name="toy"),
                cast("Store", None),
                context(tmp_path),
            )
        (tmp_path / name).mkdir()
        for path, content in made.items():
            (tmp_path / name / path).write_bytes(content)
    samples = json.loads((tmp_path / "candidate" / "samples.json").read_bytes())
    assert [one["key"] for one in samples["benchmarks"]] == ["simple", "irrelevance"]
    assert (
        samples["benchmarks"][0]["data_set"] == "data/BFCL_v4_simple_python.json"
    )  # with its digest in the bill of materials
    assert samples["benchmarks"][0]["scores"][simple[0]] == 1.0
    assert samples["benchmarks"][0]["scores"][simple[1]] == 0.0
    assert samples["requests"]["sent"] == 1 + 84 + 6 + 3  # the list of models; and a tenth of each is asked twice
    assert samples["noise"] == {"simple": 0.0, "irrelevance": 0.0}
    verdict = suite.judge(tmp_path / "candidate", tmp_path / "baseline", Sizes()).verdict
    assert verdict.decision == "refuse"
    found = {one.title: (one.baseline, one.candidate) for one in verdict.scores}
    assert found["BFCL simple, short"] == (100.0, 50.0)
    assert found["BFCL irrelevance, short"] == (100.0, 100.0)
    assert found["Average"] == (100.0, 75.0)


def test_a_server_without_a_parser_is_told_how_to_get_one(tmp_path: Path) -> None:
    """In vLLM 0.32's words."""
    files = suites.read("bfcl")

    said = '"auto" tool choice requires --enable-auto-tool-choice and --tool-call-parser to be set'
    with (
        openai_server(Behaviour(context=8192, refuses=said)) as url,
        pytest.raises(BadInput, match="does not call tools") as caught,
    ):
        kinds.load(files).measure(
            files.parameters(action="measure", subject="x", server="toy"),
            files.options(endpoint=url, served_model_name="toy"),
            cast("Store", None),
            context(tmp_path),
        )
    assert "--tool-call-parser NAME" in caught.value.remedy
