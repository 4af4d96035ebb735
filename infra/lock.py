"""Every requirements.lock, made from the requirements.in beside it.

    python -m infra.lock [--upgrade] [NAME ...]

A lock is the whole closure for CPython 3.11 to 3.14 on Linux: exact versions with the hashes of their files, so that
`pip install --no-deps --require-hashes -r requirements.lock` gives the same environment everywhere. Every Python gets the
same versions; a package that only some of them need has a marker. A lock names no index: where files come from is the
business of whoever installs. Pins that still fit are kept unless `--upgrade` is given. Of packages without source the lock
also names the wheels (infra/environments/wheel_tags.py).

Packages are looked up where pip is configured to look, and CPU builds of PyTorch that nobody there offers on PyTorch's own
index (see infra/environments/pip_indexes.py).

A requirements.in may leave out what a dependency asks for and Carwright does not use:

    # exclude: NAME -- reason
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from packaging.requirements import Requirement

from containers.errors import BadInput, Error, Temporary
from containers.pins import normalized, read_pins
from containers.process import ProcessFailed, inherited, run
from infra.environments import pip_configuration, uv
from infra.environments.pip_indexes import PipIndexes, is_cpu_build, masked
from infra.environments.wheel_tags import lines, read_tags
from infra.lock_text import merge, wheels_only
from infra.settings import Settings

ROOT: Final = Path(__file__).resolve().parents[1]
NAMES: Final = (
    "flows",
    "tests",  # reads the lock of flows
    "tests/zuul_registry",
    "containers/download",
    "containers/quantize",
    "containers/push",
    "containers/serve",
    "containers/evaluate",
    "infra/demo",
    "infra/images",
    "infra/modelcar_shell",
    "containers/quantize/cuda",
    "containers/serve/cuda",
)
PYTHONS: Final = ("3.11", "3.12", "3.13", "3.14")  # oldest first: what it gets is offered to the others
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

    def cpu_builds(self) -> list[str]:
        """Normalized names of those that requirements.in asks for as a CPU build of PyTorch, `==VERSION+cpu`."""
        return sorted(
            normalized(one.name) for one in self.direct() if any(is_cpu_build(spec.version) for spec in one.specifier)
        )

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


def make(lock: Lock, *, upgrade: bool = False, indexes: PipIndexes | None = None) -> dict[str, tuple[str, str]]:
    """Write the lock again; name -> (version before, version after) of what changed, "" for absent.

    `indexes` are those beside what pip is configured with. Raises BadInput when uv is missing or the requirements
    contradict each other, Temporary when no index answers.
    """
    before, tags = lock.pins(), read_tags(lock.target.read_text()) if lock.target.exists() else {}
    places = _Places(lock, indexes or PipIndexes())
    with tempfile.TemporaryDirectory(prefix="carwright-lock-") as scratch:
        excludes = Path(scratch, "excludes.txt")
        excludes.write_text("".join(f"{name}\n" for name in lock.excluded()))
        output = Path(scratch, "requirements.lock")
        if lock.target.exists() and not upgrade:
            output.write_text(lock.target.read_text())
        resolved = dict[str, str]()
        for python in PYTHONS:  # the pins of one, in the file that is written to, are what the next one keeps
            options = ["--python-version", python, "--python-platform", PLATFORM, "--excludes", str(excludes)]
            places.compile([*options, "--generate-hashes", "--output-file", str(output), str(lock.source)])
            resolved[python] = output.read_text()
        output.write_text(merge(resolved))
        wheels = Path(scratch, "pylock.toml")
        everywhere = ["--universal", "--python-version", PYTHONS[0], "--no-deps", "--format", "pylock.toml"]
        exact = Path(scratch, "exact.txt")
        exact.write_text(re.sub(r"(?m)^([^\s=]+)==", r"\1===", output.read_text()))  # 2.0 is not 2.0+cpu
        places.compile([*everywhere, "--output-file", str(wheels), str(exact)])
        pins = read_pins(output.read_text())
        # As uv does with the hashes of a pin that stays: what an index does not show today is not forgotten.
        kept = {name: set(some) for name, some in tags.items() if before.get(name) == pins.get(name)}
        found = {
            name: some | kept.get(name, set())
            for name, some in wheels_only(wheels.read_text(), output.read_text()).items()
        }
        lock.target.write_text(_HEADER + lines(found) + output.read_text())
    after = lock.pins()
    names = sorted(before.keys() | after.keys())
    return {name: (before.get(name, ""), after.get(name, "")) for name in names if before.get(name) != after.get(name)}


@dataclass
class _Places:
    """Runs uv on the places of pip and, for CPU builds that it does not find there, with PyTorch's index, too."""

    lock: Lock
    indexes: PipIndexes
    pages: list[str] = field(default_factory=list)

    def compile(self, options: list[str]) -> None:
        argv = [str(uv.program() or "uv"), "pip", "compile", "--quiet", "--no-config", "--no-annotate", "--no-header"]
        argv += ["--index-strategy=unsafe-best-match", *options]  # as pip does; hashes guard what is installed
        places = pip_configuration.variables(pip_configuration.read(), self.indexes.extra)
        if not self.pages:
            try:
                run(argv, env=inherited("UV_") | places, timeout=600)
            except ProcessFailed as error:
                absent = [name for name in self.lock.cpu_builds() if uv.is_absent(name, error.output)]
                if not absent or "UV_NO_INDEX" in places:
                    raise _failure(self.lock, error) from error
            else:
                return
            self.pages = self.indexes.pages(absent)
        places["UV_FIND_LINKS"] = ",".join([*places.get("UV_FIND_LINKS", "").split(","), *self.pages]).strip(",")
        try:
            run(argv, env=inherited("UV_") | places, timeout=600)
        except ProcessFailed as error:
            if "--find-links" not in error.output:  # it was read
                raise _failure(self.lock, error) from error
            names = ", ".join(page.rstrip("/").rpartition("/")[2] for page in self.pages)
            raise Temporary(
                f"{self.lock.source} cannot be locked: {masked(self.indexes.pytorch.get_secret_value())} cannot be read, "
                f"and no other index offers {names}",
                remedy="check the network and HTTPS_PROXY, or set CARWRIGHT_PIP_PYTORCH_INDEX_URL to a mirror",
            ) from error


def _failure(lock: Lock, error: ProcessFailed) -> BadInput | Temporary:
    offline = "error sending request" in error.output or "Failed to fetch" in error.output
    failure = Temporary if offline else BadInput
    return failure(
        f"{lock.source} cannot be locked:\n{error.output.strip()}",
        remedy="check that an index answers" if offline else "change what requirements.in asks for",
    )


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
        indexes = PipIndexes.of(Settings())
        for lock in locks():
            name = str(lock.folder.relative_to(ROOT))
            if options.names and name not in options.names:
                continue
            changes = make(lock, upgrade=options.upgrade, indexes=indexes)
            print(f"{name}: {len(lock.pins())} packages, {len(changes)} changed")
            for package, (old, new) in changes.items():
                print(f"  {package} {old or '(absent)'} -> {new or '(absent)'}")
    except Error as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
