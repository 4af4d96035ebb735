"""Debian packages with exact versions and hashes: base.in names them, base.lock pins them, the cache holds them.

apt works in a folder of its own with the Debian mirrors that this machine is configured for, whatever release the machine
itself is of: neither root nor the system's package lists are needed or touched. Signatures are checked when versions are
locked; afterwards the hash of each file says more than a signature could.
"""

from __future__ import annotations

import hashlib
import re
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from containers.errors import BadInput, Temporary
from containers.events import Event
from containers.oci import apt
from containers.process import ProcessFailed, run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

SOURCE: Final = Path(__file__).with_name("base.in")
LOCK: Final = Path(__file__).with_name("base.lock")
ARCHITECTURE: Final = "amd64"
_KEYRING: Final = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
_HEADER: Final = "# Made by `carwright images lock` from base.in; change that file instead. Architecture amd64.\n"
_PIN: Final = re.compile(r"(?P<name>[a-z0-9][a-z0-9.+-]*)=(?P<version>\S+) --hash=sha256:(?P<sha256>[0-9a-f]{64})")
_TIMEOUT: Final = 600.0  # seconds


@dataclass(frozen=True, order=True)
class Deb:
    """One pinned package."""

    name: str
    version: str
    sha256: str

    @property
    def line(self) -> str:
        return f"{self.name}={self.version} --hash=sha256:{self.sha256}\n"


def requested(source: Path = SOURCE) -> tuple[str, dict[str, list[str]]]:
    """The release and the package names by section in base.in."""
    release, sections, names = "", {}, []  # type: str, dict[str, list[str]], list[str]
    for raw in source.read_text().splitlines():
        line = raw.partition("#")[0].strip()
        if line.startswith("release"):
            release = line.partition("=")[2].strip()
        elif line.startswith("["):
            names = sections.setdefault(line.strip("[]"), [])
        elif line:
            names.append(line)
    return release, sections


def pinned(lock: Path = LOCK) -> dict[str, Deb]:
    """Name -> package, as base.lock has them. Raises BadInput if it is missing or has an invalid line."""
    try:
        lines = lock.read_text().splitlines()
    except OSError as error:
        raise BadInput(f"cannot read {lock}: {error.strerror}", remedy="make it: carwright images lock") from error
    found = {}
    for line in lines:
        if not line or line.startswith("#"):
            continue
        match = _PIN.fullmatch(line)
        if match is None:
            raise BadInput(f"{lock.name}: not a pin: {line!r}", remedy="make it again: carwright images lock")
        found[match["name"]] = Deb(match["name"], match["version"], match["sha256"])
    return found


def section(name: str, *, source: Path = SOURCE, lock: Path = LOCK) -> list[Deb]:
    """The pinned packages of a section of base.in; empty when there is no such section.

    Raises BadInput when base.lock does not pin what base.in asks for.
    """
    names = requested(source)[1].get(name, [])
    pins = pinned(lock) if names else {}
    if absent := sorted(set(names) - pins.keys()):
        raise BadInput(
            f"{lock.name} is out of step with {source.name}: it does not pin {', '.join(absent)}",
            remedy="run `carwright images lock` and commit what changed",
        )
    return sorted(pins[one] for one in names)


def update_lock(
    on_event: Callable[[Event], None], *, source: Path = SOURCE, lock: Path = LOCK
) -> dict[str, tuple[str, str]]:
    """Pin the versions that the archive offers now; name -> (version before, version after) of what changed.

    Raises BadInput when apt or Debian's keyring is missing or the archive lacks a package, Temporary when it does not answer.
    """
    if not _KEYRING.is_file():
        raise BadInput(
            f"{_KEYRING} is missing, and versions are locked only from a signed archive",
            remedy="install the package debian-archive-keyring",
        )
    before = pinned(lock) if lock.exists() else {}
    release, sections = requested(source)
    names = sorted({name for listed in sections.values() for name in listed})
    on_event(Event(event="log", message=f"querying Debian's archive for {len(names)} packages of {release}"))
    with _apt(release) as (apt, _):
        shown = run([*apt("apt-cache"), "show", "--no-all-versions", *names], check=False, timeout=_TIMEOUT).stdout
    stanzas = [dict(re.findall(r"(?m)^(Package|Version|SHA256): (\S+)$", one)) for one in shown.split("\n\n")]
    found = {one["Package"]: Deb(one["Package"], one["Version"], one["SHA256"]) for one in stanzas if "SHA256" in one}
    if absent := sorted(set(names) - found.keys()):
        raise BadInput(f"Debian's {release} has no package {', '.join(absent)}", remedy="correct infra/images/base.in")
    lock.write_text(_HEADER + "".join(found[name].line for name in names))
    versions = {name: (before[name].version if name in before else "", found[name].version) for name in names}
    versions |= {name: (old.version, "") for name, old in before.items() if name not in found}
    return {name: pair for name, pair in sorted(versions.items()) if pair[0] != pair[1]}


def path_of(deb: Deb, folder: Path) -> Path:
    """Where the cache keeps the file; named by its hash, so that it can be no other."""
    return folder / f"{deb.name}_{deb.sha256[:16]}.deb"


def missing(debs: Sequence[Deb], folder: Path) -> list[Deb]:
    """The packages missing from the cache. Raises BadInput for a file that does not match its name."""
    absent = []
    for deb in debs:
        path = path_of(deb, folder)
        if not path.is_file():
            absent.append(deb)
        elif _sha256(path) != deb.sha256:
            raise BadInput(f"{path} is not the locked package", remedy="remove it: carwright images fetch gets it")
    return absent


def fetch(debs: Sequence[Deb], folder: Path, on_event: Callable[[Event], None]) -> int:
    """Download the packages missing from the cache; returns their number.

    Raises BadInput when the archive no longer has a version, or gave something else; Temporary when it does not answer.
    """
    absent = missing(debs, folder)
    if not absent:
        return 0
    on_event(Event(event="log", message=f"fetching {len(absent)} Debian packages"))
    folder.mkdir(parents=True, exist_ok=True)
    with _apt(requested()[0], folder) as (apt, root):
        try:
            run(
                [*apt("apt-get"), "download", *(f"{deb.name}={deb.version}" for deb in absent)],
                cwd=root,
                timeout=_TIMEOUT,
            )
        except ProcessFailed as error:
            gone = re.findall(r"Version '(\S+)' for '(\S+)' was not found", error.output)
            if gone:
                raise BadInput(
                    f"Debian's archive has moved on: {', '.join(f'{name} {version}' for version, name in gone)} "
                    "is no longer there",
                    remedy="run `carwright images lock`: it shows the new versions; commit the lock",
                ) from error
            raise Temporary(f"apt could not fetch the packages:\n{error.output.strip()}") from error
        came = {_sha256(path): path for path in root.glob("*.deb")}
        for deb in absent:
            if deb.sha256 not in came:
                raise BadInput(f"the archive's {deb.name} {deb.version} is not the locked file")
            came[deb.sha256].replace(path_of(deb, folder))
    return len(absent)


@contextmanager
def _apt(release: str, near: Path | None = None) -> Iterator[tuple[Callable[[str], list[str]], Path]]:
    """apt in a folder of its own, its lists up to date; gives how to call one of its programs, and the folder.

    `near` is a folder on the file system that files are moved to.
    """
    mirrors = _mirrors()
    with tempfile.TemporaryDirectory(prefix=".carwright-apt-", dir=near) as scratch:
        root = Path(scratch)
        trust = f"signed-by={_KEYRING}" if _KEYRING.is_file() else "trusted=yes"
        lines = []
        for uri in mirrors:
            suites = (f"{release}-security",) if uri.endswith("-security") else (release, f"{release}-updates")
            lines += [f"deb [arch={ARCHITECTURE} {trust}] {uri} {suite} main\n" for suite in suites]
        flags = apt.separate(root, "".join(lines), ARCHITECTURE)

        def call(program: str) -> list[str]:
            return [program, "-q", *flags]

        try:
            run([*call("apt-get"), "update", "--error-on=any"], timeout=_TIMEOUT)
        except ProcessFailed as error:
            raise Temporary(
                f"Debian's archive did not answer:\n{error.output.strip()}", remedy="check the network and run again"
            ) from error
        yield call, root


def _mirrors() -> list[str]:
    """Debian's archives (packages and security) in this machine's own configuration."""
    try:
        listed = run(["apt-get", "indextargets", "--format", "$(REPO_URI)"], timeout=60).stdout.splitlines()
    except (BadInput, ProcessFailed) as error:
        raise BadInput(
            "the base image is made from Debian packages, which needs apt",
            remedy="give a base by digest instead: carwright images build --base REFERENCE@sha256:...",
        ) from error
    uris = dict.fromkeys(line.strip().rstrip("/") for line in listed)
    mirrors = [uri for uri in uris if uri.endswith(("/debian", "/debian-security"))]
    if not mirrors:
        raise BadInput(
            "this machine's apt has no Debian mirror configured",
            remedy="give a base by digest: carwright images build --base",
        )
    return mirrors


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
