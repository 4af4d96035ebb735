"""The packages in a requirements.lock, with the hashes of their files."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from packaging.markers import Marker

from containers.errors import BadInput
from containers.pins import normalized

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from infra.images.targets import Target

# What the images are: markers in a lock are decided for this, whoever builds.
ENVIRONMENT: Final = {
    "implementation_name": "cpython",
    "os_name": "posix",
    "platform_machine": "x86_64",
    "platform_python_implementation": "CPython",
    "platform_system": "Linux",
    "python_full_version": "3.11.2",
    "python_version": "3.11",
    "sys_platform": "linux",
}
_PIN: Final = re.compile(r"(?P<name>[A-Za-z0-9][\w.-]*)(\[[^]]*])?==(?P<version>[^\s;\\]+)(\s*;\s*(?P<marker>[^\\]+))?")
_HASH: Final = re.compile(r"--hash=sha256:([0-9a-f]{64})")


@dataclass(frozen=True)
class Package:
    """One pin: normalized name, version, the sha256 of each file that may be it, and its lines in the lock."""

    name: str
    version: str
    hashes: frozenset[str]
    text: str


def read_packages(text: str, source: str = "the lock") -> list[Package]:
    """The packages that are installed in an image, in the lock's order. Raises BadInput for a pin without a hash."""
    found: list[Package] = []
    for block in re.split(r"(?m)^(?=[A-Za-z0-9])", text):
        match = _PIN.match(block)
        if match is None:
            continue
        hashes = frozenset(_HASH.findall(block))
        if not hashes:
            raise BadInput(f"{source}: {match['name']} has no hash", remedy="lock again: carwright images lock")
        if match["marker"] and not Marker(match["marker"].strip()).evaluate(dict(ENVIRONMENT)):
            continue
        lines = "".join(f"{line}\n" for line in block.rstrip().splitlines() if not line.lstrip().startswith("#"))
        found.append(Package(normalized(match["name"]), match["version"], hashes, lines))
    return found


def packages_of(target: Target, root: Path) -> list[Package]:
    """What is installed in the target. Raises BadInput when the lock is missing or lacks what the target names."""
    if not target.lock:
        return []
    path = root / target.lock
    try:
        packages = read_packages(path.read_text(), target.lock)
    except OSError as error:
        raise BadInput(f"cannot read the lock {path}: {error.strerror}") from error
    names = {package.name for package in packages}
    if absent := sorted({*target.only, *target.without} - names):
        raise BadInput(f"{target.lock} does not pin {', '.join(absent)}, which the image {target.name} names")
    wanted = set(target.only) or names - set(target.without)
    return [package for package in packages if package.name in wanted]


def requirements(packages: Iterable[Package]) -> str:
    """A requirements file of these packages."""
    return "".join(package.text for package in packages)
