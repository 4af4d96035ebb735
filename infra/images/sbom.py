"""The bill of materials of an image: CycloneDX 1.7 (cyclonedx.org/docs/1.7/json), from what the image is made from.

Python packages come from the hash locks, Debian packages from base.lock or, where a base has more, from its own record
(dpkg's status). It has no time: the same inputs give the same bytes, so it lies in the image at /opt/carwright/sbom.cdx.json
(Containerfile), where scanners find it, and `carwright images sbom` prints the same.
"""

from __future__ import annotations

import json
import re
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

from containers.digest import canonical_json
from containers.labels import LABEL
from infra.images import debian

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from infra.images.debian import Deb
    from infra.images.locked import Package
    from infra.images.targets import Target

FILE: Final = "sbom.cdx.json"
_DISTRIBUTION: Final = "debian-12"
_FIELD: Final = re.compile(r"(?m)^(Package|Status|Version): (.*)$")


@dataclass(frozen=True, order=True)
class Component:
    """One package: `ecosystem` is PyPI or Debian. `hashes` are the sha256 of each file that may be it; empty where the
    record of a base says none.
    """

    ecosystem: str
    name: str
    version: str
    hashes: tuple[str, ...] = ()

    @property
    def purl(self) -> str:
        """Its package URL (github.com/package-url/purl-spec)."""
        version = quote(self.version, safe="")
        if self.ecosystem == "PyPI":
            return f"pkg:pypi/{self.name}@{version}"
        query = f"arch={debian.ARCHITECTURE}&distro={_DISTRIBUTION}"
        return f"pkg:deb/debian/{quote(self.name)}@{version}?{query}"

    def document(self) -> dict[str, Any]:
        told: dict[str, Any] = {
            "type": "library",
            "bom-ref": self.purl,
            "name": self.name,
            "version": self.version,
            "purl": self.purl,
        }
        if len(self.hashes) == 1:
            told["hashes"] = [{"alg": "SHA-256", "content": self.hashes[0]}]
        elif self.hashes:  # which of the locked files it is depends on the machine
            told["properties"] = [{"name": f"{LABEL}sha256", "value": one} for one in self.hashes]
        return told


def components(packages: Iterable[Package], debs: Iterable[Deb], status: str = "") -> list[Component]:
    """What is installed in an image, sorted; `status` is dpkg's record of a base that has packages of its own."""
    found = {
        ("PyPI", one.name): Component("PyPI", one.name, one.version, tuple(sorted(one.hashes))) for one in packages
    }
    found |= {("Debian", name): Component("Debian", name, version) for name, version in installed(status)}
    found |= {("Debian", one.name): Component("Debian", one.name, one.version, (one.sha256,)) for one in debs}
    return sorted(found.values())


def installed(status: str) -> Iterator[tuple[str, str]]:
    """Name and version of each installed package in dpkg's record (deb822)."""
    for stanza in status.split("\n\n"):
        fields = dict(_FIELD.findall(stanza))
        if fields.get("Status", "").endswith(" installed") and {"Package", "Version"} <= fields.keys():
            yield fields["Package"], fields["Version"]


def write(target: Target, contents: Iterable[Component], pulled: Sequence[str], *, complete: bool) -> bytes:
    """The bill of materials of an image. `pulled` are the images that it is made from, by digest; it is not `complete` where
    nobody here knows what those hold.
    """
    listed = [one.document() for one in contents]
    made_from = [{"type": "container", "bom-ref": one, "name": one.partition("@")[0], "version": one.partition("@")[2],
                  "hashes": [{"alg": "SHA-256", "content": one.rpartition(":")[2]}]} for one in pulled]  # fmt: skip
    image = {"type": "container", "bom-ref": f"image:{target.name}", "name": f"carwright/{target.name}"}
    told: dict[str, Any] = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.7",
        "version": 1,
        "metadata": {
            "lifecycles": [{"phase": "build"}],
            "tools": {"components": [{"type": "application", "name": "carwright"}]},
            "component": image | {"description": target.about},
        },
        "components": [*made_from, *listed],
        "dependencies": [{"ref": image["bom-ref"], "dependsOn": [one["bom-ref"] for one in (*made_from, *listed)]}],
        "compositions": [{"aggregate": "complete" if complete else "incomplete", "dependencies": [image["bom-ref"]]}],
    }
    told["serialNumber"] = f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_OID, canonical_json(told).decode())}"
    return (json.dumps(told, indent=1, sort_keys=True) + "\n").encode()
