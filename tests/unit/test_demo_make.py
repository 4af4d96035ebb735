"""How the demo checkpoint is made out of a GGUF file: the arithmetic and the configuration, on values worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from infra.demo.make import config, hf_name, rotate_back, to_bf16, tokenizer, tokenizer_config

FIELDS = {
    "llama.attention.head_count": 9,
    "llama.attention.head_count_kv": 3,
    "llama.attention.layer_norm_rms_epsilon": 9.999999747378752e-06,
    "llama.block_count": 30,
    "llama.context_length": 8192,
    "llama.embedding_length": 576,
    "llama.feed_forward_length": 1536,
    "llama.rope.freq_base": 100000.0,
    "llama.vocab_size": 4,
    "tokenizer.chat_template": "{{ messages }}",
    "tokenizer.ggml.bos_token_id": 1,
    "tokenizer.ggml.eos_token_id": 2,
    "tokenizer.ggml.merges": ["a b"],
    "tokenizer.ggml.padding_token_id": 2,
    "tokenizer.ggml.pre": "smollm",
    "tokenizer.ggml.token_type": [3, 3, 3, 1],
    "tokenizer.ggml.tokens": ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "!"],
    "tokenizer.ggml.unknown_token_id": 0,
}


@pytest.mark.parametrize(
    ("value", "bits"),
    [
        (0.0, 0x0000),
        (-0.0, 0x8000),
        (1.0, 0x3F80),
        (-2.0, 0xC000),
        (1.0 + 2**-8, 0x3F80),  # half way: to the even neighbour, below
        (1.0 + 3 * 2**-8, 0x3F82),  # half way: to the even neighbour, above
        (1.0 + 2**-8 + 2**-20, 0x3F81),  # more than half way
        (3.3895e38, 0x7F7F),  # the largest
    ],
)
def test_bf16_rounds_to_nearest_even(value: float, bits: int) -> None:
    assert to_bf16(np.array([value], dtype=np.float32)).tolist() == [bits]


def test_rows_of_q_and_k_go_back_to_halves() -> None:
    """Two heads of four rows: GGUF has 0 2 1 3, transformers 0 1 2 3."""
    rows = np.array([[0], [2], [1], [3], [10], [12], [11], [13]])
    assert rotate_back(rows, heads=2).ravel().tolist() == [0, 1, 2, 3, 10, 11, 12, 13]


@pytest.mark.parametrize(
    ("gguf", "name"),
    [
        ("token_embd.weight", "model.embed_tokens.weight"),
        ("output_norm.weight", "model.norm.weight"),
        ("blk.0.attn_q.weight", "model.layers.0.self_attn.q_proj.weight"),
        ("blk.29.ffn_norm.weight", "model.layers.29.post_attention_layernorm.weight"),
        ("blk.7.ffn_gate.weight", "model.layers.7.mlp.gate_proj.weight"),
    ],
)
def test_names(gguf: str, name: str) -> None:
    assert hf_name(gguf) == name


def test_an_unknown_tensor_is_not_passed_over() -> None:
    with pytest.raises(KeyError):
        hf_name("blk.0.ssm_in.weight")


def test_the_configuration() -> None:
    """The values of the model's own config.json; the head is tied unless the file has one."""
    made = config(FIELDS, {"model.norm.weight"})
    assert made["rms_norm_eps"] == 1e-05
    assert made["rope_theta"] == 100000.0
    assert (made["hidden_size"], made["head_dim"], made["num_key_value_heads"]) == (576, 64, 3)
    assert made["tie_word_embeddings"] is True
    assert "quantization_config" not in made
    assert config(FIELDS, {"lm_head.weight"})["tie_word_embeddings"] is False


def test_the_tokenizer_splits_digits() -> None:
    """Which transformers' own conversion forgets."""
    made = tokenizer(FIELDS)
    assert made["pre_tokenizer"]["pretokenizers"][0] == {"type": "Digits", "individual_digits": True}
    assert [token["content"] for token in made["added_tokens"]] == ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    assert made["model"]["vocab"]["!"] == 3
    assert tokenizer_config(FIELDS)["chat_template"] == "{{ messages }}"


def test_another_tokenizer_is_refused() -> None:
    with pytest.raises(SystemExit, match="unexpected pre-tokenizer 'llama-bpe'"):
        tokenizer({**FIELDS, "tokenizer.ggml.pre": "llama-bpe"})
