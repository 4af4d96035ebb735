"""The common part of every suite.yaml, and one clear message, naming the field, for a mistake in it."""

from __future__ import annotations

from difflib import get_close_matches
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

from pydantic import Field, ValidationError

from containers.contract import Frozen
from containers.errors import BadInput
from containers.plain_yaml import load_yaml
from containers.suites import DECLARATION, SHIPPED

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

    from containers.suites import SuiteFiles

Positive = Annotated[int, Field(gt=0)]
Questions = Annotated[int, Field(ge=2)]  # that are compared: one says nothing about a difference
Points = Annotated[float, Field(ge=0, le=100)]


class ChatMessage(Frozen):
    """A message of a conversation, as OpenAI's API has it."""

    role: Literal["system", "user", "assistant"]
    content: str


class ServingNeeds(Frozen):
    """What the endpoint must support: `max_model_len` tokens, and the `parsers` that take calls or thinking out of answers."""

    max_model_len: Positive
    parsers: tuple[Literal["tool-call", "reasoning"], ...] = ()


class Declaration(Frozen):
    """The fields of every suite.yaml; each kind of suite adds its own."""

    schema_version: Literal[1]
    name: str
    description: str
    serving: ServingNeeds


class ScoreGate(Frozen):
    """Margins in points. If the baseline scores less than `recovery_needs` points, recovery is N/A.

    `rule` says who must show that less than its margin was lost: `pooled` the average, and that of every category; `each`
    every benchmark as well.
    """

    rule: Literal["pooled", "each"] = "pooled"
    confidence: Annotated[float, Field(gt=0.5, lt=1)] = 0.95
    margin: Points = 2.0
    margin_average: Points = 1.0
    margin_category: Points = 2.0
    recovery_needs: Points = 5.0


class ScoredDeclaration(Declaration):
    """The declaration of a suite that scores single questions; `category` is the first column of the card's table."""

    category: str = ""
    gate: ScoreGate = ScoreGate()


D = TypeVar("D", bound=Declaration)


def content(files: SuiteFiles) -> Any:
    """The YAML of a suite, unchecked; raises BadInput when it is none."""
    return load_yaml(files.files.get(DECLARATION, ""), f"{DECLARATION} of the suite {files.name}")


def parse(files: SuiteFiles, model: type[D]) -> D:
    """Read the declaration; raises BadInput that names the suite, the fields and what is wrong with them."""
    try:
        declared = model.model_validate(content(files))
    except ValidationError as error:
        known = _fields(model)
        wrong = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'the file'}: {_message(e, known)}" for e in error.errors())
        raise BadInput(
            f"{DECLARATION} of the suite {files.name} is invalid: {wrong}",
            remedy=f"the suites that ship document every field: {SHIPPED}",
        ) from error
    if declared.name != files.name:
        raise BadInput(
            f"the suite in the folder {files.name} has the name {declared.name}", remedy="make the two names equal"
        )
    return declared


def _fields(model: type[Frozen]) -> set[str]:
    """The names of all fields of a model and of the models in it."""
    schema = model.model_json_schema()
    return {name for part in (schema, *schema.get("$defs", {}).values()) for name in part.get("properties", {})}


def _message(error: ErrorDetails, known: set[str]) -> str:
    if error["type"] != "extra_forbidden":
        return error["msg"]
    name = str(error["loc"][-1])
    near = get_close_matches(name, known - {name}, 1)
    return "there is no such field" + (f", did you mean {near[0]}?" if near else "")
