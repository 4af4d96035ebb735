"""Reasons against a quantization, collected so that all are told at once and not one in each run."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Final

from containers.errors import BadInput

_TOLD: Final = 20  # kinds; more are counted
_NUMBER: Final = re.compile(r"\d+")


@dataclass
class Obstacles:
    """Reasons by kind. Of one kind, which layers often have in common, the first is told and the others are counted."""

    _found: dict[str, list[tuple[str, str]]] = field(default_factory=dict)

    def add(self, message: str, remedy: str = "") -> None:
        self._found.setdefault(_NUMBER.sub("#", message), []).append((message, remedy))

    def check(self) -> None:
        """Raises BadInput with every reason, if there are any."""
        told = [self._told(found) for found in self._found.values()]
        if len(told) == 1:
            raise BadInput(told[0][0], remedy=told[0][1])
        if told:
            lines = [f"- {message}" + (f"\n  {remedy}" if remedy else "") for message, remedy in told[:_TOLD]]
            if len(told) > _TOLD:
                lines.append(f"- and {len(told) - _TOLD} more kinds of reasons")
            raise BadInput("\n".join([f"there are {len(told)} reasons against this quantization:", *lines]))

    @staticmethod
    def _told(found: list[tuple[str, str]]) -> tuple[str, str]:
        message, remedy = found[0]
        return (f"{message} (and {len(found) - 1} more like it)" if len(found) > 1 else message), remedy
