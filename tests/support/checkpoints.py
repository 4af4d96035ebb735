"""Small checkpoints in Hugging Face layout, written by hand: no torch, and no code of the product."""

from __future__ import annotations

import json
import random
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

Shapes = dict[str, tuple[int, ...]]
SIZES = {"BF16": 2, "F16": 2, "F32": 4, "F64": 8, "I8": 1, "F8_E4M3": 1}


def layer(index: int, hidden: int = 32, inner: int = 64) -> Shapes:
    """One layer of a Llama."""
    name = f"model.layers.{index}"
    return {
        f"{name}.input_layernorm.weight": (hidden,),
        f"{name}.mlp.down_proj.weight": (hidden, inner),
        f"{name}.mlp.gate_proj.weight": (inner, hidden),
        f"{name}.mlp.up_proj.weight": (inner, hidden),
        f"{name}.post_attention_layernorm.weight": (hidden,),
        f"{name}.self_attn.k_proj.weight": (hidden, hidden),
        f"{name}.self_attn.o_proj.weight": (hidden, hidden),
        f"{name}.self_attn.q_proj.weight": (hidden, hidden),
        f"{name}.self_attn.v_proj.weight": (hidden, hidden),
    }


def ends(hidden: int = 32, vocabulary: int = 48) -> Shapes:
    return {
        "model.embed_tokens.weight": (vocabulary, hidden),
        "lm_head.weight": (vocabulary, hidden),
        "model.norm.weight": (hidden,),
    }


def header(shapes: Shapes, dtypes: Mapping[str, str] | str = "BF16") -> tuple[bytes, int]:
    """The front of a shard, and how many bytes follow."""
    content: dict[str, Any] = {}
    end = 0
    for name, shape in shapes.items():
        dtype = dtypes if isinstance(dtypes, str) else dtypes.get(name, "BF16")
        size = SIZES[dtype]
        for side in shape:
            size *= side
        content[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(content).encode()
    return len(text).to_bytes(8, "little") + text, end


def write(
    folder: Path,
    shards: list[Shapes],
    config: dict[str, Any] | None = None,
    *,
    dtypes: Mapping[str, str] | str = "BF16",
    weight_map: Mapping[str, str] | None = None,
    sparse: bool = False,
) -> Path:
    """A checkpoint; `sparse` files have holes instead of weights. BF16 values lie between 0.0078 and 2, half negative."""
    folder.mkdir(parents=True, exist_ok=True)
    names = (
        ["model.safetensors"]
        if len(shards) == 1 and weight_map is None
        else [f"model-{at + 1:05d}-of-{len(shards):05d}.safetensors" for at in range(len(shards))]
    )
    owners = {}
    for at, (name, shapes) in enumerate(zip(names, shards, strict=True)):
        front, size = header(shapes, dtypes)
        with (folder / name).open("wb") as file:
            file.write(front)
            if sparse:
                file.truncate(len(front) + size)
            else:
                file.write(values(size // 2, seed=at))
        owners |= dict.fromkeys(shapes, name)
    if names != ["model.safetensors"]:
        index = {"metadata": {}, "weight_map": dict(owners if weight_map is None else weight_map)}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "config.json").write_text(json.dumps({"architectures": ["LlamaForCausalLM"]} | (config or {})))
    (folder / "tokenizer.json").write_text("{}")
    return folder


def values(count: int, seed: int) -> bytes:
    """BF16 numbers: sign and mantissa at random, exponents from 2^-7 to 2^0."""
    random_bytes = random.Random(seed).randbytes(2 * count)
    raw = bytearray(random_bytes)
    raw[1::2] = bytes((byte & 0x80) | 0x3C | (byte & 0x03) for byte in raw[1::2])
    return bytes(raw)
