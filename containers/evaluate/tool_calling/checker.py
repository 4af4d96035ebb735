"""Whether calls are the right ones, as the AST checker of the Berkeley Function Calling Leaderboard decides.

The rules are those of bfcl_eval 2026.3.23 (eval_checker/ast_eval/ast_checker.py) for functions with Python's types:

- as many calls as the answer has, in any order, each of another expected call;
- the function's name, all required parameters, none that is unknown, and none left out that the answer needs;
- types as the function declares them, where a whole number may stand for a float, and a value of the type that the answer
  itself has may stand for any (a variable's name for a number);
- values among those of the answer. Of texts, case, spaces and `,./-_*^` do not count, and single quotes are double ones.

tests/golden/bfcl_checker.jsonl holds what their checker says of many calls. Where it ends with an error of its own, because a
list holds something else than it expects, a call is wrong here. Values are compared, never evaluated.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from containers.evaluate.tool_calling.questions import NESTED

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from containers.evaluate.tool_calling.questions import Function, Question

_PYTHON: Final[Mapping[str, type]] = {
    "string": str,
    "integer": int,
    "float": float,
    "boolean": bool,
    "array": list,
    "tuple": list,
    "dict": dict,
    "any": str,
}
_IGNORED: Final = re.compile(r"[ ,./\-_*^]")


@dataclass(frozen=True)
class Call:
    """One call that a model made. `name` is the function's own; `arguments` are JSON values by parameter."""

    name: str
    arguments: Mapping[str, Any]


def fault(question: Question, calls: Sequence[Call]) -> str:
    """What is wrong with the calls, in two or three words; empty when they are right."""
    if len(calls) != len(question.answers):
        return "no call" if not calls else "another number of calls"
    left = list(calls)
    for name, wanted in question.answers:
        function = question.function(name)
        assert function is not None  # `read_questions` has looked
        faults = [_fault(function, wanted, call) for call in left]
        if "" not in faults:
            return min(faults, key=_HOW_NEAR.index)
        del left[faults.index("")]
    return ""


_HOW_NEAR: Final = (
    *("wrong value", "wrong type", "parameter left out", "required parameter left out", "unknown parameter"),
    "wrong function",
)


def _fault(function: Function, wanted: Mapping[str, list[Any]], call: Call) -> str:
    if call.name != function.name:
        return "wrong function"
    given, properties = call.arguments, function.parameters.properties
    if any(name not in given for name in function.parameters.required):
        return "required parameter left out"
    for name, value in given.items():
        if name not in properties or name not in wanted:
            return "unknown parameter"
        if found := _value_fault(value, properties[name], wanted[name]):
            return found
    if any(name not in given and "" not in values for name, values in wanted.items()):
        return "parameter left out"
    return ""


def _value_fault(value: Any, schema: Mapping[str, Any], wanted: list[Any]) -> str:
    kind = schema["type"]
    expected = _PYTHON[kind]
    inner = _PYTHON[schema["items"]["type"]] if kind in NESTED else None
    if kind == "float" and type(value) is int:
        try:
            value = float(value)
        except OverflowError:
            return "wrong value"
    fits, variable = _typed(value, wanted, expected, inner)
    if not fits:
        return "wrong type"
    return "" if _among(value, wanted, expected, inner, variable=variable) else "wrong value"


def _typed(value: Any, wanted: list[Any], expected: type, inner: type | None) -> tuple[bool, bool]:
    """Whether the type will do, and whether the value stands for a variable, which is then compared as it is."""
    own = _type_of(wanted)
    variable = own is not None and own is not expected
    same = type(value) is expected
    if same and inner is None:
        return True, variable
    if same:
        # Theirs, too, takes any list where an answer is no list: "" says that the parameter may be left out.
        return any(not isinstance(one, list) or _items_typed(value, one, inner) for one in wanted), variable
    return (True, True) if own is not None and type(value) is own else (False, False)


def _items_typed(items: list[Any], wanted: list[Any], inner: type | None) -> bool:
    return inner is not None and all(_typed(item, wanted, inner, None)[0] for item in items)


def _type_of(wanted: list[Any]) -> type | None:
    """The type of the first value that is not "", which only says that there need be none."""
    return next((type(one) for one in wanted if one != ""), None)


def _among(value: Any, wanted: list[Any], expected: type, inner: type | None, *, variable: bool) -> bool:
    if variable:
        return value in wanted
    if expected is dict:
        return any(_same_fields(value, one) for one in wanted if one != "")
    if expected is list and inner is dict:
        return any(_same_list_of_fields(value, one) for one in wanted)
    if expected is str:
        return _plain(value) in [_plain(one) for one in wanted if isinstance(one, str)]
    if expected is list:
        # "" becomes an empty list here, as in their checker
        return _plain_list(value) in [_plain_list(one) for one in wanted if isinstance(one, list | str)]
    return value in wanted


def _same_fields(value: Any, wanted: Any) -> bool:
    """Whether a dictionary has the wanted fields, each with one of its values; fields inside fields are compared as they are."""
    if not isinstance(value, dict) or not isinstance(wanted, dict):
        return False
    for name, one in value.items():
        values = wanted.get(name)
        if not isinstance(values, list) or _plain(one) not in [_plain(each) for each in values]:
            return False
    return all(name in value or (isinstance(values, list) and "" in values) for name, values in wanted.items())


def _same_list_of_fields(value: list[Any], wanted: Any) -> bool:
    if not isinstance(wanted, list | str) or len(value) != len(wanted):
        return False
    return all(_same_fields(one, each) for one, each in zip(value, wanted, strict=True))


def _plain_list(value: list[Any] | str) -> list[Any]:
    return [_plain(one) for one in value]


def _plain(value: Any) -> Any:
    """A text as it is compared; anything else as it is."""
    return _IGNORED.sub("", value).lower().replace("'", '"') if isinstance(value, str) else value
