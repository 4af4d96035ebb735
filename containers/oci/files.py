"""Single files of the model in an image or a raw artifact, and how large its weights are; weights are not read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from containers.errors import BadInput
from containers.foreign_json import TENSORS
from containers.oci.layer import ROOT
from containers.oci.raw import is_raw
from containers.oci.referrers import TITLE
from containers.oci.repository import read_config, read_small
from containers.oci.validate import listed_files, read_layer

if TYPE_CHECKING:
    import tarfile

    from containers.oci.repository import Repository
    from containers.oci.types import ImageManifest

BIG: Final = 64 << 20  # bytes; larger layers are not read for a small file
_WEIGHTS: Final = ".safetensors"


@dataclass(frozen=True)
class Weights:
    """Bytes of the safetensors files; not `exact` when layers that do not list their files had to be counted whole."""

    size: int
    exact: bool


def read_model_file(repository: Repository, manifest: ImageManifest, path: str) -> bytes:
    """A small file below /models, verified, from the layer that holds it; raises BadInput when there is none."""
    if is_raw(manifest):
        for layer in manifest.layers:
            if layer.annotations.get(TITLE) == path:
                return read_small(repository, layer, BIG)
        raise BadInput(f"{repository.reference} has no file {path}")
    found: list[bytes] = []

    def take(member: tarfile.TarInfo, content: Any) -> None:
        if content is not None and member.name.removeprefix("./").removeprefix("/") == f"{ROOT}/{path}":
            if member.size > TENSORS.size:
                raise BadInput(f"{path} has {member.size} bytes, and at most {TENSORS.size} are read")
            found[:] = [content.read()]

    for layer, diff_id in zip(manifest.layers, read_config(repository, manifest).rootfs.diff_ids, strict=True):
        listed = {file.path for file in listed_files(layer)}
        if layer.size <= BIG and (path in listed or not listed):
            read_layer(repository, layer, diff_id, take)
    if not found:
        raise BadInput(f"there is no {path} in a layer of up to {BIG >> 20} MiB")
    return found[0]


def weights(manifest: ImageManifest) -> Weights:
    """From the manifest alone: what its layers list, or else the size of every layer that may hold weights."""
    if is_raw(manifest):
        sizes = [layer.size for layer in manifest.layers if layer.annotations.get(TITLE, "").endswith(_WEIGHTS)]
        return Weights(sum(sizes), exact=True)
    known = [file.size for layer in manifest.layers for file in listed_files(layer) if file.path.endswith(_WEIGHTS)]
    if known:
        return Weights(sum(known), exact=True)
    return Weights(sum(layer.size for layer in manifest.layers if layer.size > BIG), exact=False)
