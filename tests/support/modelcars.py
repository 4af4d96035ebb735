"""Small checkpoints, and a push of a folder in one call."""

from __future__ import annotations

import json
import struct
import time
from typing import TYPE_CHECKING, Any

from containers.oci.access import open_push_cache, open_repository
from containers.oci.base import empty_base
from containers.oci.modelcar import Push
from containers.oci.plan import make_plan
from containers.oci.prepare import open_bases
from containers.oci.push_cache import SETTLED
from containers.oci.reference import Reference
from containers.oci.source import CheckpointFolder

if TYPE_CHECKING:
    from pathlib import Path

    from containers.oci.modelcar import Pushed
    from containers.settings import StepSettings


def write_safetensors(path: Path, size: int = 16, fill: bytes = b"\x01") -> None:
    """A valid safetensors file with one tensor of `size` bytes (a multiple of 4)."""
    header = json.dumps({"weight": {"dtype": "F32", "shape": [size // 4], "data_offsets": [0, size]}}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + fill * size)


def write_checkpoint(folder: Path, *, shards: int = 2, size: int = 4096) -> Path:
    """A checkpoint in Hugging Face layout with an index, a licence and a nested config.json."""
    (folder / "onnx").mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"architectures": ["LlamaForCausalLM"], "model_type": "llama"}))
    (folder / "tokenizer.json").write_text("{}")
    (folder / "LICENSE").write_text("Apache License 2.0\n")
    (folder / "onnx" / "config.json").write_text('{"nested": true}')
    names = [f"model-{number:05}-of-{shards:05}.safetensors" for number in range(1, shards + 1)]
    for number, name in enumerate(names):
        write_safetensors(folder / name, size, bytes([number + 1]))
    index = {"weight_map": {f"layer.{number}.weight": name for number, name in enumerate(names)}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


def settle() -> None:
    """Let files become old enough for a push to remember their digests: younger ones may still change unnoticed."""
    time.sleep(SETTLED / 1e9 + 0.1)


def push_folder(
    folder: Path, reference: str, settings: StepSettings, *, base: str | None = None, tag: str = "", **options: Any
) -> Pushed:
    """Push a folder; without a base nothing but the standard library's and our own bytes are needed."""
    memory = open_push_cache(settings)
    target = Reference.parse(reference)
    with open_repository(target, settings, cache=memory, write=True) as repository:
        source = CheckpointFolder(folder, memory)
        if base is None:
            plan = make_plan(source, (empty_base("linux/amd64"),), memory, **options)
            return Push(plan, repository, memory).run(tag or target.tag)
        with open_bases(base, ("linux/amd64",), settings) as bases:
            return Push(make_plan(source, bases, memory, **options), repository, memory).run(tag or target.tag)
