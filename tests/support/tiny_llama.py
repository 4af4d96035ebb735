"""A Llama of two layers and 64 words, in BF16 or FP8, written without torch: what vLLM loads in no time."""

from __future__ import annotations

import json
import struct
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from pathlib import Path

HIDDEN, INNER, HEADS, LAYERS, WORDS = 64, 128, 2, 2, 64


def write_tiny_llama(
    folder: Path, *, fp8: bool = False, seed: int = 0, counting: bool = False, **config: object
) -> Path:
    """Random weights; with `fp8` laid out as FP8_DYNAMIC checkpoints are. `config` changes entries of config.json.

    With `counting` it says the word after the last one, and ends after the last word: what a smoke suite can pass.
    """
    folder.mkdir(parents=True)
    _write_tensors(folder / "model.safetensors", np.random.default_rng(seed), fp8=fp8, counting=counting)
    values = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "dtype": "bfloat16",
        "hidden_size": HIDDEN,
        "intermediate_size": INNER,
        "num_attention_heads": HEADS,
        "num_key_value_heads": 1,
        "head_dim": HIDDEN // HEADS,
        "num_hidden_layers": LAYERS,
        "vocab_size": WORDS,
        "max_position_embeddings": 512,
        "rms_norm_eps": 1e-5,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "tie_word_embeddings": not counting,
        **({"quantization_config": _scheme()} if fp8 else {}),
        **config,
    }
    (folder / "config.json").write_text(json.dumps(values, indent=1))
    _write_tokenizer(folder)
    return folder


def _scheme() -> dict[str, object]:
    """compressed-tensors' words for FP8_DYNAMIC."""
    common = {"num_bits": 8, "type": "float", "symmetric": True}
    group = {
        "targets": ["Linear"],
        "weights": {**common, "strategy": "channel", "dynamic": False},
        "input_activations": {**common, "strategy": "token", "dynamic": True},
    }
    return {
        "quant_method": "compressed-tensors",
        "format": "float-quantized",
        "quantization_status": "compressed",
        "config_groups": {"group_0": group},
        "ignore": ["lm_head"],
    }


def _write_tensors(path: Path, random: np.random.Generator, *, fp8: bool, counting: bool) -> None:
    tensors: dict[str, tuple[str, list[int], bytes]] = {}

    def bf16(name: str, values: np.ndarray) -> None:
        words = (values.astype(np.float32).view(np.uint32) >> 16).astype("<u2")
        tensors[name] = ("BF16", list(values.shape), words.tobytes())

    def linear(name: str, out: int, into: int) -> None:
        if fp8:
            codes = random.integers(0, 0x68, (out, into)) | random.choice([0, 0x80], (out, into))  # up to 16 either way
            tensors[f"{name}.weight"] = ("F8_E4M3", [out, into], codes.astype(np.uint8).tobytes())
            bf16(f"{name}.weight_scale", np.full((out, 1), 0.01))
        else:
            bf16(f"{name}.weight", random.normal(0, 0.05, (out, into)))

    key_value = HIDDEN // HEADS
    words = random.normal(0, 1, (WORDS, HIDDEN))
    bf16("model.embed_tokens.weight", words)
    if counting:  # the row of a word is the vector of the one before; after the last word comes </s>, the third
        following = np.roll(words, 1, axis=0)
        following[[0, 1, 2]] = -words[0], -words[0], words[-1]
        bf16("lm_head.weight", following / 4)
    bf16("model.norm.weight", np.ones(HIDDEN))
    for layer in range(LAYERS):
        prefix = f"model.layers.{layer}"
        for norm in ("input_layernorm", "post_attention_layernorm"):
            bf16(f"{prefix}.{norm}.weight", np.ones(HIDDEN))
        for name, out in (("q_proj", HIDDEN), ("k_proj", key_value), ("v_proj", key_value), ("o_proj", HIDDEN)):
            linear(f"{prefix}.self_attn.{name}", out, HIDDEN)
        for name, out, into in (
            ("gate_proj", INNER, HIDDEN),
            ("up_proj", INNER, HIDDEN),
            ("down_proj", HIDDEN, INNER),
        ):
            linear(f"{prefix}.mlp.{name}", out, into)

    header, offset = {}, 0
    for name, (dtype, shape, data) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [offset, offset + len(data)]}
        offset += len(data)
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(data for _, _, data in tensors.values()))


def _write_tokenizer(folder: Path) -> None:
    """Words w3 to w63 between spaces; the first three are <unk>, <s> and </s>."""
    special = ["<unk>", "<s>", "</s>"]
    vocabulary = {word: number for number, word in enumerate([*special, *(f"w{n}" for n in range(3, WORDS))])}
    added = [
        {"id": n, "content": word, "special": True}
        | dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
        for n, word in enumerate(special)
    ]
    tokenizer = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": None,
        "pre_tokenizer": {"type": "WhitespaceSplit"},
        "post_processor": None,
        "decoder": None,
        "model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": "<unk>"},
    }
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    names = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
    template = "{% for message in messages %}{{ message['content'] }} {% endfor %}"
    configuration = {"tokenizer_class": "PreTrainedTokenizerFast", "chat_template": template, **names}
    (folder / "tokenizer_config.json").write_text(json.dumps(configuration))
