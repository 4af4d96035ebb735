"""Newer versions, in pip's package index, of the locked tools that affect outputs. For information only."""

from __future__ import annotations

import json
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from packaging.version import InvalidVersion, Version

from containers.contract import Step
from containers.fingerprints import fingerprint_inputs, locked_vllm
from containers.process import ProcessFailed, TimedOut, inherited, run

_DEADLINE: Final = 60.0  # seconds for one package
_OURS: Final = frozenset({"bytes_version"})  # no packages


def newer_versions() -> dict[str, str]:
    """Package -> newest version, where that is above the locked one. A package that the index does not have is left out.

    pip asks the index that this machine is configured for.
    """
    locked = {name: version for step in Step for name, version in fingerprint_inputs(step).items() if name not in _OURS}
    package, _, version = locked_vllm().partition(" ")
    locked[package] = version
    with ThreadPoolExecutor(4, thread_name_prefix="index") as pool:
        newest = dict(zip(locked, pool.map(_newest, locked), strict=True))
    return {name: found for name, found in newest.items() if found and Version(found) > Version(locked[name])}


def _newest(package: str) -> str | None:
    argv = [sys.executable, "-m", "pip", "index", "versions", "--json", "--disable-pip-version-check", package]
    try:
        found = json.loads(run(argv, env=inherited("PIP_"), timeout=_DEADLINE).stdout)["latest"]
        return str(Version(found))
    except (ProcessFailed, TimedOut, ValueError, KeyError, InvalidVersion):
        return None
