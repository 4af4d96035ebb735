"""What a lock says about packages that exist as wheels only, so that a Python without one is refused before a fetch.

A package that is published without its source can be installed where one of its wheels fits and nowhere else: the
engines, torch and vLLM. For each of them a lock has a comment with the tags of its wheels for Linux (PEP 425):

    # wheels of torch: cp311-cp311-manylinux_2_28_x86_64 cp312-cp312-manylinux_2_28_x86_64
"""

from __future__ import annotations

import platform
import re
import sys
import sysconfig
from typing import TYPE_CHECKING, Final

from packaging.markers import Marker
from packaging.tags import parse_tag, sys_tags

from containers.errors import BadInput
from containers.pins import read_pins

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_LINE: Final = re.compile(r"(?m)^# wheels of (?P<name>\S+): (?P<tags>\S.*)$")
_MARKER: Final = re.compile(r"(?m)^\S+ ; (?P<marker>[^\\\n]+)")


def read_tags(lock: str) -> dict[str, list[str]]:
    """Normalized name -> tags of its wheels, for each package that the lock says it of."""
    return {match["name"]: match["tags"].split() for match in _LINE.finditer(lock)}


def lines(tags: Mapping[str, Iterable[str]]) -> str:
    """The comments of a lock."""
    return "".join(f"# wheels of {name}: {' '.join(sorted(some))}\n" for name, some in sorted(tags.items()))


def check(name: str, lock: str) -> None:
    """Raises BadInput when a package of the lock has no wheel that this Python can install; fetches nothing."""
    here = {str(tag) for tag in sys_tags()}
    pins = read_pins(lock)
    for package, tags in read_tags(lock).items():
        if here.isdisjoint(str(one) for tag in tags for one in parse_tag(tag)):
            python = f"{platform.python_implementation()} {platform.python_version()} on {sysconfig.get_platform()}"
            raise BadInput(
                f"the environment of {name} cannot be made: {package} {pins.get(package, '')} has no wheel for {python} "
                f"({sys.executable}), only {', '.join(tags)}",
                remedy="run Carwright with a Python that a wheel is for, or let steps run in containers: "
                "CARWRIGHT_LAUNCHER=docker",
            )


def applicable(lock: str) -> int:
    """How many packages of the lock are installed by this Python: a marker may leave one out."""
    left_out = sum(not Marker(match["marker"].strip()).evaluate() for match in _MARKER.finditer(lock))
    return len(read_pins(lock)) - left_out
