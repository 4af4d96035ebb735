"""Inspects, loads and clears away Carwright's images in the local container engine."""

from __future__ import annotations

import hashlib
import io
import json
import re
import tarfile
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from containers.errors import Error
from containers.labels import LABEL
from infra.container_engine.failures import translated_errors

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import timedelta
    from pathlib import Path

    from infra.container_engine.client import ContainerEngine

INPUTS = f"{LABEL}inputs"
_SECOND = 1_000_000_000  # nanoseconds
_HEALTH = re.compile(r"HEALTHCHECK (?P<options>(--\S+ )*)CMD (?P<command>\[.*\])")
_OPTION = re.compile(r"--(interval|timeout|start-period)=(\d+)([sm])")


def labels_of(engine: ContainerEngine, name: str) -> Mapping[str, str]:
    """The labels of an image in the container engine; empty if it does not exist."""
    if not engine.has_image(name):
        return {}
    with translated_errors(f"look at the image {name}"):
        labels: Mapping[str, str] | None = engine.api.inspect_image(name)["Config"]["Labels"]
    return labels or {}


def load(engine: ContainerEngine, archive: Path) -> None:
    """Load an image that `Buildah.export` wrote, adding its HEALTHCHECK."""
    add_health(archive)
    with translated_errors(f"load {archive.name}"), archive.open("rb") as file:
        for message in engine.api.load_image(file):
            if "error" in message:
                raise OSError(message["error"])


@dataclass(frozen=True)
class OldImage:
    """An image that Carwright built and that has no name any more: one from newer inputs has taken it. `age` in seconds since it
    was built, `size` in bytes with the layers that it shares.
    """

    id: str
    age: float
    size: int


def old_images(engine: ContainerEngine, older: timedelta) -> list[OldImage]:
    """Those that no container was made from, stopped ones included."""
    with translated_errors("list images"):
        found = engine.api.images(filters={"label": INPUTS, "dangling": True})
        used = {one["ImageID"] for one in engine.api.containers(all=True)}
    ages = [(one, engine.now() - one["Created"]) for one in found if one["Id"] not in used]
    return [OldImage(one["Id"], age, one["Size"]) for one, age in ages if age >= older.total_seconds()]


def remove_image(engine: ContainerEngine, one: OldImage) -> bool:
    """Remove it; False when the engine refuses, as it does when something was made from it meanwhile."""
    try:
        with translated_errors(f"remove the image {one.id}"):
            engine.api.remove_image(one.id)
    except Error:
        return False
    return True


def add_health(archive: Path) -> None:
    """Add the HEALTHCHECK that the history names to an image in `docker save` layout, if it has one.

    The new settings follow the old ones in the tar: when it is unpacked, the later file counts.
    """
    with tarfile.open(archive) as there:
        manifests = json.loads(_read(there, "manifest.json"))
        config: dict[str, Any] = json.loads(_read(there, manifests[0]["Config"]))
    health = healthcheck(config)
    if not health:
        return
    config["config"]["Healthcheck"] = health
    content = json.dumps(config).encode()
    manifests[0]["Config"] = f"{hashlib.sha256(content).hexdigest()}.json"
    with tarfile.open(archive, "a") as there:
        for name, data in ((manifests[0]["Config"], content), ("manifest.json", json.dumps(manifests).encode())):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            there.addfile(member, io.BytesIO(data))


def healthcheck(config: dict[str, Any]) -> dict[str, Any]:
    """Docker's form of the last HEALTHCHECK in an image's history; durations become nanoseconds."""
    found: dict[str, Any] = {}
    for entry in config.get("history", []):
        match = _HEALTH.search(entry.get("created_by", ""))
        if match is not None:
            found = {"Test": ["CMD", *json.loads(match["command"])]}
            for name, number, unit in _OPTION.findall(match["options"]):
                field = "".join(part.title() for part in name.split("-"))
                found[field] = int(number) * _SECOND * (60 if unit == "m" else 1)
    return found


def _read(archive: tarfile.TarFile, name: str) -> bytes:
    file = archive.extractfile(name)
    assert file is not None
    return file.read()
