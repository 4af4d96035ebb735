"""The static card of a modelcar: what it is, from where, by which recipe, how to serve it.

It is a layer of the image, so it holds only what does not change between two builds of the same thing. Scores stay
out: they are attached as referrers after the image was measured. Whatever a checkpoint says of itself is shown as text.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from containers.checkpoint_files import is_legal
from containers.events import amount
from containers.foreign_values import markdown

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from containers.checkpoint_files import CheckpointFile

PATH: Final = "README.md"  # in the root of the image, outside /models: it is no part of the checkpoint
_MANY: Final = 16  # architectures
_KNOWN: Final = {
    "org.opencontainers.image.title": "Name",
    "org.opencontainers.image.source": "Source",
    "org.opencontainers.image.revision": "Revision",
    "org.opencontainers.image.version": "Version",
    "org.opencontainers.image.licenses": "Licence",
}


def legal_files(files: Sequence[CheckpointFile]) -> tuple[str, ...]:
    """Licence, notice and use policy files among the files of a checkpoint."""
    return tuple(file.path for file in files if is_legal(file.path))


def render(config: Mapping[str, Any], files: Sequence[CheckpointFile], annotations: Mapping[str, str]) -> bytes:
    """Markdown; the same for the same checkpoint and annotations."""
    quantization = config.get("quantization_config")
    weights = [file for file in files if file.path.endswith(".safetensors")]
    architectures = config.get("architectures")
    rows = [(label, markdown(annotations[key], addresses=True)) for key, label in _KNOWN.items() if key in annotations]
    rows += [
        (markdown(key), markdown(value, addresses=True))
        for key, value in sorted(annotations.items())
        if key not in _KNOWN
    ]
    if isinstance(architectures, list):
        rows.append(("Architecture", markdown(", ".join(map(str, architectures[:_MANY])))))
    rows.append(("Weights", f"{amount(sum(one.size for one in weights), 'B')} in {len(weights)} safetensors file(s)"))
    if isinstance(quantization, dict):
        method = quantization.get("format") or quantization.get("quant_method") or "yes"
        rows.append(("Quantization", markdown(f"{method} ({quantization.get('quant_method', 'unknown method')})")))
        ignored = quantization.get("ignore")
        if isinstance(ignored, list) and ignored:
            rows.append(("Not quantized", f"{len(ignored)} module(s), listed in /models/config.json"))
    legal = ", ".join(markdown(f"/models/{one}") for one in legal_files(files))
    rows.append(("Licence files", legal or "none in the checkpoint"))
    table = "\n".join(f"| {label} | {value} |" for label, value in rows)
    return f"""\
# Modelcar

The model is under `/models`. What was measured of it is attached to the image's digest as referrers.

| | |
|---|---|
{table}

## Serve it

Name the image by digest. With vLLM over the unpacked model:

    vllm serve /models

With KServe, in an InferenceService:

    storageUri: oci://REGISTRY/REPOSITORY@sha256:DIGEST

With podman, as an image volume:

    podman run --mount type=image,src=REGISTRY/REPOSITORY@sha256:DIGEST,dst=/car VLLM_IMAGE --model /car/models
""".encode()
