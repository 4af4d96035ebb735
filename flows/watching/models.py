"""models.yaml: the watched models, one entry each. It is read strictly; every error names the line."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

import yaml
from pydantic import AfterValidator, Field, ValidationError, model_validator

from containers.contract import Frozen, GateProfile
from containers.errors import BadInput, Error
from containers.oci.reference import Reference
from containers.sources import HUB
from flows.ship_request import ShipOptions

if TYPE_CHECKING:
    from collections.abc import Iterator

SHIPPED: Final = Path(__file__).parents[2] / "infra" / "models.yaml"


def _target(text: str) -> str:
    """A repository to push to, without tag or digest: each run sets its own."""
    try:
        parsed = Reference.parse(text)
    except Error as error:
        raise ValueError(str(error)) from error
    if parsed.tag or parsed.digest:
        raise ValueError("a target has no tag and no digest; the tag comes from the commit, or from the field `tag`")
    return text


class Revision(Frozen):
    """Which commit is watched: the tip of a `branch`, the newest tag that matches a pattern (`v*`), or a fixed `commit`.

    Tags are compared as versions where both are (PEP 440), else by their text.
    """

    branch: str | None = Field(default=None, min_length=1)
    tag: str | None = Field(default=None, min_length=1)
    commit: str | None = Field(default=None, pattern="^[0-9a-f]{40}$")

    @model_validator(mode="after")
    def _one(self) -> Revision:
        if sum(value is not None for value in (self.branch, self.tag, self.commit)) != 1:
            raise ValueError("give exactly one of branch, tag and commit")
        return self

    def __str__(self) -> str:
        if self.branch is not None:
            return self.branch
        return f"tag {self.tag}" if self.tag is not None else f"pinned to {(self.commit or '')[:12]}"


class WatchedRecipe(Frozen):
    """How the model is quantized."""

    scheme: str = "FP8_DYNAMIC"


class WatchedModel(ShipOptions):
    """One watched model. `deployment` names the deployment whose trigger starts the rebuild.

    `gate` is the gate profile of its runs. An entry may also set the options that every shipment has.
    """

    name: str = Field(pattern="^[a-z0-9]+([._-][a-z0-9]+)*$")
    model: str = Field(pattern="^hf://[^/@\\s]+/[^/@\\s]+$")
    revision: Revision = Revision(branch="main")
    recipe: WatchedRecipe = WatchedRecipe()
    targets: tuple[Annotated[str, AfterValidator(_target)], ...] = Field(min_length=1)
    gate: GateProfile = "release"
    deployment: Literal["quantize-and-ship/local", "quantize-and-ship/gpu"] = "quantize-and-ship/local"

    @property
    def repository(self) -> str:
        """`org/name` on the hub."""
        return self.model.removeprefix(HUB)


class Models(Frozen):
    """The contents of models.yaml."""

    models: tuple[WatchedModel, ...]

    @model_validator(mode="after")
    def _check_unique(self) -> Models:
        names: set[str] = set()
        products: dict[tuple[str, str, str], str] = {}
        for entry in self.models:
            if entry.name in names:
                raise ValueError(f"two models are named {entry.name!r}")
            names.add(entry.name)
            for target in entry.targets:
                product = (entry.model, entry.recipe.scheme, target)
                if product in products:
                    other = products[product]
                    raise ValueError(f"{entry.name!r} and {other!r} ship the same model and recipe to {target}")
                products[product] = entry.name
        return self


def load(path: Path | None = None) -> tuple[WatchedModel, ...]:
    """The entries of a file, by default of the one that ships. Raises BadInput, naming file, line and field."""
    path = path or SHIPPED
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(
            f"cannot read {path}: {error}", remedy="set CARWRIGHT_WATCH__MODELS to the file with the models"
        ) from error
    try:
        tree = yaml.compose(text, Loader=yaml.SafeLoader)
        values = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}:{mark.line + 1}" if mark is not None else str(path)
        raise BadInput(f"{where}: not YAML: {getattr(error, 'problem', None) or error}") from error
    for name, line in _duplicate_keys(tree):
        raise BadInput(f"{path}:{line}: duplicate key {name!r}", remedy="keep one of the two")
    try:
        return Models.model_validate(values).models
    except ValidationError as error:
        faults = error.errors(include_url=False)
        places = [tuple(fault["loc"]) for fault in faults]
        # pydantic also calls a list too short when none of its entries is valid.
        inner = [fault for fault in faults if not any(_inside(fault["loc"], place) for place in places)]
        found = [_error_line(path, tree, fault) for fault in inner]
        raise BadInput("\n".join(found), remedy="what each field means: docs/reference/models-yaml.md") from None


def _inside(outer: tuple[int | str, ...], place: tuple[int | str, ...]) -> bool:
    return len(place) > len(outer) and place[: len(outer)] == outer


def _error_line(path: Path, tree: yaml.Node | None, fault: Any) -> str:
    """`models.yaml:7: models.0.recipe.schme: ...`, with a suggestion for an unknown field."""
    where = tuple(fault["loc"])
    message = str(fault["msg"]).removeprefix("Value error, ")
    if fault["type"] == "extra_forbidden":
        message = "there is no such field"
        meant = difflib.get_close_matches(str(where[-1]), _known_fields(where), n=1)
        message += f"; did you mean {meant[0]!r}?" if meant else f"; known fields: {', '.join(_known_fields(where))}"
    elif fault["type"] in {"string_pattern_mismatch", "literal_error", "int_parsing", "greater_than_equal"}:
        message += f", not {fault['input']!r}"
    return f"{path}:{_line(tree, where)}: {'.'.join(map(str, where)) or 'the file'}: {message}"


def _known_fields(where: tuple[str | int, ...]) -> list[str]:
    """The valid fields at the place of an unknown one."""
    kinds: dict[str, type[Frozen]] = {"revision": Revision, "recipe": WatchedRecipe}
    inside: type[Frozen] = (
        Models if len(where) < 3 else WatchedModel if len(where) == 3 else kinds.get(str(where[2]), WatchedModel)
    )
    return list(inside.model_fields)


def _line(tree: yaml.Node | None, where: tuple[str | int, ...]) -> int:
    """The line of a place, or of the nearest enclosing node that exists."""
    if tree is None:
        return 1
    line = tree.start_mark.line + 1
    for part in where:
        if isinstance(tree, yaml.MappingNode):
            found = [(key, value) for key, value in tree.value if key.value == str(part)]
            if not found:
                break
            key, tree = found[0]
            line = key.start_mark.line + 1
        elif isinstance(tree, yaml.SequenceNode) and isinstance(part, int) and part < len(tree.value):
            tree = tree.value[part]
            line = tree.start_mark.line + 1
        else:
            break
    return line


def _duplicate_keys(tree: yaml.Node | None) -> Iterator[tuple[str, int]]:
    """Keys that occur twice in one mapping, with the line of the second; YAML readers accept them silently."""
    if isinstance(tree, yaml.SequenceNode):
        for value in tree.value:
            yield from _duplicate_keys(value)
    elif isinstance(tree, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in tree.value:
            if key.value in seen:
                yield str(key.value), key.start_mark.line + 1
            seen.add(str(key.value))
            yield from _duplicate_keys(value)
