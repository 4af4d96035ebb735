"""What a recipe leaves alone, by architecture: `architectures.yaml`, read into values.

The flow makes the ignore list of a request from it, so the list is part of the fingerprint; the quantize step says with it
why each tensor stays.
"""

from __future__ import annotations

from functools import cache
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from pydantic import Field, ValidationError, model_validator

from containers.contract import Frozen
from containers.errors import Error, faults
from containers.foreign_values import visible_line
from containers.parameters import QuantizeParameters
from containers.plain_yaml import load_yaml

if TYPE_CHECKING:
    from collections.abc import Mapping

DECLARATION: Final = Path(__file__).with_name("architectures.yaml")


class KeptModules(Frozen):
    """Modules that stay as they are, for one reason. `served`: vLLM has no scales for them, whatever a checkpoint says."""

    modules: tuple[str, ...] = Field(min_length=1)
    why: str = Field(min_length=1)
    served: Literal["as stored", "unquantized"] = "as stored"


class _Family(Frozen):
    """Architectures that keep the same; `names` is a list of lists so that it reads well."""

    names: tuple[tuple[str, ...], ...]
    keep: tuple[str, ...]


class _Declaration(Frozen):
    """The contents of the file."""

    parts: dict[str, KeptModules]
    everywhere: tuple[str, ...]
    careful: tuple[str, ...]
    architectures: tuple[_Family, ...]

    @model_validator(mode="after")
    def _check(self) -> _Declaration:
        used = {*self.everywhere, *self.careful, *chain.from_iterable(family.keep for family in self.architectures)}
        if used != set(self.parts):
            raise ValueError(f"parts that are not declared, or not used: {sorted(used ^ set(self.parts))}")
        names = list(chain.from_iterable(chain.from_iterable(family.names for family in self.architectures)))
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"architectures that are named twice: {twice}")
        return self


class ArchitectureRecipe(Frozen):
    """What stays unquantized of a model. `parts` are those of its architecture by name; not `known`, the careful default's."""

    architecture: str
    known: bool
    parts: dict[str, KeptModules]

    @property
    def ignore(self) -> tuple[str, ...]:
        """The ignore list of the recipe, with what stays in every model."""
        own = chain.from_iterable(part.modules for part in self.parts.values())
        return tuple(dict.fromkeys((*QuantizeParameters().ignore, *own)))

    @property
    def every(self) -> dict[str, KeptModules]:
        """Its parts and those that stay in every model."""
        return {**everywhere(), **self.parts}

    def part_of(self, entry: str) -> tuple[str, KeptModules] | None:
        """Name and contents of the part that an entry of an ignore list is from; None for an entry of the user's.

        A list may be another architecture's: who made it may not have known this one.
        """
        parts = {**self.every, **_declared().parts}
        return next(((name, part) for name, part in parts.items() if entry in part.modules), None)


@cache
def _declared() -> _Declaration:
    values = load_yaml(DECLARATION.read_text(encoding="utf-8"), DECLARATION.name)
    try:
        return _Declaration.model_validate(values)
    except ValidationError as error:
        raise Error(f"{DECLARATION.name}: {faults(error)}") from error


def everywhere() -> dict[str, KeptModules]:
    """The parts that stay in every model."""
    declared = _declared()
    return {name: declared.parts[name] for name in declared.everywhere}


def architectures() -> tuple[str, ...]:
    """All names that have a recipe."""
    return tuple(chain.from_iterable(chain.from_iterable(family.names for family in _declared().architectures)))


def recipe_of(config: Mapping[str, Any]) -> ArchitectureRecipe:
    """The recipe for a model by its config.json: by the first of its `architectures`, as vLLM chooses its class."""
    declared = _declared()
    named = config.get("architectures")
    name = named[0] if isinstance(named, list) and named and isinstance(named[0], str) else ""
    for family in declared.architectures:
        if any(name in names for names in family.names):
            return ArchitectureRecipe(architecture=name, known=True, parts=_named(declared, family.keep))
    shown = visible_line(name) or "unknown"
    return ArchitectureRecipe(architecture=shown, known=False, parts=_named(declared, declared.careful))


def quantization(
    config: Mapping[str, Any],
    scheme: str,
    *,
    more: tuple[str, ...] = (),
    only: tuple[str, ...] = (),
    action: Literal["quantize", "plan"] = "quantize",
) -> QuantizeParameters:
    """The parameters of a quantization: `more` modules stay beside those of the recipe, `only` takes the recipe's place."""
    ignore = tuple(dict.fromkeys((*(only or recipe_of(config).ignore), *more)))
    return QuantizeParameters(action=action, scheme=scheme, ignore=ignore)


def _named(declared: _Declaration, names: tuple[str, ...]) -> dict[str, KeptModules]:
    return {name: declared.parts[name] for name in names}
