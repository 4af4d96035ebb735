"""The raw artifact: the same files, one blob each as it is, for `ilab model download` and for ModelPack readers.

`ilab` (instructlab, src/instructlab/model/download.py) copies an artifact with skopeo and links each layer's blob under
its `org.opencontainers.image.title`. ModelPack (model-spec, docs/spec.md) wants its own media types and
`org.cncf.model.filepath`. One manifest carries both. It is tied to the modelcar in both directions, file by file: a
modelcar's layer lists the digests of its files, which are the blobs here, and each layer here names the modelcar's layer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from containers.checkpoint_files import is_legal
from containers.digest import Digest, canonical_json
from containers.labels import LABEL
from containers.oci.referrers import TITLE
from containers.oci.types import Descriptor, ImageManifest
from containers.oci.validate import listed_files

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from containers.checkpoint_files import CheckpointFile

ARTIFACT: Final = "application/vnd.cncf.model.manifest.v1+json"
CONFIG: Final = "application/vnd.cncf.model.config.v1+json"
FILEPATH: Final = "org.cncf.model.filepath"
IN_LAYER: Final = f"{LABEL}modelcar.layer"
_PREFIX: Final = "application/vnd.cncf.model."


def media_type(path: str) -> str:
    """ModelPack's media type of a raw file, by its name (specs-go/v1/mediatype.go)."""
    name = path.lower()
    if name.endswith(".safetensors"):
        kind = "weight"
    elif name.endswith(".py"):
        kind = "code"
    elif name.endswith(".md") or is_legal(path):
        kind = "doc"
    else:
        kind = "weight.config"
    return f"{_PREFIX}{kind}.v1.raw"


def is_raw(manifest: ImageManifest) -> bool:
    return manifest.artifact_type == ARTIFACT or manifest.config.media_type == CONFIG


def holds_files_of(artifact: ImageManifest, car: ImageManifest) -> bool:
    """Whether a raw artifact holds just the files that the modelcar's layers list, byte for byte."""
    listed = {(file.path, file.size, file.sha256) for layer in car.layers for file in listed_files(layer)}
    return bool(listed) and listed == {(one.annotations.get(TITLE), one.size, one.digest) for one in artifact.layers}


def compose(
    files: Sequence[tuple[CheckpointFile, Digest]],
    config: Mapping[str, Any],
    annotations: Mapping[str, str],
    modelcar: Descriptor,
) -> tuple[ImageManifest, bytes]:
    """The manifest and the configuration; `files` come with the digest of the modelcar's layer that holds them.

    The modelcar is the manifest's subject, so that the artifact is found from it.
    """
    content = canonical_json(_config([file for file, _ in files], config, annotations))
    layers = tuple(
        Descriptor(
            media_type=media_type(file.path),
            digest=_known(file),
            size=file.size,
            annotations={TITLE: file.path, FILEPATH: file.path, IN_LAYER: str(layer)},
        )
        for file, layer in files
    )
    manifest = ImageManifest(
        artifact_type=ARTIFACT,
        config=Descriptor(media_type=CONFIG, digest=Digest.of(content), size=len(content)),
        layers=layers,
        subject=modelcar,
        annotations=dict(annotations),
    )
    return manifest, content


def _config(
    files: Sequence[CheckpointFile], config: Mapping[str, Any], annotations: Mapping[str, str]
) -> dict[str, Any]:
    """ModelPack's configuration (docs/config.md); only what is certain is said."""
    said = {
        "name": annotations.get("org.opencontainers.image.title"),
        "family": config.get("model_type"),
        "revision": annotations.get("org.opencontainers.image.revision"),
        "sourceURL": annotations.get("org.opencontainers.image.source"),
    }
    licences = annotations.get("org.opencontainers.image.licenses")
    architectures = config.get("architectures")
    quantization = config.get("quantization_config")
    details: dict[str, Any] = {"format": "safetensors"}
    if isinstance(architectures, list) and architectures:
        details["architecture"] = "transformer"
    if isinstance(quantization, dict):
        details["quantization"] = str(quantization.get("format") or quantization.get("quant_method"))
    dtype = config.get("torch_dtype") or config.get("dtype")
    if isinstance(dtype, str):
        details["precision"] = dtype
    descriptor: dict[str, Any] = {key: value for key, value in said.items() if isinstance(value, str)}
    if licences:
        descriptor["licenses"] = [licences]
    return {
        "config": details,
        "descriptor": descriptor,
        "modelfs": {"type": "layers", "diffIds": [str(_known(file)) for file in files]},
    }


def _known(file: CheckpointFile) -> Digest:
    assert file.sha256 is not None, "the modelcar was pushed first, and that reads every file"
    return file.sha256
