"""The names of the settings in a tree, and the error for an unknown name."""

from __future__ import annotations

import difflib
import inspect
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, get_origin

from pydantic import BaseModel

from containers.errors import BadInput

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping

    from pydantic.fields import FieldInfo

PREFIX: Final = "CARWRIGHT_"


@dataclass(frozen=True)
class Setting:
    """One setting: its path in the tree, and its field."""

    path: tuple[str, ...]
    field: FieldInfo

    @property
    def variable(self) -> str:
        """The environment variable that sets it; a file with a secret has the same name."""
        return variable(self.path)

    @property
    def is_table(self) -> bool:
        """Whether it maps names of the user's own to values: `CARWRIGHT_DOCKER__EXTRA_HOSTS__<name>` sets one of them."""
        return get_origin(self.field.annotation) is dict

    def value(self, settings: BaseModel) -> Any:
        """The effective value."""
        found: Any = settings
        for name in self.path:
            found = getattr(found, name)
        return found

    def is_set(self, settings: BaseModel) -> bool:
        """Whether it is set, even to its default."""
        found: Any = settings
        for name in self.path:
            if name not in found.model_fields_set:
                return False
            found = getattr(found, name)
        return True


def settings_of(tree: type[BaseModel], *path: str) -> Iterator[Setting]:
    """Every setting of a tree, in order."""
    for name, field in tree.model_fields.items():
        section = field.annotation
        if inspect.isclass(section) and issubclass(section, BaseModel):
            yield from settings_of(section, *path, name)
        else:
            yield Setting((*path, name), field)


def variable(path: Iterable[str]) -> str:
    return PREFIX + "__".join(path).upper()


@dataclass(frozen=True)
class GivenName:
    """A name that was set: the variable, and the file that sets it ("" for a variable itself)."""

    variable: str
    where: str = ""

    def spelling_of(self, variable: str) -> str:
        """A variable as it is written where this name was found."""
        if self.where.endswith(".toml"):
            return variable.removeprefix(PREFIX).replace("__", ".").lower()
        return variable

    def __str__(self) -> str:
        return f"{self.spelling_of(self.variable)}{f' in {self.where}' if self.where else ''}"


def names_of_variables(names: Iterable[str], where: str = "") -> Iterator[GivenName]:
    """The names among environment variables or files that have Carwright's prefix."""
    yield from (GivenName(name.upper(), where) for name in names if name.upper().startswith(PREFIX))


def names_in_tables(tables: Mapping[str, Any], where: str, tree: type[BaseModel]) -> Iterator[GivenName]:
    """The names in a TOML file, whose tables are the sections of a tree."""
    known = {setting.path for setting in settings_of(tree)}

    def walk(table: Mapping[str, Any], path: tuple[str, ...]) -> Iterator[GivenName]:
        for name, value in table.items():
            here = (*path, name)
            if isinstance(value, dict) and here not in known:
                yield from walk(value, here)
            else:
                yield GivenName(variable(here), where)

    yield from walk(tables, ())


def refuse_unknown(
    given: Iterable[GivenName],
    tree: type[BaseModel],
    *,
    ignored: Collection[str] = (),
    renamed: Mapping[str, str] | None = None,
    remedy: str = "",
) -> None:
    """Raises BadInput for every name that is not a setting of the tree, with the nearest setting.

    `ignored` are variables that other programs read, including all that start with one of them and `__`. `renamed` maps
    former names to new ones.
    """
    settings = list(settings_of(tree))
    known = {setting.variable for setting in settings}
    sections = {variable(one.path[:length]) for one in settings for length in range(1, len(one.path))}
    tables = tuple(f"{setting.variable}__" for setting in settings if setting.is_table)
    faults = []
    for one in given:
        name = one.variable
        if name in known | sections or name.startswith(tables) or _begins(name, ignored) is not None:
            continue
        if renamed and (former := _begins(name, renamed)) is not None:
            step = name.removeprefix(former).removeprefix("__").replace("*", "ALL") or "<STEP>"
            faults.append(f"{one} is called {one.spelling_of(renamed[former].format(step=step))} now")
        else:
            nearest = _nearest(name, known)
            faults.append(f"{one} is not a setting{f'; did you mean {one.spelling_of(nearest)}?' if nearest else ''}")
    if faults:
        raise BadInput("\n".join(faults), remedy=remedy)


def _begins(name: str, whole: Collection[str]) -> str | None:
    """The one of `whole` that the name equals or starts with."""
    return next((one for one in whole if name == one or name.startswith(f"{one}__")), None)


def _nearest(name: str, known: Collection[str]) -> str | None:
    """The setting that was probably meant: equal without underscores, or else spelt similarly."""
    bare = name.replace("_", "")
    if same := next((one for one in sorted(known) if one.replace("_", "") == bare), None):
        return same
    # The prefix, which they share, would make any two names alike.
    ours = [one.removeprefix(PREFIX) for one in sorted(known)]
    return next((PREFIX + one for one in difflib.get_close_matches(name.removeprefix(PREFIX), ours, 1)), None)
