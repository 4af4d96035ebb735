"""The files around the shards: config.json, the index, and everything that is taken over as it is."""

from __future__ import annotations

import json
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Final

from containers.checkpoint_files import CONFIG, INDEX_SUFFIX, SHARD_SUFFIX

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from containers.quantize.checkpoint import Checkpoint
    from containers.quantize.groups import Group
    from containers.quantize.schemes import Scheme

_MISTRAL_CONFIG: Final = "params.json"  # belongs to the consolidated weights, and misleads vLLM without them


def quantization_config(scheme: Scheme, ignore: Sequence[str]) -> dict[str, Any]:
    """What `model_free_ptq` writes into config.json for a preset scheme (its `update_config`)."""
    import torch
    from compressed_tensors.compressors.format import infer_module_format
    from compressed_tensors.quantization import QuantizationConfig, QuantizationStatus, preset_name_to_scheme

    preset = preset_name_to_scheme(scheme.name, ["Linear"])
    preset.format = infer_module_format(torch.nn.Linear, preset)
    config = QuantizationConfig(
        config_groups={scheme.name: preset},
        ignore=list(ignore),
        quantization_status=QuantizationStatus.COMPRESSED,
        format=preset.format.value,
    )
    return {
        "version": version("compressed-tensors"),
        "quant_method": "compressed-tensors",
        "transform_config": {},
        **config.model_dump(mode="json"),
    }


def config_json(checkpoint: Checkpoint, quantization: dict[str, Any]) -> bytes:
    """config.json with the quantization config in it."""
    return _json({**checkpoint.config, "quantization_config": quantization})


def index_json(groups: Iterable[Group], folder: str = "") -> bytes:
    """The index over the quantized shards; paths are relative to the folder that it is in."""
    outputs = [(group.path.removeprefix(f"{folder}/"), group.output.tensors) for group in groups]
    return _json(
        {
            "metadata": {"total_size": sum(tensor.size for _, tensors in outputs for tensor in tensors)},
            "weight_map": {tensor.name: path for path, tensors in outputs for tensor in tensors},
        }
    )


def copied_files(checkpoint: Checkpoint) -> list[str]:
    """The paths of the files that go along unchanged."""
    replaced = {CONFIG, checkpoint.index, *(file.path for file in checkpoint.shards), *checkpoint.left_out}
    if checkpoint.left_out:
        replaced |= {_MISTRAL_CONFIG}
    others = [file.path for file in checkpoint.files if file.path not in replaced]
    return [path for path in others if not path.endswith((SHARD_SUFFIX, INDEX_SUFFIX))]


def _json(content: Any) -> bytes:
    """Sorted and indented by 2, as llm-compressor writes its JSON files."""
    return json.dumps(content, indent=2, sort_keys=True).encode() + b"\n"
