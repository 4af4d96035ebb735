"""Sizing: the formula against figures that others published, and every way in which a model does not fit."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from containers.errors import BadInput
from flows.targets.model import facts, of_folder
from flows.targets.size import CONTEXT, GB, GIB, choose, fit, gpu_memory, indivisible
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
