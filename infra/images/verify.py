"""Builds a target twice from scratch and lists the differences, if any.

The two contexts lie in folders of other names, are laid out at other times and under other umasks, the base is made anew for
each, and each has a storage of its own: no layer, file or folder of the first can reach the second.
"""

from __future__ import annotations

import hashlib
import json
import os
import tarfile
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from infra.images import disk_space
from infra.images.buildah import Buildah, Built
from infra.images.context import lay_out, revision
from infra.images.image_builder import budget

if TYPE_CHECKING:
    from infra.images.context import Inputs
    from infra.images.image_builder import ImageBuilder
    from infra.images.targets import Target

_PIECE = 1 << 20
_SHOWN = 40  # differences that are listed; more say nothing new


@dataclass(frozen=True)
class RebuiltTwice:
    """Two builds of a target; `differences` is empty if they are identical."""

    first: Built
    second: Built
    differences: tuple[str, ...]

    @property
    def same(self) -> bool:
        return not self.differences


def verify(builder: ImageBuilder, target: Target, *, fresh: bool = True) -> RebuiltTwice:
    """Build twice and compare; without `fresh` both stand on the cache's base. Raises what a build raises."""
    builder.cache.mkdir(parents=True, exist_ok=True)
    disk_space.check(builder.cache, disk_space.needed_twice(target, budget()), f"building {target.name} twice")
    inputs = builder.inputs(target)
    inputs = replace(inputs, commit=revision(inputs))  # once: somebody may commit between the two builds
    with tempfile.TemporaryDirectory(prefix=".verify-", dir=builder.cache) as scratch:
        folders = (Path(scratch, "a"), Path(scratch, "another", "folder"))
        built = [
            _build(builder, inputs, folder, umask, fresh=fresh)
            for folder, umask in zip(folders, (0o022, 0o077), strict=True)
        ]
        storages = [Buildah.open_storage(folder / "storage") for folder in folders]
        try:
            if (built[0].image_id, built[0].digest) == (built[1].image_id, built[1].digest):
                return RebuiltTwice(built[0], built[1], ())
            archives = [folder / "image.tar" for folder in folders]
            for storage, image, archive in zip(storages, built, archives, strict=True):
                storage.export(image, archive, builder.name(target))
            return RebuiltTwice(built[0], built[1], tuple(compare(*archives)[:_SHOWN]))
        finally:
            for storage in storages:
                storage.remove_all()


def _build(builder: ImageBuilder, inputs: Inputs, folder: Path, umask: int, *, fresh: bool) -> Built:
    folder.mkdir(parents=True)
    target = inputs.target
    context = folder / "context"
    before = os.umask(umask)
    try:
        context.mkdir()
        lay_out(inputs, context, builder.cache, builder.wheelhouse, lambda _: None, source=builder.source, fresh=fresh)
    finally:
        os.umask(before)
    time.sleep(1.1)  # a second later at least: whole seconds are what tar and ext4 tell apart
    builder.say(target, f"building in {folder.name}, without cached layers")
    storage = Buildah.open_storage(folder / "storage")
    return storage.build(
        inputs,
        context,
        builder.stored_name(target),
        lambda event: builder.on_event(target.name, event.model_copy(update={"level": "debug"})),
        cached=False,
    )


def compare(first: Path, second: Path) -> list[str]:
    """What differs between two images in `docker save` layout: settings, layers, and in these each file."""
    found: list[str] = []
    with tarfile.open(first) as one, tarfile.open(second) as two:
        manifests = [json.loads(_read(archive, "manifest.json"))[0] for archive in (one, two)]
        configs = [
            json.loads(_read(archive, manifest["Config"]))
            for archive, manifest in zip((one, two), manifests, strict=True)
        ]
        layers = [manifest["Layers"] for manifest in manifests]
        if len(layers[0]) != len(layers[1]):
            found.append(f"layers: {len(layers[0])} and {len(layers[1])}")
        for number, names in enumerate(zip(*layers, strict=False)):
            if configs[0]["rootfs"]["diff_ids"][number] != configs[1]["rootfs"]["diff_ids"][number]:
                entries = [_entries(archive, name) for archive, name in zip((one, two), names, strict=True)]
                found += [f"layer {number}: {line}" for line in differing(*entries)]
        for config in configs:
            config.pop("rootfs")
        found += differing(*({key: json.dumps(value) for key, value in _flat(config).items()} for config in configs))
    return found or ["the manifests alone differ"]


def differing(first: dict[str, str], second: dict[str, str]) -> list[str]:
    """Lines for what is in one alone, or in both with another value."""
    lines = [f"{name}: only in the first" for name in sorted(first.keys() - second.keys())]
    lines += [f"{name}: only in the second" for name in sorted(second.keys() - first.keys())]
    both = sorted(name for name in first.keys() & second.keys() if first[name] != second[name])
    lines += [f"{name}: {first[name]} and {second[name]}" for name in both]
    if not lines and list(first) != list(second):
        lines.append("the order of the files")
    return lines


def _entries(archive: tarfile.TarFile, name: str) -> dict[str, str]:
    """Path -> all that the tar says of it, in the order of the layer."""
    stream = archive.extractfile(name)
    assert stream is not None
    found: dict[str, str] = {}
    with stream, tarfile.open(fileobj=stream) as layer:
        for member in layer:
            facts = f"{member.type.decode()} {member.mode:o} {member.uid}:{member.gid} {member.mtime} {member.linkname}"
            content = layer.extractfile(member) if member.isreg() else None
            if content is not None:
                digest = hashlib.sha256()
                while piece := content.read(_PIECE):
                    digest.update(piece)
                facts += f" {member.size} bytes {digest.hexdigest()[:12]}"
            found[member.name] = facts.rstrip()
    return found


def _flat(value: Any, path: str = "config") -> dict[str, Any]:
    if isinstance(value, dict):
        return {key: leaf for name in value for key, leaf in _flat(value[name], f"{path}.{name}").items()}
    if isinstance(value, list):
        return {key: leaf for number, one in enumerate(value) for key, leaf in _flat(one, f"{path}[{number}]").items()}
    return {path: value}


def _read(archive: tarfile.TarFile, name: str) -> bytes:
    file = archive.extractfile(name)
    assert file is not None
    return file.read()
