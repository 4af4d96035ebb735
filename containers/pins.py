"""Reads the exact versions out of a requirements.lock."""

from __future__ import annotations

import re

_PIN = re.compile(r"(?P<name>[A-Za-z0-9][\w.-]*)(\[[^]]*])?==(?P<version>[^\s;\\]+)")


def normalized(name: str) -> str:
    """A package's name as indexes compare it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def read_pins(text: str) -> dict[str, str]:
    """Normalized name -> version, for every package that the lock pins."""
    matches = (_PIN.match(line) for line in text.splitlines())
    return {normalized(match["name"]): match["version"] for match in matches if match}
