"""The questions of a tool-calling suite, in the format of the Berkeley Function Calling Leaderboard, version 4.

A file of questions has one JSON object a line: `id`, `question` (turns, each a list of messages; one turn here) and `function`
(what may be called, with a JSON schema whose types are named as in Python). The file of answers has for the same `id` a
`ground_truth`: a list of calls `{name: {parameter: [value, ...]}}`, in which every listed value is right, and "" says that the
parameter may be left out. Format: https://github.com/ShishirPatil/gorilla, berkeley-function-call-leaderboard/bfcl_eval/data.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from pydantic import Field, ValidationError

from containers.contract import Frozen
from containers.errors import BadInput, faults
from containers.evaluate.declaration import ChatMessage
from containers.foreign_json import JsonLimits, parse_object

if TYPE_CHECKING:
    from containers.suites import SuiteFiles

# The types of parameters that the checker knows, and the JSON type that each becomes (bfcl_eval/constants/type_mappings.py).
TYPES: Final = {
    "string": "string",
    "integer": "integer",
    "float": "number",
    "boolean": "boolean",
    "array": "array",
    "tuple": "array",
    "dict": "object",
    "any": "string",
}
NESTED: Final = ("array", "tuple")  # whose `items` have a type, too
_LINE: Final = JsonLimits(size=1 << 20, values=1 << 16)


class FunctionParameters(Frozen):
    """`properties` by name, each a JSON schema; of those only what decides is read."""

    model_config = Frozen.model_config | {"extra": "ignore"}

    properties: dict[str, dict[str, Any]]
    required: tuple[str, ...] = ()


class Function(Frozen):
    """A function that may be called; `declared` is all that the question says of it."""

    model_config = Frozen.model_config | {"extra": "ignore"}

    name: str = Field(min_length=1)
    description: str = ""
    parameters: FunctionParameters
    declared: dict[str, Any]

    @property
    def wire_name(self) -> str:
        """The name as OpenAI's API allows it, which has no dots."""
        return self.name.replace(".", "_")


class Question(Frozen):
    """`answers` are the right calls, each a function's name with the values that its parameters may have."""

    id: str
    messages: tuple[ChatMessage, ...] = Field(min_length=1)
    functions: tuple[Function, ...] = Field(min_length=1)
    answers: tuple[tuple[str, dict[str, list[Any]]], ...] = ()

    def function(self, name: str) -> Function | None:
        return next((one for one in self.functions if one.name == name), None)


def read_questions(files: SuiteFiles, questions: str, answers: str, samples: int) -> tuple[Question, ...]:
    """The first `samples` questions of a file of the suite; without a file of `answers` they have none.

    Raises BadInput, which names file and line, for a file that is missing, too short, or not in the format.
    """
    asked = _lines(files, questions)
    known = {str(one.get("id")): one.get("ground_truth") for one in _lines(files, answers)} if answers else {}
    if len(asked) < samples:
        raise BadInput(
            f"{questions} of the suite {files.name} has {len(asked)} questions, and {samples} are declared",
            remedy="correct `samples`",
        )
    where = f"{questions} of the suite {files.name}"
    found = [_question(one, known if answers else None, where) for one in asked[:samples]]
    if len({one.id for one in found}) < len(found):
        raise BadInput(f"two questions in {questions} of the suite {files.name} have the same id")
    return tuple(found)


def _lines(files: SuiteFiles, path: str) -> list[dict[str, Any]]:
    text = files.files.get(path)
    if text is None:
        raise BadInput(f"the suite {files.name} has no file {path}", remedy="put it into the suite's folder")
    where = f"{path} of the suite {files.name}"
    lines = enumerate(text.split("\n"), 1)
    return [parse_object(line, f"line {number} of {where}", _LINE) for number, line in lines if line.strip()]


def _question(one: dict[str, Any], known: dict[str, Any] | None, where: str) -> Question:
    name = str(one.get("id"))
    where = f"the question {name!r} in {where}"
    turns, functions = one.get("question"), one.get("function")
    if not isinstance(turns, list) or len(turns) != 1:
        raise BadInput(f"{where} has not one turn", remedy="conversations of several turns are not supported")
    truth = [] if known is None else known.get(name)
    if not isinstance(truth, list) or (known is not None and not truth):
        raise BadInput(f"{where} has no answer", remedy="the file of answers needs a ground_truth for its id")
    if not all(isinstance(call, dict) and len(call) == 1 for call in truth):
        raise BadInput(f"an answer of {where} is not a call of one function")
    try:
        question = Question(
            id=name,
            messages=tuple(turns[0]),
            functions=tuple(one | {"declared": one} for one in functions) if isinstance(functions, list) else (),
            answers=tuple(next(iter(call.items())) for call in truth),
        )
    except (ValidationError, TypeError) as error:
        said = faults(error) if isinstance(error, ValidationError) else str(error)
        raise BadInput(f"{where} is not in BFCL's format: {said}") from error
    for called, _ in question.answers:
        _check_types(question.function(called), called, where)
    return question


def _check_types(function: Function | None, called: str, where: str) -> None:
    """Raises BadInput for an answer that calls what is not offered, and for a type that the checker does not know."""
    if function is None:
        raise BadInput(f"an answer of {where} calls {called!r}, which is not among its functions")
    for name, schema in function.parameters.properties.items():
        kinds = [schema.get("type")]
        if kinds[0] in NESTED:
            items = schema.get("items")
            kinds.append(items.get("type") if isinstance(items, dict) else None)
        if unknown := [kind for kind in kinds if not isinstance(kind, str) or kind not in TYPES]:
            raise BadInput(
                f"the parameter {name!r} of {called!r} in {where} has the type {unknown[0]!r}",
                remedy=f"known are {', '.join(TYPES)}",
            )
