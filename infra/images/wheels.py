"""The wheelhouse: every file that the images install, fetched once and checked against the locks.

`<cache>/images/wheels/` holds the files of all targets. A file counts only when its sha256 stands in a lock: a file of
the right name with another content is an error and never installed.
"""

from __future__ import annotations

import hashlib
import shutil
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from packaging.utils import (
    InvalidSdistFilename,
    InvalidWheelFilename,
    parse_sdist_filename,
    parse_wheel_filename,
)
from packaging.version import Version

from containers.errors import BadInput, DiskFull, is_disk_full
from containers.process import inherited
from infra.environments.environment import make_empty
from infra.environments.pip_indexes import ONLY_WHEELS, PipIndexes, build_tools
from infra.environments.pip_output import PipOutput
from infra.images.locked import requirements

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from containers.events import Event
    from infra.images.locked import Package

_PIECE = 1 << 20


@dataclass
class Wheelhouse:
    """The folder of files; `seen` remembers the hashes of this process."""

    folder: Path
    seen: dict[Path, tuple[tuple[int, int], str]] = field(default_factory=dict)

    def files(self, packages: Sequence[Package]) -> dict[Package, Path]:
        """Package -> its file, for those that are here.

        Raises BadInput when a file has the name of a locked package and a content that was not locked.
        """
        named: dict[tuple[str, str], list[Package]] = {}
        for package in packages:
            named.setdefault((package.name, str(Version(package.version))), []).append(package)
        found: dict[Package, Path] = {}
        for path in sorted(self.folder.glob("*")) if self.folder.is_dir() else ():
            for package in named.get(_what(path.name), ()):
                if self._sha256(path) not in package.hashes:
                    raise BadInput(
                        f"{path} is not the file of {package.name} {package.version} that is locked",
                        remedy="remove it and run `carwright images fetch`; if it happens again, do not trust its source",
                    )
                found[package] = path
        return found

    def missing(self, packages: Sequence[Package]) -> list[Package]:
        there = self.files(packages)
        return [package for package in packages if package not in there]

    def fetch(
        self,
        name: str,
        packages: Sequence[Package],
        on_event: Callable[[Event], None],
        indexes: PipIndexes = PipIndexes(),  # noqa: B008 - frozen
    ) -> int:
        """Download what is missing for the image `name`; returns how many files came.

        Raises BadInput (a file that was not locked, no index that has it), Temporary (no index answers), DiskFull.
        """
        wanted = self.missing(packages)
        if not wanted:
            return 0
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(prefix=".fetch-", dir=self.folder.parent) as scratch:
                output = PipOutput(f"the image {name}", requirements(wanted), on_event)
                tools = build_tools(requirements(packages))
                self._download(_apart(wanted), tools, Path(scratch), output=output, indexes=indexes)
                for path in Path(scratch, "files").iterdir():
                    path.replace(self.folder / path.name)
        except OSError as error:
            if is_disk_full(error):
                raise DiskFull(
                    f"no space left under {self.folder}", remedy="free some space, or set CARWRIGHT_CACHE"
                ) from error
            raise
        if absent := self.missing(packages):
            raise BadInput(f"no index offers {absent[0].name} {absent[0].version} for the image {name}")
        return len(wanted)

    def _download(
        self, parts: Sequence[Sequence[Package]], tools: str, scratch: Path, *, output: PipOutput, indexes: PipIndexes
    ) -> None:
        """To `scratch`/files. Pip asks a source package for its metadata, which runs it: with the tools that are locked."""
        pip, variables = [sys.executable, "-m", "pip"], inherited("PIP_", "XDG_CONFIG_")
        if tools:
            make_empty(scratch / "env")
            pip += ["--python", str(scratch / "env" / "bin" / "python")]
            indexes.run([*pip, "install", "--no-compile", ONLY_WHEELS], tools, variables, output)
        for packages in parts:
            download = [*pip, "download", "--dest", str(scratch / "files")]
            indexes.run(download, requirements(packages), variables, output)

    def _sha256(self, path: Path) -> str:
        status = path.stat()
        stamp = (status.st_mtime_ns, status.st_size)
        if path not in self.seen or self.seen[path][0] != stamp:
            digest = hashlib.sha256()
            with path.open("rb") as file:
                while piece := file.read(_PIECE):
                    digest.update(piece)
            self.seen[path] = (stamp, digest.hexdigest())
        return self.seen[path][1]


def _apart(packages: Sequence[Package]) -> list[list[Package]]:
    """Parts that pin no name twice, as pip wants it: what an image is built with may be another version than what it gets."""
    parts: list[dict[str, Package]] = []
    for package in packages:
        free = next((part for part in parts if package.name not in part), None)
        if free is None:
            parts.append(free := {})
        free[package.name] = package
    return [list(part.values()) for part in parts]


def _what(filename: str) -> tuple[str, str]:
    """Normalized name and version of a wheel or source distribution; two empty strings for anything else."""
    try:
        if filename.endswith(".whl"):
            name, version, _, _ = parse_wheel_filename(filename)
        else:
            name, version = parse_sdist_filename(filename)
    except (InvalidWheelFilename, InvalidSdistFilename):
        return "", ""
    return str(name), str(version)


def link(files: Sequence[Path], folder: Path, name: str = "") -> None:
    """Put files into a folder without copying them, where the file system allows; `name` renames a single one."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in dict.fromkeys(files):
        there = folder / (name or path.name)
        try:
            there.hardlink_to(path)
        except OSError:  # another file system
            shutil.copyfile(path, there)
