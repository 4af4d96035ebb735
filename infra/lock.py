"""Every requirements.lock, made from the requirements.in beside it.

    python -m infra.lock [--upgrade] [NAME ...]

A lock is the whole closure for CPython 3.11 on Linux: exact versions with the hashes of their files, so that
`pip install --no-deps --require-hashes -r requirements.lock` gives the same environment everywhere. It names no index:
where files come from is the business of whoever installs. Pins that still fit are kept unless `--upgrade` is given.

A requirements.in may leave out what a dependency asks for and Carwright does not use:

    # exclude: NAME -- reason
"""

from __future__ import annotations

import argparse
import configparser
import re
import sys
import tempfile
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from packaging.requirements import Requirement

from containers.errors import BadInput, Error, Temporary
from containers.pins import normalized, read_pins
from containers.process import ProcessFailed, inherited, run

ROOT: Final = Path(__file__).resolve().parents[1]
NAMES: Final = (
    "flows",
    "tests",  # reads the lock of flows
    "containers/download",
    "containers/quantize",
    "containers/push",
    "containers/serve",
    "containers/evaluate",
    "infra/demo",
    "infra/images",
    "infra/images/cuda",
)
PYTHON: Final = "3.11"
PLATFORM: Final = "x86_64-manylinux_2_28"  # glibc 2.28: Debian 10, RHEL 8 and all that is newer

_EXCLUDE = re.compile(r"#\s*exclude:\s*(?P<name>[\w.-]+)\s+--\s+\S")
_HEADER = "# Made by `make lock` from requirements.in; change that file instead.\n"


@dataclass(frozen=True)
class Lock:
    """One pair of requirements.in and requirements.lock; `folder` holds both."""

    folder: Path

    @property
    def source(self) -> Path:
        return self.folder / "requirements.in"

    @property
    def target(self) -> Path:
        return self.folder / "requirements.lock"

    def direct(self) -> list[Requirement]:
        """What requirements.in asks for itself; included files are followed."""
        return _requirements(self.source)

    def excluded(self) -> list[str]:
        """Normalized names that the closure leaves out."""
        lines = self.source.read_text().splitlines()
        return sorted(normalized(match["name"]) for match in map(_EXCLUDE.match, lines) if match)

    def pins(self) -> dict[str, str]:
        """Normalized name -> version; empty when there is no lock yet."""
        return read_pins(self.target.read_text()) if self.target.exists() else {}


def locks(root: Path = ROOT) -> list[Lock]:
    """All of them, in an order in which each finds what it reads."""
    return [Lock(root / name) for name in NAMES]


def flow_requirements(root: Path = ROOT) -> str:
    """The text of flows/requirements.in: the dependencies that pyproject.toml declares."""
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    lines = ["# The dependencies in pyproject.toml, written here by `make lock`.", *sorted(project["dependencies"])]
    return "\n".join(lines) + "\n"


def make(lock: Lock, *, upgrade: bool = False) -> dict[str, tuple[str, str]]:
    """Write the lock again; name -> (version before, version after) of what changed, "" for absent.

    Raises BadInput when uv is missing or the requirements contradict each other, Temporary when no index answers.
    """
    before = lock.pins()
    with tempfile.TemporaryDirectory(prefix="carwright-lock-") as scratch:
        excludes = Path(scratch, "excludes.txt")
        excludes.write_text("".join(f"{name}\n" for name in lock.excluded()))
        output = Path(scratch, "requirements.lock")
        if lock.target.exists() and not upgrade:
            output.write_text(lock.target.read_text())
        argv = [_uv(), "pip", "compile", "--quiet", "--no-config", "--generate-hashes", "--no-annotate", "--no-header"]
        argv += ["--python-version", PYTHON, "--python-platform", PLATFORM, "--excludes", str(excludes)]
        argv += [*_sources(), "--output-file", str(output), str(lock.source)]
        try:
            run(argv, env=inherited("UV_"), timeout=600)
        except ProcessFailed as error:
            offline = "error sending request" in error.output or "Failed to fetch" in error.output
            failure = Temporary if offline else BadInput
            raise failure(
                f"{lock.source} cannot be locked:\n{error.output.strip()}",
                remedy="check that a package index answers" if offline else "change requirements.in",
            ) from error
        lock.target.write_text(_HEADER + output.read_text())
    after = lock.pins()
    names = sorted(before.keys() | after.keys())
    return {name: (before.get(name, ""), after.get(name, "")) for name in names if before.get(name) != after.get(name)}


def _uv() -> str:
    """The uv of this environment, where there is one: what is locked should not depend on whose uv it was."""
    beside = Path(sys.executable).with_name("uv")
    return str(beside) if beside.exists() else "uv"


def _sources() -> list[str]:
    """Options of uv for the places that pip is configured to look in (uv reads no pip.conf)."""
    settings = configparser.ConfigParser(delimiters=("=",), interpolation=None)
    listed = run([sys.executable, "-m", "pip", "config", "list"], env=inherited("PIP_")).stdout
    settings.read_string("[pip]\n" + listed)
    values = {key.rpartition(".")[2]: value.strip("'\"") for key, value in settings["pip"].items()}
    options = [f"--find-links={place}" for place in values.get("find-links", "").split()]
    if url := values.get("index-url"):
        options.append(f"--default-index={url}")
    remote = [url for url in values.get("extra-index-url", "").split() if not url.startswith("file:")]
    options += [f"--index={url}" for url in remote]
    return [*options, "--index-strategy=unsafe-best-match"]  # as pip does; hashes guard what is installed


def _requirements(path: Path) -> list[Requirement]:
    found: list[Requirement] = []
    for raw in path.read_text().splitlines():
        line = raw.partition(" #")[0].strip()
        if line.startswith("-r "):
            found += _requirements(path.parent / line[3:].strip())
        elif line and not line.startswith(("#", "-")):
            found.append(Requirement(line))
    return found


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m infra.lock", description="Update every requirements.lock.")
    parser.add_argument("--upgrade", action="store_true", help="upgrade to newer versions within the requirements")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"one or more of: {', '.join(NAMES)}")
    options = parser.parse_args(arguments)
    if unknown := set(options.names) - set(NAMES):
        parser.error(f"no such lock: {', '.join(sorted(unknown))}")
    (ROOT / "flows" / "requirements.in").write_text(flow_requirements())
    try:
        for lock in locks():
            name = str(lock.folder.relative_to(ROOT))
            if options.names and name not in options.names:
                continue
            changes = make(lock, upgrade=options.upgrade)
            print(f"{name}: {len(lock.pins())} packages, {len(changes)} changed")
            for package, (old, new) in changes.items():
                print(f"  {package} {old or '(absent)'} -> {new or '(absent)'}")
    except Error as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
