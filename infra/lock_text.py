"""The text of a requirements.lock: what uv resolved for each Python, put into one, and the wheels of what has no source."""

from __future__ import annotations

import re
import tomllib
from typing import TYPE_CHECKING
from urllib.parse import unquote

from packaging.utils import canonicalize_name

from containers.errors import BadInput
from containers.pins import read_pins

if TYPE_CHECKING:
    from collections.abc import Mapping

_ENTRY = re.compile(r"(?m)^(?=[A-Za-z0-9])")


def merge(resolved: Mapping[str, str]) -> str:
    """One lock of several, by Python, oldest first. What only some need gets a marker.

    Raises BadInput when two Pythons would get different versions of a package: a version may decide the bytes of an output.
    """
    pythons = list(resolved)
    entries: dict[str, dict[str, str]] = {}
    for python, text in resolved.items():
        for entry in _ENTRY.split(text)[1:]:
            ((name, _),) = read_pins(entry).items()
            entries.setdefault(name, {})[python] = entry
    merged = ""
    for name, by_python in sorted(entries.items()):
        versions = {python: read_pins(entry)[name] for python, entry in by_python.items()}
        if len(set(versions.values())) > 1:
            found = ", ".join(f"{version} for Python {python}" for python, version in versions.items())
            raise BadInput(
                f"no version of {name} serves every Python: {found}", remedy="narrow what requirements.in asks for"
            )
        first, _, hashes = by_python[next(iter(by_python))].partition("\n")
        pin = first.removesuffix("\\").partition(" ; ")[0].strip()
        bounds = [f"python_version >= '{min(by_python, key=pythons.index)}'"] if pythons[0] not in by_python else []
        bounds += [f"python_version <= '{max(by_python, key=pythons.index)}'"] if pythons[-1] not in by_python else []
        marker = f" ; {' and '.join(bounds)}" if bounds else ""
        merged += f"{pin}{marker} \\\n{hashes}"
    return merged


def wheels_only(pylock: str, lock: str) -> dict[str, set[str]]:
    """Normalized name -> tags of the wheels for Linux, of each package without source in a pylock.toml (PEP 751).

    Only files count whose hash stands in the lock. Packages with a wheel for any platform are left out: it fits everywhere.
    """
    found: dict[str, set[str]] = {}
    for package in tomllib.loads(pylock).get("packages", []):
        locked = [one for one in package.get("wheels", []) if one["hashes"]["sha256"] in lock]
        files = [unquote(one.get("name") or one.get("url", one.get("path", ""))) for one in locked]
        tags = {"-".join(file.removesuffix(".whl").split("-")[-3:]) for file in files}
        if "sdist" not in package and tags and not any(tag.endswith("-none-any") for tag in tags):
            found[canonicalize_name(package["name"])] = {tag for tag in tags if "linux" in tag}
    return found
