"""Sizing: the formula against figures that others published, and every way in which a model does not fit."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from containers.errors import BadInput
from flows.targets.model import facts, of_folder, of_reference
from flows.targets.size import CONTEXT, GB, GIB, choose, fit, gpu_memory, indivisible
from infra.settings import Settings
from tests.support.attacks import HONEST, WEIGHTS
from tests.support.deployments import GOLDEN

if TYPE_CHECKING:
    from pathlib import Path

LLAMA_8B: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
    "max_position_embeddings": 131072,
    "torch_dtype": "bfloat16",
}
BYTES_8B = 16_060_522_496  # total_size in the index of Llama-3.1-8B


def test_llama_8b() -> None:
    """The KV cache of Llama-3.1-8B takes 128 KiB a token (2 x 32 layers x 8 heads x 128 x 2 bytes), as vLLM counts it."""
    sizing = choose(facts(LLAMA_8B, BYTES_8B, "the index"), "H100", 8192)
    assert sizing.tensor_parallel_size == 1
    assert sizing.kv_per_token == 131072
    assert sizing.weights_per_gpu == BYTES_8B
    # As vLLM's log is remembered for this model on an 80 GB card, 1.19 GiB of activations; not measured by us.
    assert sizing.reserve - CONTEXT == pytest.approx(1.19 * GIB, rel=0.05)


def test_llama_70b_in_fp8() -> None:
    """One H100 cannot hold the reference card's model, two can; the card's eight leave room for many more."""
    model = of_folder(GOLDEN / "llama-3.3-70b")
    # 70,553,706,496 parameters at a byte each, and one byte more for the two embedding matrices, which stay 16 bits wide.
    assert model.weights == pytest.approx(70_553_706_496 + 2 * 128256 * 8192, rel=0.001)
    sizing = choose(model, "H100", 32768)
    assert sizing.tensor_parallel_size == 2
    assert "needs" in sizing.tried[1]
    assert sizing.kv_per_token == 2 * 80 * 8 * 128 * 2
    assert choose(model, "H200", 32768).tensor_parallel_size == 1
    eight = choose(model, "H100", 32768, tensor_parallel_size=8)
    assert eight.kv_per_token_per_gpu * 8 == eight.kv_per_token
    assert eight.sequences > 8 / 2 * sizing.sequences  # more than the number of GPUs alone would give


def test_shapes_give_the_size_of_the_demo() -> None:
    """163,228,064 bytes is the demo's safetensors file, of which the header is no weight."""
    assert of_folder(GOLDEN / "demo").weights == pytest.approx(163_228_064, rel=0.001)


# KV heads, head size, layers and width by hand: from the models' cards and papers, or their modelling code
LEFT_TO_THE_CLASS = {
    # google/gemma-3-4b-it names neither heads nor vocabulary; its class has 8 heads, 4 of them for keys, of 256
    "gemma-3-4b": (
        {"model_type": "gemma3", "text_config": {"model_type": "gemma3_text", "hidden_size": 2560,
         "intermediate_size": 10240, "num_hidden_layers": 34, "sliding_window": 1024}},
        (4, 256, 34, 2560, 10240),
    ),
    "gemma-3 without the inner type": (
        {"model_type": "gemma3", "text_config": {"hidden_size": 2560, "intermediate_size": 10240, "num_hidden_layers": 34}},
        (4, 256, 34, 2560, 10240),
    ),
    # tiiuae/falcon-7b: one head of keys and values; -40b: eight
    "falcon-7b": (
        {"model_type": "falcon", "hidden_size": 4544, "num_attention_heads": 71, "num_hidden_layers": 32,
         "multi_query": True, "new_decoder_architecture": False, "vocab_size": 65024},
        (1, 64, 32, 4544, 4 * 4544),
    ),
    "falcon-40b": (
        {"model_type": "RefinedWeb", "hidden_size": 8192, "n_head": 128, "n_head_kv": 8, "n_layer": 60,
         "multi_query": True, "new_decoder_architecture": True, "vocab_size": 65024},
        (8, 64, 60, 8192, 4 * 8192),
    ),
    "mpt-7b": (
        {"model_type": "mpt", "d_model": 4096, "n_heads": 32, "n_layers": 32, "expansion_ratio": 4, "max_seq_len": 2048,
         "vocab_size": 50432, "attn_config": {"attn_type": "multihead_attention"}},
        (32, 128, 32, 4096, 4 * 4096),
    ),
    "mpt with grouped queries": (
        {"model_type": "mpt", "d_model": 4096, "n_heads": 32, "n_layers": 32, "vocab_size": 50432,
         "attn_config": {"kv_n_heads": 8}},
        (8, 128, 32, 4096, 4 * 4096),
    ),
    "internvl": (
        {"model_type": "internvl_chat", "architectures": ["InternVLChatModel"], "llm_config": {
            "model_type": "qwen2", "hidden_size": 3584, "num_attention_heads": 28, "num_key_value_heads": 4,
            "num_hidden_layers": 28, "intermediate_size": 18944, "vocab_size": 151674}},
        (4, 128, 28, 3584, 18944),
    ),
    "gpt-2": (
        {"model_type": "gpt2", "n_embd": 768, "n_head": 12, "n_layer": 12, "n_inner": None, "vocab_size": 50257},
        (12, 64, 12, 768, 4 * 768),
    ),
    # what is written counts, null included: as many heads of keys as there are heads
    "null": (
        {"model_type": "qwen2", "hidden_size": 1024, "num_attention_heads": 16, "num_key_value_heads": None,
         "num_hidden_layers": 2, "intermediate_size": 4096, "vocab_size": 1000},
        (16, 64, 2, 1024, 4096),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", LEFT_TO_THE_CLASS)
def test_configurations_that_leave_fields_to_their_class_are_sized(name: str) -> None:
    """And those that call them by other names, or have them further inside."""
    config, expected = LEFT_TO_THE_CLASS[name]
    model = facts(config, 10 * GB, "")
    assert (model.kv_heads, model.head_dim, model.layers, model.hidden, model.intermediate) == expected
    assert choose(model, "H100", 1024).kv_per_token == 2 * expected[2] * expected[0] * expected[1] * 2


def test_what_no_class_knows_is_still_refused() -> None:
    """A class that nobody has written down has no defaults."""
    with pytest.raises(BadInput, match="no num_attention_heads"):
        facts({"model_type": "novel", "hidden_size": 64, "num_hidden_layers": 2}, GB, "")


def test_fp8_cache_takes_half() -> None:
    """Asked for, or because the checkpoint carries scales for it."""
    model = facts(LLAMA_8B, BYTES_8B, "")
    assert choose(model, "H100", 8192, fp8_cache=True).kv_per_token == 65536
    scheme = {"quantization_config": {"kv_cache_scheme": {"num_bits": 8}, "quant_method": "compressed-tensors"}}
    assert choose(facts(LLAMA_8B | scheme, BYTES_8B, ""), "H100", 8192).kv_per_token == 65536


def test_heads_beyond_the_key_value_heads_are_copied() -> None:
    """With more GPUs than key-value heads each holds one whole head."""
    model = facts(LLAMA_8B | {"num_key_value_heads": 2}, BYTES_8B, "")
    assert fit(model, "H100", 80 * GB, 4096, 8).kv_per_token_per_gpu == 2 * 32 * 128 * 2


def test_mla_is_not_shared_out() -> None:
    """DeepSeek-V3: (512 + 64) numbers a token and layer, on every GPU: 68.6 KiB a token, the paper's 70 KB."""
    config = LLAMA_8B | {
        "num_hidden_layers": 61,
        "num_attention_heads": 128,
        "num_key_value_heads": 128,
        "kv_lora_rank": 512,
        "qk_rope_head_dim": 64,
        "intermediate_size": 18432,
    }
    sizing = fit(facts(config, 100 * GB, ""), "B200", 180 * GB, 4096, 8)
    assert sizing.kv_per_token == sizing.kv_per_token_per_gpu == 61 * 576 * 2


def test_a_window_is_not_counted_and_said() -> None:
    """Full attention is the upper bound; a window that is switched off is none."""
    assert "4096 tokens" in facts(LLAMA_8B | {"sliding_window": 4096}, 1, "").notes[0]
    assert facts(LLAMA_8B | {"sliding_window": 4096, "use_sliding_window": False}, 1, "").notes == ()


def test_the_text_part_of_a_multimodal_model_counts() -> None:
    """Its shapes are under text_config; what images take is not known, and said."""
    model = facts({"architectures": ["X"], "text_config": LLAMA_8B}, 1, "")
    assert model.layers == 32
    assert "multimodal" in model.notes[0]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"layer_types": ["linear_attention", "full_attention"]}, "linear_attention"),
        ({"is_encoder_decoder": True}, "encoder-decoder"),
        ({"num_hidden_layers": None}, "num_hidden_layers"),
        ({"hidden_size": "big"}, "hidden_size"),
    ],
)
def test_what_cannot_be_sized(change: dict[str, Any], words: str) -> None:
    """The field or the reason is named; nothing is guessed."""
    with pytest.raises(BadInput, match=words):
        facts(LLAMA_8B | change, 1, "")


def test_a_model_that_does_not_fit() -> None:
    """Every size that was tried, and what it lacked."""
    with pytest.raises(BadInput) as caught:
        choose(facts(LLAMA_8B, 800 * GB, ""), "L4", 8192)
    assert "8 x L4: needs" in caught.value.message


@pytest.mark.parametrize(
    ("heads", "kv_heads", "size", "words"), [(9, 3, 2, "9 attention"), (32, 6, 4, "6 key-value"), (32, 8, 3, "power")]
)
def test_what_cannot_be_shared_out(heads: int, kv_heads: int, size: int, words: str) -> None:
    """As vLLM would refuse it at its start."""
    model = facts(LLAMA_8B | {"num_attention_heads": heads, "num_key_value_heads": kv_heads, "head_dim": 128}, 1, "")
    assert words in indivisible(model, size)


def test_lengths_and_gpus_are_checked() -> None:
    """A longer context than the model's, a GPU that nobody knows, and one given by its memory."""
    model = facts(LLAMA_8B, BYTES_8B, "")
    with pytest.raises(BadInput, match="131072"):
        choose(model, "H100", 200_000)
    with pytest.raises(BadInput, match="H900"):
        gpu_memory("H900")
    assert gpu_memory("96gb") == 96 * GB
    assert gpu_memory("h200") == 143_771 << 20


def test_folders(tmp_path: Path) -> None:
    """The index's total counts, then the files; neither there and an architecture whose shapes we do not add up: said."""
    (tmp_path / "config.json").write_text(json.dumps(LLAMA_8B | {"model_type": "mixtral"}))
    with pytest.raises(BadInput, match="mixtral"):
        of_folder(tmp_path)
    (tmp_path / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {"total_size": 7}, "weight_map": {}})
    )
    assert of_folder(tmp_path).weights == 7
    (tmp_path / "model.safetensors").write_bytes(b"12345")
    assert of_folder(tmp_path).weights == 5
    with pytest.raises(BadInput, match="is not a folder"):
        of_folder(tmp_path / "none")


@pytest.mark.parametrize("kind", ["plain", "gzip", "buildah", "an index"])
def test_an_image_that_another_tool_built(kind: str, tmp_path: Path) -> None:
    """Its layers list nothing, and may be compressed: what is in them is what counts."""
    reference = HONEST[kind](tmp_path / "image")
    read, _ = of_reference(reference, Settings(cache=tmp_path / "cache"))
    assert read.weights == len(WEIGHTS)
    assert read.weights_from == "the files in the layers, which do not list them"
