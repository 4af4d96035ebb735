"""Recompute every digest of an image from the repository's own bytes, and say which file differs."""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from containers.digest import Digest
from containers.errors import BadInput
from containers.git_lfs import POINTER_MAX, is_lfs_pointer, lfs_pointer
from containers.oci.access import open_repository, read_manifest
from containers.oci.headers import HeaderBudget
from containers.oci.layer import CHUNK, ROOT
from containers.oci.mounted import check_layers, raw_faults, tree_from
from containers.oci.raw import is_raw
from containers.oci.referrers import TITLE
from containers.oci.repository import images, read_small
from containers.oci.source import CheckpointFolder
from containers.oci.tree import clean
from containers.oci.validate import check_image, listed_files, read_layer, verified

if TYPE_CHECKING:
    import tarfile
    from collections.abc import Callable

    from containers.oci.push_cache import PushCache
    from containers.oci.repository import Repository
    from containers.oci.tree import ImageFault
    from containers.oci.types import Descriptor, ImageConfig, ImageManifest
    from containers.settings import StepSettings


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing that is not as it should be. `path` is a file of the checkpoint, or "" for the image itself."""

    path: str
    kind: Literal["changed", "missing", "extra", "damaged", "unlisted", "unsafe", "pointer"]
    message: str


@dataclass(frozen=True)
class VerifiedImage:
    """What was found: the files with their recomputed digests, and every difference."""

    reference: str
    digest: Digest
    files: dict[str, Digest]
    differences: tuple[Difference, ...]
    bytes_read: int

    @property
    def ok(self) -> bool:
        return not self.differences


@dataclass
class _ReadLayer:
    files: dict[str, Digest] = field(default_factory=dict)
    differences: list[Difference] = field(default_factory=list)
    members: list[tarfile.TarInfo] = field(default_factory=list)
    whole: bool = True

    def took(self, path: str, digest: Digest, front: bytes) -> None:
        """A file of the model, with its first bytes."""
        self.files[path] = digest
        if is_lfs_pointer(front):
            self.differences.append(Difference(path, "pointer", lfs_pointer(path).message))


_Layers = dict[tuple[Digest, Digest | None], _ReadLayer]  # by digest and diff id: platforms share those of the model


def verify(
    reference: str,
    settings: StepSettings,
    cache: PushCache,
    *,
    against: str = "",
    on_bytes: Callable[[int], None] = lambda _: None,
) -> VerifiedImage:
    """Read the whole image, of every platform, or raw artifact, and check it; `against` is a folder or another reference.

    Damage and differences are in the result, and so is what an engine would mount otherwise than it is written here
    (`containers.oci.tree`); the files are those of linux/amd64, or else of the first platform. BadInput is for what
    cannot be looked at in the first place.
    """
    layers: _Layers = {}
    differences: list[Difference] = []
    found: list[dict[str, Digest]] = []
    with open_repository(reference, settings) as repository:
        platforms = images(repository, str(read_manifest(repository).digest))
        for _, manifest in platforms:
            files, wrong = _read_image(repository, manifest, settings.registry.parallel, on_bytes, layers)
            found += [files] if files not in found else []
            differences += [one for one in wrong if one not in differences]
        sizes = {layer.digest: layer.size for _, manifest in platforms for layer in manifest.layers}
    if against:
        other = _other(against, settings, cache, on_bytes)
        for files in found:
            differences += [one for one in _compare(files, other, against) if one not in differences]
    return VerifiedImage(
        reference, platforms[0][0].digest, dict(sorted(found[0].items())), tuple(differences), sum(sizes.values())
    )


def _read_image(
    repository: Repository, manifest: ImageManifest, parallel: int, on_bytes: Callable[[int], None], layers: _Layers
) -> tuple[dict[str, Digest], list[Difference]]:
    differences: list[Difference] = []
    ids: tuple[Digest | None, ...] = (None,) * len(manifest.layers)
    raw = is_raw(manifest)
    config: ImageConfig | None = None
    try:
        content = read_small(repository, manifest.config)
        if not raw:
            config = check_image(manifest, content)
            ids = config.rootfs.diff_ids
    except BadInput as error:
        differences.append(Difference("", "damaged", error.message))
    wanted = list(zip(manifest.layers if raw else check_layers(manifest), ids, strict=True))
    budget = HeaderBudget()
    with ThreadPoolExecutor(parallel, thread_name_prefix="verify") as pool:
        read = {
            (layer.digest, diff_id): pool.submit(_read_raw, repository, layer, on_bytes)
            if raw
            else pool.submit(_read_tar, repository, layer, diff_id, on_bytes, budget)
            for layer, diff_id in wanted
            if (layer.digest, diff_id) not in layers
        }
        layers |= {key: one.result() for key, one in read.items()}
    files: dict[str, Digest] = {}
    parts = [layers[layer.digest, diff_id] for layer, diff_id in wanted]
    for layer in parts:
        differences += layer.differences
        files |= layer.files
    faults: tuple[ImageFault, ...] = ()
    if raw:
        faults = raw_faults(manifest)
    elif all(layer.whole for layer in parts):
        faults = tree_from(manifest, config, [layer.members for layer in parts]).faults
    named = {one.path for one in differences}  # what a list says otherwise has been told by its digests
    differences += [Difference(one.member, "unsafe", one.message) for one in faults if one.member not in named]
    return files, differences


def _read_tar(
    repository: Repository,
    layer: Descriptor,
    diff_id: Digest | None,
    on_bytes: Callable[[int], None],
    budget: HeaderBudget,
) -> _ReadLayer:
    """One layer: the digest of each file under /models, held against the layer's own list."""
    result = _ReadLayer()

    def take(member: tarfile.TarInfo, content: Any) -> None:
        path = clean(member.name)
        result.members.append(member)
        if content is None:
            return
        digest, front = hashlib.sha256(), b""
        while chunk := content.read(CHUNK):
            front = front or chunk[:POINTER_MAX]
            digest.update(chunk)
            on_bytes(len(chunk))
        if path.startswith(f"{ROOT}/"):
            result.took(path.removeprefix(f"{ROOT}/"), Digest(digest.hexdigest()), front)

    listed = {file.path: file.sha256 for file in listed_files(layer)}
    try:
        read_layer(repository, layer, diff_id, take, budget)
    except BadInput as error:
        result.whole = False
        wrong = [path for path, digest in listed.items() if result.files.get(path) != digest]
        result.differences += [Difference(path, "damaged", error.message) for path in wrong or sorted(listed) or [""]]
        return result
    for path, digest in listed.items():
        actual = result.files.get(path)
        if actual != digest:
            result.differences.append(
                Difference(path, "changed" if actual else "missing", f"{path} is {actual}, and listed as {digest}")
            )
    if listed:
        result.differences += [
            Difference(path, "unlisted", f"{path} is in {layer.digest}, which does not list it")
            for path in result.files.keys() - listed.keys()
        ]
    return result


def _read_raw(repository: Repository, layer: Descriptor, on_bytes: Callable[[int], None]) -> _ReadLayer:
    path = layer.annotations.get(TITLE, str(layer.digest))
    result, front = _ReadLayer({path: layer.digest}), b""
    try:
        with repository.read_blob(layer.digest) as chunks:
            for chunk in verified(chunks, layer, str(repository.reference.target)):
                front = front or chunk[:POINTER_MAX]
                on_bytes(len(chunk))
        result.took(path, layer.digest, front)
    except BadInput as error:
        result.differences.append(Difference(path, "damaged", error.message))
    return result


def _other(
    against: str, settings: StepSettings, cache: PushCache, on_bytes: Callable[[int], None]
) -> dict[str, Digest]:
    """The digests of the other side: a folder's files, or a whole other image, read in the same way."""
    folder = Path(against)
    if not folder.is_dir():
        return verify(against, settings, cache, on_bytes=on_bytes).files
    source = CheckpointFolder(folder, cache)
    found: dict[str, Digest] = {}
    for file in source.files:
        digest = hashlib.sha256()
        stream = source.open(file.path)
        try:
            while chunk := stream.read(CHUNK):
                digest.update(chunk)
        finally:
            stream.close()
        found[file.path] = Digest(digest.hexdigest())
    return found


def _compare(found: dict[str, Digest], other: dict[str, Digest], against: str) -> list[Difference]:
    differences: list[Difference] = []
    for path in sorted(found.keys() | other.keys()):
        here, there = found.get(path), other.get(path)
        if here == there:
            continue
        if here is None:
            differences.append(Difference(path, "missing", f"{path} is in {against} and not in the image"))
        elif there is None:
            differences.append(Difference(path, "extra", f"{path} is in the image and not in {against}"))
        else:
            differences.append(Difference(path, "changed", f"{path} is {here} in the image and {there} in {against}"))
    return differences
