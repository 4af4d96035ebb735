"""HumanEval+: the problems of HumanEval on many more inputs, from EvalPlus's file of problems.

The file (HumanEvalPlus-v0.1.10.jsonl, or a later one) has one
JSON object a line with `task_id`, `prompt`, `entry_point`, `canonical_solution`, `base_input`, `plus_input` and `atol`.
EvalPlus itself is not installed: it depends on the clients of three commercial APIs and runs generated code without a
sandbox. Its rules for equal answers are those of evalplus/eval/__init__.py (version 0.3.1).
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from pydantic import ConfigDict, ValidationError

from containers.errors import BadInput
from containers.evaluate.humaneval import Problem

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

_REMEDY: Final = (
    "give EvalPlus's file HumanEvalPlus.jsonl: CARWRIGHT_EVALUATE__HUMANEVAL_PLUS, the setting evaluate.humaneval_plus"
)
_TEST: Final = """
def _same(found, wanted, atol):
    if found == wanted:
        return True
    if type(found) is not type(wanted):
        return False
    if isinstance(wanted, (list, tuple)):
        return len(found) == len(wanted) and all(_same(a, b, atol) for a, b in zip(found, wanted))
    return isinstance(wanted, float) and abs(found - wanted) <= (atol or 1e-6) + 1e-7 * abs(wanted)

def _run(candidate):
    import copy
    known = {{}}
    exec({reference!r}, known)
    for given in {inputs!r}:
        wanted = known[{entry_point!r}](*copy.deepcopy(given))
        found = candidate(*copy.deepcopy(given))
        if {entry_point!r} == "find_zero":
            assert abs(known["poly"](given[0], found)) <= {atol!r}
        else:
            assert _same(found, wanted, {atol!r})

def check(candidate):
    _run(candidate)
"""


class HarderProblem(Problem):
    """A problem with more inputs; its test compares the answer with the reference solution's on each of them."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    test: str = ""
    base_input: list[Any]
    plus_input: list[Any]
    atol: float = 0.0

    @property
    def checks(self) -> str:
        return _TEST.format(
            reference=self.prompt + self.canonical_solution,
            inputs=[*self.base_input, *self.plus_input],
            entry_point=self.entry_point,
            atol=self.atol,
        )


def problems(path: Path | None, known: Mapping[str, Problem]) -> dict[str, HarderProblem]:
    """The problems of the file by name; raises BadInput when there is none, or when it is not that of these problems."""
    if path is None:
        raise BadInput("the suite needs the data set HumanEval+, which no setting names", remedy=_REMEDY)
    try:
        lines = path.expanduser().read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise BadInput(f"the data set HumanEval+ cannot be read: {path}: {error.strerror}", remedy=_REMEDY) from error
    try:
        found = [HarderProblem.model_validate(json.loads(line)) for line in lines if line.strip()]
    except (ValueError, ValidationError) as error:
        raise BadInput(f"{path} is not EvalPlus's file of problems", remedy=_REMEDY) from error
    by_name = {one.task_id: one for one in found}
    if by_name.keys() != known.keys():
        raise BadInput(
            f"{path} has {len(by_name.keys() & known.keys())} of the {len(known)} problems of HumanEval", remedy=_REMEDY
        )
    return by_name
