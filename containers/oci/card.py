"""The static card of a modelcar: what it is, from where, by which recipe, how to serve it.

It is a layer of the image, so it holds only what does not change between two builds of the same thing. Scores stay
out: they are attached as referrers after the image was measured.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from containers.checkpoint_files import is_legal
from containers.events import amount

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from containers.checkpoint_files import CheckpointFile

PATH: Final = "README.md"  # in the root of the image, outside /models: it is no part of the checkpoint
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
    rows = [(label, annotations[key]) for key, label in _KNOWN.items() if key in annotations]
    rows += [(key, value) for key, value in sorted(annotations.items()) if key not in _KNOWN]
    if isinstance(architectures, list):
        rows.append(("Architecture", ", ".join(map(str, architectures))))
    rows.append(("Weights", f"{amount(sum(one.size for one in weights), 'B')} in {len(weights)} safetensors file(s)"))
    if isinstance(quantization, dict):
        method = quantization.get("format") or quantization.get("quant_method") or "yes"
        rows.append(("Quantization", f"{method} ({quantization.get('quant_method', 'unknown method')})"))
        if quantization.get("ignore"):
            rows.append(("Not quantized", f"{len(quantization['ignore'])} module(s), listed in /models/config.json"))
    legal = legal_files(files)
    rows.append(("Licence files", ", ".join(f"/models/{one}" for one in legal) or "none in the checkpoint"))
    table = "\n".join(f"| {_cell(label)} | {_cell(value)} |" for label, value in rows)
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


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())
