"""What is installed for another Python, asked without importing any of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from containers.errors import BadInput
from containers.process import ProcessFailed, run

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

_ASK: Final = """
import sys
from importlib.metadata import PackageNotFoundError, version
for name in sys.argv[1:]:
    try:
        print(name, version(name))
    except PackageNotFoundError:
        pass
"""
_TIMEOUT: Final = 60.0  # seconds


def versions(python: Path | str, names: Iterable[str]) -> dict[str, str]:
    """The versions of those of these distributions that the interpreter finds, by name, in the order of `names`.

    Raises BadInput when it does not run.
    """
    try:
        done = run([str(python), "-c", _ASK, *names], timeout=_TIMEOUT)
    except ProcessFailed as error:
        said = error.output.strip().splitlines()[-1:] or [f"it ended with code {error.code}"]
        raise BadInput(f"{python} is not a working Python: {said[0]}", remedy="name the interpreter itself") from error
    return dict(line.split(" ", 1) for line in done.stdout.splitlines() if " " in line)
