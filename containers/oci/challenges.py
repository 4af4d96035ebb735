"""The challenges of a 401: WWW-Authenticate as RFC 9110, 11.6.1, has it, which is a list, in one header or in several.

A registry may offer several schemes (Negotiate beside Basic, Bearer beside Basic); the one that can be answered is chosen by
`containers.oci.login`. What is no challenge is passed over.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Final

_TOKEN: Final = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"  # noqa: S105 -- RFC 9110, 5.6.2
_PARAMETER: Final = re.compile(rf'({_TOKEN})\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s,"]+))(?=[\s,]|$)')
_SCHEME: Final = re.compile(rf"({_TOKEN})(?=[\s,]|$)")
_ANYTHING: Final = re.compile(r"[^\s,]+")  # token68, or what is nothing at all
_BETWEEN: Final = re.compile(r"[\s,]*")
_LONGEST: Final = 16 << 10  # characters that are looked at


@dataclass(frozen=True)
class Challenge:
    """A scheme and the names of its parameters, both in lower case."""

    scheme: str
    parameters: dict[str, str] = field(default_factory=dict)


def parse(header: str) -> tuple[Challenge, ...]:
    """Every challenge of a header's value, in its order; several headers are joined by commas."""
    found: list[Challenge] = []
    text = header[:_LONGEST]
    at = 0
    while (at := _end(_BETWEEN.match(text, at), at)) < len(text):
        if found and (parameter := _PARAMETER.match(text, at)):
            name, quoted, plain = parameter.groups()
            value = re.sub(r"\\(.)", r"\1", quoted) if quoted is not None else plain
            found[-1].parameters.setdefault(name.lower(), value)
            at = parameter.end()
        elif scheme := _SCHEME.match(text, at):
            found.append(Challenge(scheme[1].lower()))
            at = scheme.end()
        else:
            at = _end(_ANYTHING.match(text, at), at + 1)
    return tuple(found)


def _end(match: re.Match[str] | None, otherwise: int) -> int:
    return match.end() if match is not None else otherwise
