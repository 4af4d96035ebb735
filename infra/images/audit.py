"""Known vulnerabilities in the locked Python packages, from data that a user gives.

The data are in the OSV format (ossf.github.io/osv-schema, 1.7): a file, a folder of files, or the archive `all.zip` that
osv.dev publishes for PyPI. Nothing is fetched. Debian's packages are not looked at: OSV names Debian's source packages,
and Debian's own `debsecan` knows what is mended in which.
"""

from __future__ import annotations

import zipfile
from typing import TYPE_CHECKING, Any, Final

from packaging.version import InvalidVersion, Version

from containers.contract import Frozen
from containers.errors import BadInput
from containers.foreign_json import DOCUMENT, parse_object
from containers.pins import normalized
from infra.images.context import inputs_of
from infra.images.targets import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from infra.images.targets import Target

_ECOSYSTEM: Final = "PyPI"
_ANY: Final = f"upstream@sha256:{'0' * 64}"  # what upstream's image holds is not looked at, whichever it is


class Vulnerability(Frozen):
    """One vulnerability of one locked package; `images` have it, `fixed` are the versions that do not."""

    id: str
    aliases: tuple[str, ...] = ()
    package: str
    version: str
    summary: str = ""
    fixed: tuple[str, ...] = ()
    images: tuple[str, ...]


def audit(targets: Iterable[Target], osv: Path, root: Path = ROOT) -> list[Vulnerability]:
    """What the data say of the packages in the bills of materials of these images, by package. Raises BadInput for data that cannot be read, or where
    no record is about PyPI: an empty answer would mean nothing.
    """
    installed: dict[tuple[str, str], list[str]] = {}
    for target in targets:
        for package in inputs_of(target, vllm=_ANY, root=root).components():
            if package.ecosystem == _ECOSYSTEM:
                installed.setdefault((package.name, package.version), []).append(target.name)
    found: dict[tuple[str, str, str], Vulnerability] = {}
    about = 0
    for where, record in _records(osv):
        for affected in _affected(record, where):
            about += 1
            for (name, version), images in installed.items():
                if name == affected.name and affected.holds(version):
                    found[record["id"], name, version] = Vulnerability(
                        id=str(record["id"]),
                        aliases=tuple(map(str, record.get("aliases") or ())),
                        package=name,
                        version=version,
                        summary=str(record.get("summary") or ""),
                        fixed=affected.fixed,
                        images=tuple(images),
                    )
    if not about:
        raise BadInput(
            f"no record in {osv} is about a package of {_ECOSYSTEM}",
            remedy="give OSV data of the ecosystem PyPI: osv.dev publishes it as an archive, all.zip",
        )
    return sorted(found.values(), key=lambda one: (one.package, one.id))


class _Affected(Frozen):
    """A package as a record names it: exact versions, and ranges as (introduced, fixed, last affected)."""

    name: str
    versions: frozenset[str]
    ranges: tuple[tuple[str, str, str], ...]

    @property
    def fixed(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(fixed for _, fixed, _ in self.ranges if fixed))

    def holds(self, version: str) -> bool:
        """Whether a version is affected; a local label (`+cpu`) does not count."""
        plain = version.partition("+")[0]
        if {version, plain} & self.versions:
            return True
        here = Version(plain)
        return any(_within(here, *one) for one in self.ranges)


def _within(here: Version, introduced: str, fixed: str, last: str) -> bool:
    if introduced not in {"", "0"} and here < Version(introduced):
        return False
    if fixed:
        return here < Version(fixed)
    return not last or here <= Version(last)


def _affected(record: dict[str, Any], where: str) -> Iterator[_Affected]:
    if record.get("withdrawn"):
        return
    try:
        for one in record.get("affected") or ():
            package = one.get("package") or {}
            if package.get("ecosystem") != _ECOSYSTEM:
                continue
            spans = [span for each in one.get("ranges") or () if each["type"] == "ECOSYSTEM" for span in _spans(each)]
            versions = frozenset(map(str, one.get("versions") or ()))
            yield _Affected(name=normalized(str(package["name"])), versions=versions, ranges=tuple(spans))
    except (AttributeError, KeyError, TypeError, InvalidVersion) as error:
        raise BadInput(f"{where} is not a record in the OSV format: {error}") from error


def _spans(events: dict[str, Any]) -> list[tuple[str, str, str]]:
    """The events of a range as spans. Raises what a malformed one raises."""
    spans: list[tuple[str, str, str]] = []
    for event in events["events"]:
        ((kind, version),) = event.items()
        if version != "0":
            Version(version)
        if kind == "introduced":
            spans.append((version, "", ""))
        elif spans and kind == "fixed":
            spans[-1] = (spans[-1][0], version, "")
        elif spans and kind == "last_affected":
            spans[-1] = (spans[-1][0], "", version)
    return spans


def _records(osv: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every record below a path, with the name that messages call it."""
    try:
        if osv.is_dir():
            for path in sorted(osv.rglob("*.json")):
                yield str(path), _record(path.read_bytes(), str(path))
        elif zipfile.is_zipfile(osv):
            with zipfile.ZipFile(osv) as archive:
                for entry in archive.infolist():
                    if entry.filename.endswith(".json"):
                        where = f"{osv}: {entry.filename}"
                        with archive.open(entry) as file:
                            yield where, _record(file.read(DOCUMENT.size + 1), where)
        else:
            yield str(osv), _record(osv.read_bytes(), str(osv))
    except (OSError, zipfile.BadZipFile) as error:
        raise BadInput(f"{osv} cannot be read: {error}") from error


def _record(content: bytes, where: str) -> dict[str, Any]:
    record = parse_object(content, where, DOCUMENT)
    if "id" not in record:
        raise BadInput(f"{where} is not a record in the OSV format: it has no id")
    return record
