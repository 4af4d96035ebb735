"""models.yaml: the models that are watched, one entry each, read strictly and with line numbers in every complaint."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

import yaml
from pydantic import AfterValidator, Field, ValidationError, model_validator

from containers.contract import Frozen, GateProfile
from containers.errors import BadInput, Error
from containers.oci.reference import Reference
from flows.ship_request import ShipOptions

if TYPE_CHECKING:
    from collections.abc import Iterator

SHIPPED: Final = Path(__file__).parents[2] / "infra" / "models.yaml"
_HUB: Final = "hf://"


def _target(text: str) -> str:
    """A place to push to: no tag and no digest, which are the run's to give."""
    try:
        parsed = Reference.parse(text)
    except Error as error:
        raise ValueError(str(error)) from error
    if parsed.tag or parsed.digest:
        raise ValueError("a target has no tag and no digest: the tag is the commit's, or `tag`")
    return text


class Revision(Frozen):
    """Which commits count: the tip of a `branch`, the newest tag that fits a pattern (`v*`), or one `commit` for ever.

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
    """One watched model. `deployment` is the one whose trigger starts the rebuild.

    `gate` is what a run is given as `gate_profile`; the options of every shipment may be set, too.
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
        return self.model.removeprefix(_HUB)


class Models(Frozen):
    """The whole file."""

    models: tuple[WatchedModel, ...]

    @model_validator(mode="after")
    def _apart(self) -> Models:
        names: set[str] = set()
        products: dict[tuple[str, str, str], str] = {}
        for line in self.models:
            if line.name in names:
                raise ValueError(f"two models are named {line.name!r}")
            names.add(line.name)
            for target in line.targets:
                product = (line.model, line.recipe.scheme, target)
                if product in products:
                    other = products[product]
                    raise ValueError(f"{line.name!r} and {other!r} ship the same model and recipe to {target}")
                products[product] = line.name
        return self


def load(path: Path | None = None) -> tuple[WatchedModel, ...]:
    """The lines of a file, or of the one that ships. Raises BadInput with file, line and field of what is wrong."""
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
    for name, line in _twice(tree):
        raise BadInput(f"{path}:{line}: {name!r} is given twice", remedy="keep one of the two")
    try:
        return Models.model_validate(values).models
    except ValidationError as error:
        faults = error.errors(include_url=False)
        places = [tuple(fault["loc"]) for fault in faults]
        # A list of which no entry is right is called too short as well.
        inner = [fault for fault in faults if not any(_inside(fault["loc"], place) for place in places)]
        found = [_complaint(path, tree, fault) for fault in inner]
        raise BadInput("\n".join(found), remedy="what each field means: docs/reference/models-yaml.md") from None


def _inside(outer: tuple[int | str, ...], place: tuple[int | str, ...]) -> bool:
    return len(place) > len(outer) and place[: len(outer)] == outer


def _complaint(path: Path, tree: yaml.Node | None, fault: Any) -> str:
    """`models.yaml:7: models.0.recipe.schme: ...`, and what was probably meant."""
    where = tuple(fault["loc"])
    said = str(fault["msg"]).removeprefix("Value error, ")
    if fault["type"] == "extra_forbidden":
        said = "there is no such field"
        meant = difflib.get_close_matches(str(where[-1]), _fields_beside(where), n=1)
        said += f"; did you mean {meant[0]!r}?" if meant else f"; there are {', '.join(_fields_beside(where))}"
    elif fault["type"] in {"string_pattern_mismatch", "literal_error", "int_parsing", "greater_than_equal"}:
        said += f", not {fault['input']!r}"
    return f"{path}:{_line(tree, where)}: {'.'.join(map(str, where)) or 'the whole'}: {said}"


def _fields_beside(where: tuple[str | int, ...]) -> list[str]:
    """The fields that are known where an unknown one stands."""
    kinds: dict[str, type[Frozen]] = {"revision": Revision, "recipe": WatchedRecipe}
    inside: type[Frozen] = (
        Models if len(where) < 3 else WatchedModel if len(where) == 3 else kinds.get(str(where[2]), WatchedModel)
    )
    return list(inside.model_fields)


def _line(tree: yaml.Node | None, where: tuple[str | int, ...]) -> int:
    """The line of a place, or of the nearest thing around it that is there."""
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


def _twice(tree: yaml.Node | None) -> Iterator[tuple[str, int]]:
    """Keys that stand twice in one mapping, which YAML readers pass over in silence, with the second's line."""
    if isinstance(tree, yaml.SequenceNode):
        for value in tree.value:
            yield from _twice(value)
    elif isinstance(tree, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in tree.value:
            if key.value in seen:
                yield str(key.value), key.start_mark.line + 1
            seen.add(str(key.value))
            yield from _twice(value)
