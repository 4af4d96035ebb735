"""Damage to a checkpoint, as it happens: each function writes a copy of a folder with one thing wrong in it.

The safetensors format (header of a little-endian u64 length and JSON with `dtype`, `shape`, `data_offsets`, then the
bytes) is read here by hand, so that the damage does not depend on the code under test.
"""

from __future__ import annotations

import json
import random
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from pathlib import Path

LAYER = "model.layers.12."


@dataclass(frozen=True)
class Tensor:
    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


def tensors(content: bytes | bytearray) -> dict[str, Tensor]:
    """Where each tensor of a safetensors file lies in it."""
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    header.pop("__metadata__", None)
    base = 8 + length
    return {
        name: Tensor(one["dtype"], tuple(one["shape"]), base + one["data_offsets"][0], base + one["data_offsets"][1])
        for name, one in header.items()
    }


@dataclass
class Damaged:
    """A copy of a checkpoint whose weights (one shard) can be changed in place; `save` writes them."""

    folder: Path
    content: bytearray
    tensors: dict[str, Tensor]

    @classmethod
    def copy(cls, checkpoint: Path, folder: Path) -> Damaged:
        shutil.copytree(checkpoint, folder)
        content = bytearray((folder / "model.safetensors").read_bytes())
        return cls(folder, content, tensors(content))

    def save(self) -> Path:
        (self.folder / "model.safetensors").write_bytes(self.content)
        return self.folder

    def names(self, prefix: str, suffix: str) -> list[str]:
        return sorted(name for name in self.tensors if name.startswith(prefix) and name.endswith(suffix))

    def view(self, name: str, dtype: type[np.generic]) -> np.ndarray:
        """The tensor's bytes, writable."""
        one = self.tensors[name]
        return np.frombuffer(
            self.content, dtype, offset=one.start, count=(one.end - one.start) // np.dtype(dtype).itemsize
        )


def scaled(checkpoint: Path, folder: Path, factor: float = 2.0, *, prefix: str = LAYER) -> Path:
    """The weight scales of the modules under `prefix` multiplied by `factor` (BF16 or F32 scales)."""
    damaged = Damaged.copy(checkpoint, folder)
    names = damaged.names(prefix, ".weight_scale")
    assert names
    for name in names:
        if damaged.tensors[name].dtype == "F32":
            damaged.view(name, np.float32)[:] *= factor
        else:
            bits = damaged.view(name, np.uint16)
            values = (bits.astype(np.uint32) << 16).view(np.float32) * np.float32(factor)
            bits[:] = ((values.view(np.uint32) + 0x8000) >> 16).astype(np.uint16)  # to the nearest BF16
    return damaged.save()


def shuffled(checkpoint: Path, folder: Path, *, name: str = LAYER + "mlp.down_proj.weight") -> Path:
    """The rows of one weight in another order, its scales left where they were."""
    damaged = Damaged.copy(checkpoint, folder)
    rows = damaged.view(name, np.uint8).reshape(damaged.tensors[name].shape[0], -1)
    rows[:] = rows[np.random.default_rng(1).permutation(len(rows))]
    return damaged.save()


def corrupted(checkpoint: Path, folder: Path, *, share: float = 1.0, finite: bool = True, prefix: str = LAYER) -> Path:
    """A share of the FP8 weight bytes under `prefix` replaced by random ones; 0x7f and 0xff are E4M3's NaN."""
    damaged = Damaged.copy(checkpoint, folder)
    rng = np.random.default_rng(2)
    names = [name for name in damaged.names(prefix, ".weight") if damaged.tensors[name].dtype == "F8_E4M3"]
    assert names
    for name in names:
        weights = damaged.view(name, np.uint8)
        chosen = rng.random(len(weights)) < share
        values = rng.integers(0, 255, len(weights), dtype=np.uint8)
        if finite:
            values[(values & 0x7F) == 0x7F] = 0
        weights[chosen] = values[chosen]
    return damaged.save()


def chat_template(
    checkpoint: Path, folder: Path, template: str = "{% for m in messages %}{{ m['content'] }}\n{% endfor %}"
) -> Path:
    """Another chat template, in the file of its own or in tokenizer_config.json."""
    shutil.copytree(checkpoint, folder)
    if (folder / "chat_template.jinja").exists():
        (folder / "chat_template.jinja").write_text(template)
    else:
        path = folder / "tokenizer_config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "chat_template": template}))
    return folder


def tokenizer(checkpoint: Path, folder: Path) -> Path:
    """Two entries of the vocabulary exchanged: every text with one of them becomes other tokens."""
    shutil.copytree(checkpoint, folder)
    path = folder / "tokenizer.json"
    told = json.loads(path.read_text())
    vocabulary = told["model"]["vocab"]
    first, second = (name for name in random.Random(3).sample(["Ġthe", "Ġof", "Ġand", "Ġto"], 2))
    vocabulary[first], vocabulary[second] = vocabulary[second], vocabulary[first]
    path.write_text(json.dumps(told))
    return folder
