"""Which tensors a recipe quantizes and why the others stay, decided by name and shape alone.

The rules are those of compressed-tensors' `match_quantizable_tensors`, which `model_free_ptq` uses; a test holds the two
against each other. On top of them stand the rules of vLLM, which serves the result: it reads no quantized router,
and it fuses some modules, which must then be treated alike.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from containers.architectures import everywhere
from containers.parameters import QuantizeParameters
from containers.quantize.obstacles import Obstacles

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from containers.quantize.schemes import Scheme

(ROUTERS,) = everywhere()["routers"].modules
_LOOKS_LIKE_REGEX: Final = re.compile(r"[*^$\\\[\](){}|+?]")


class Reason(StrEnum):
    """Why a tensor is copied as it is."""

    RECIPE = "ignored as asked"
    NORM = "norm"
    ROUTER = "router of a mixture of experts"
    VECTOR = "one-dimensional, as the weights of norms are"
    NOT_A_WEIGHT = "not a weight"


@dataclass(frozen=True)
class Recipe:
    """A scheme and the modules that it leaves alone: names, or regexes after `re:` that match from the start."""

    scheme: Scheme
    ignore: tuple[str, ...]

    def kept(self, name: str) -> Reason | None:
        """Why the tensor of that name is not quantized; None when it is."""
        module, _, parameter = name.rpartition(".")
        if module.endswith("norm"):
            return Reason.NORM
        if parameter != "weight":
            return Reason.NOT_A_WEIGHT
        if any(matches(module, entry) for entry in self.ignore):
            return Reason.RECIPE
        if matches(module, ROUTERS):
            return Reason.ROUTER
        return None

    def entry_for(self, module: str) -> str | None:
        """The first entry that means this module."""
        return next((entry for entry in self.ignore if matches(module, entry)), None)

    def effective_ignore(self, names: Iterable[str], optional: Iterable[str] = ()) -> tuple[str, ...]:
        """The ignore list for the checkpoint's config: with the pattern for routers where there are any, and without those of
        the `optional` entries that match nothing.
        """
        names = list(names)
        modules = {name.rpartition(".")[0] for name in names}
        unused = {entry for entry in optional if not any(matches(module, entry) for module in modules)}
        ignore = tuple(entry for entry in self.ignore if entry not in unused)
        routers = any(self.kept(name) is Reason.ROUTER for name in names)
        return (*ignore, ROUTERS) if routers and ROUTERS not in ignore else ignore


def matches(module: str, entry: str) -> bool:
    """Whether an entry of an ignore list means this module (compressed-tensors, `match_name`)."""
    if entry.startswith("re:"):
        return re.match(entry.removeprefix("re:"), module) is not None
    return entry == module


def check_entries(ignore: Sequence[str]) -> None:
    """Raises BadInput, for all of them, when there are entries that can never do what they were written for."""
    obstacles = Obstacles()
    for entry in ignore:
        if entry.startswith("re:"):
            try:
                re.compile(entry.removeprefix("re:"))
            except re.error as error:
                obstacles.add(f"the recipe's ignore entry {entry!r} is not a regex: {error}", "correct the regex")
        elif _LOOKS_LIKE_REGEX.search(entry):
            obstacles.add(
                f"the recipe's ignore entry {entry!r} looks like a regex but does not start with 're:'",
                f"write 're:{entry}'; without it the entry is compared with whole module names",
            )
    obstacles.check()


def default_ignore() -> tuple[str, ...]:
    """The ignore list of a request that names none; its entries may match nothing (a tied head is in no file)."""
    default: tuple[str, ...] = QuantizeParameters.model_fields["ignore"].default
    return default
