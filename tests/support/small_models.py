"""Small models of many architectures, made with transformers' own classes, and what the quantize step makes of them.

Runs inside the environment of the quantize step: `python tests/support/small_models.py FOLDER NAME...` makes each in
FOLDER/NAME/source and quantizes it into FOLDER/NAME/quantized, and prints a line of JSON for each. The names of `REFUSED` are
quantized by llm-compressor itself, with lists that the step refuses: what it says of them is held against vLLM.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

import torch
import transformers
from llmcompressor import model_free_ptq
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText

from containers.architectures import quantization
from containers.errors import BadInput
from containers.parameters import QuantizeParameters
from containers.quantize.checkpoint import FolderFiles
from containers.quantize.plan import make_plan
from containers.quantize.preflight import prepare
from tests.support.quantize_lab import quantize_folder

TEXT = {
    "vocab_size": 256,
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "max_position_embeddings": 256,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
VISION = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": 28,
    "patch_size": 14,
}
QWEN_VISION = {"depth": 2, "hidden_size": 64, "num_heads": 4, "intermediate_size": 128, "out_hidden_size": 128}
ABSENT = "absent"  # for a setting that the class does not have
ROPE = {"rope_type": "default", "rope_theta": 10000.0}
MROPE = {**ROPE, "mrope_section": [4, 6, 6]}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 128}
LATENT = {
    "q_lora_rank": 64,
    "kv_lora_rank": 64,
    "qk_nope_head_dim": 32,
    "qk_rope_head_dim": 32,
    "v_head_dim": 32,
    "head_dim": 32,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "n_shared_experts": 1,
    "moe_intermediate_size": 128,
    "first_k_dense_replace": 1,
    "n_group": 2,
    "topk_group": 1,
}
MAMBA = {"mamba_d_state": 16, "mamba_d_conv": 4, "mamba_expand": 2}
GDN = {
    "linear_num_value_heads": 4,
    "linear_num_key_heads": 2,
    "linear_key_head_dim": 32,
    "linear_value_head_dim": 32,
    "layer_types": ["linear_attention", "full_attention"],
}

# name: (model_type, settings on top of TEXT, or all of them where they are nested); `text_config` gets TEXT, too
MODELS: dict[str, tuple[str, dict]] = {
    "llama": ("llama", {}),
    "mistral": ("mistral", {"sliding_window": None}),
    "qwen2": ("qwen2", {"tie_word_embeddings": True}),
    "qwen3": ("qwen3", {}),
    "qwen2-moe": ("qwen2_moe", {**EXPERTS, "shared_expert_intermediate_size": 128, "decoder_sparse_step": 1}),
    "qwen3-moe": ("qwen3_moe", {**EXPERTS, "decoder_sparse_step": 1, "mlp_only_layers": []}),
    "mixtral": ("mixtral", {"num_local_experts": 4, "num_experts_per_tok": 2}),
    "olmoe": ("olmoe", {"num_experts": 4, "num_experts_per_tok": 2}),
    "gemma2": ("gemma2", {"query_pre_attn_scalar": 32}),
    "gemma3": ("gemma3_text", {"query_pre_attn_scalar": 32, "sliding_window": 64}),
    "gemma3-vision": (
        "gemma3",
        {
            "text_config": {"query_pre_attn_scalar": 32, "sliding_window": 64},
            "vision_config": {**VISION, "model_type": "siglip_vision_model", "vision_use_head": False},
            "mm_tokens_per_image": 4,
        },
    ),
    "gemma4-moe": (
        "gemma4_text",
        {"enable_moe_block": True, "num_experts": 4, "top_k_experts": 2, "moe_intermediate_size": 128,
         "hidden_size_per_layer_input": 0, "global_head_dim": 32, "sliding_window": 64,
         "layer_types": ["sliding_attention", "full_attention"], "num_kv_shared_layers": 0},
    ),
    "qwen2-vl": (
        "qwen2_vl",
        {"text_config": {"rope_parameters": MROPE},
         "vision_config": {"depth": 2, "embed_dim": 64, "hidden_size": 128, "num_heads": 4, "mlp_ratio": 2}},
    ),
    "qwen2.5-vl": (
        "qwen2_5_vl",
        {"text_config": {"rope_parameters": MROPE},
         "vision_config": {**QWEN_VISION, "fullatt_block_indexes": [1]}},
    ),
    "qwen3-vl": (
        "qwen3_vl",
        {"text_config": {"rope_parameters": {**MROPE, "mrope_interleaved": True}},
         "vision_config": {**QWEN_VISION, "num_position_embeddings": 16, "deepstack_visual_indexes": [0]}},
    ),
    "llava": (
        "llava",
        {"text_config": {"model_type": "llama"}, "vision_config": {**VISION, "model_type": "clip_vision_model"},
         "vision_feature_layer": -2},
    ),
    "internvl": (
        "internvl",
        {"text_config": {"model_type": "qwen2"},
         "vision_config": {**VISION, "image_size": [28, 28], "patch_size": [14, 14]}},
    ),
    "idefics3": ("idefics3", {"text_config": {"model_type": "llama"}, "vision_config": VISION, "scale_factor": 1}),
    "deepseek-v2": ("deepseek_v2", {**LATENT, "topk_method": "greedy", "num_key_value_heads": 4}),
    "deepseek-v3": ("deepseek_v3", {**LATENT, "num_key_value_heads": 4, "topk_method": "noaux_tc"}),
    "granite": ("granite", {}),
    "granite-moe": ("granitemoe", {"num_local_experts": 4, "num_experts_per_tok": 2}),
    "granite-hybrid": (
        "granitemoehybrid",
        {"num_local_experts": 4, "num_experts_per_tok": 2, "shared_intermediate_size": 128, "mamba_n_heads": 8,
         "mamba_d_head": 32, "mamba_n_groups": 1, **MAMBA, "layer_types": ["mamba", "attention"]},
    ),
    "jamba": (
        "jamba",
        {**MAMBA, "mamba_dt_rank": 8, "num_experts": 4, "num_experts_per_tok": 2, "use_mamba_kernels": False,
         "num_hidden_layers": 4, "attn_layer_period": 2, "attn_layer_offset": 1, "expert_layer_period": 2,
         "expert_layer_offset": 1},
    ),
    "mamba": ("mamba", {"state_size": 16, "time_step_rank": 8, "num_hidden_layers": 2}),
    "mamba2": ("mamba2", {"state_size": 16, "num_heads": 8, "head_dim": 32, "n_groups": 1, "num_hidden_layers": 2}),
    "falcon-h1": (
        "falcon_h1",
        {"mamba_d_ssm": 256, "mamba_n_heads": 8, "mamba_d_head": 32, "mamba_n_groups": 1, **MAMBA},
    ),
    "lfm2": ("lfm2", {"layer_types": ["conv", "full_attention"], "block_auto_adjust_ff_dim": False, "conv_dim": 128, "block_dim": 128}),
    "qwen3-next": (
        "qwen3_next",
        {**EXPERTS, **GDN, "shared_expert_intermediate_size": 128, "decoder_sparse_step": 1, "mlp_only_layers": []},
    ),
    "qwen3.5": (
        "qwen3_5",
        {"text_config": {**GDN, "rope_parameters": {**MROPE, "partial_rotary_factor": 1.0, "mrope_interleaved": True}},
         "vision_config": {**QWEN_VISION, "num_position_embeddings": 16, "deepstack_visual_indexes": []}},
    ),
    "phi3": ("phi3", {}),
    "falcon": ("falcon", {"head_dim": ABSENT, "num_kv_heads": 2, "new_decoder_architecture": True, "bias": False}),
    "gpt-neox": ("gpt_neox", {}),
    "gpt-bigcode": ("gpt_bigcode", {"n_embd": 128, "n_inner": 256, "n_head": 4, "n_layer": 2, "n_positions": 256}),
    "opt": ("opt", {"ffn_dim": 256, "word_embed_proj_dim": 128}),
    "cohere": ("cohere", {}),
    "olmo2": ("olmo2", {}),
    "glm4": ("glm4", {}),
    "glm4-moe": ("glm4_moe", {**LATENT, "num_key_value_heads": 2, "q_lora_rank": None}),
    "starcoder2": ("starcoder2", {}),
    "stablelm": ("stablelm", {}),
    "gpt2": ("gpt2", {"n_embd": 128, "n_inner": 256, "n_head": 4, "n_layer": 2, "n_positions": 256}),
    "llama4": (
        "llama4_text",
        {"num_local_experts": 4, "num_experts_per_tok": 1, "intermediate_size_mlp": 256, "interleave_moe_layer_step": 1},
    ),
}  # fmt: skip

# Where transformers saves under other names than the published checkpoints have: (saved, published)
AS_PUBLISHED = dict.fromkeys(("gemma3-vision", "llava"), ("vision_tower.", "vision_tower.vision_model."))


DEFAULT = ("lm_head", "re:.*embed_tokens.*")
ROUTERS = r"re:.*\.(gate|router|shared_expert_gate)(\.layer)?$"
# name: (model, scheme, ignore list)
REFUSED = {
    "quantized head": ("llama", "FP8_DYNAMIC", DEFAULT[1:]),
    "quantized nested head": (
        "llava",
        "FP8_DYNAMIC",
        (*DEFAULT, "re:.*vision_tower.*", "re:.*multi_modal_projector.*"),
    ),
    "keys of half a block": ("llama", "FP8_BLOCK", DEFAULT),
    "keys of half a block in one matrix": ("phi3", "FP8_BLOCK", DEFAULT),
    "states of less than a block": ("mamba2", "FP8_BLOCK", (*DEFAULT, "re:.*(conv1d|embeddings|norm_f)$")),
    "quantized dt_proj": ("jamba", "FP8_DYNAMIC", (*DEFAULT, ROUTERS, "re:.*conv1d$")),
    "quantized router.proj": ("gemma4-moe", "FP8_DYNAMIC", (*DEFAULT, ROUTERS, "re:.*layernorm.*")),
    "experts ignored by half their name": ("granite-moe", "FP8_DYNAMIC", (*DEFAULT, ROUTERS, "re:.*put_linear$")),
    "inputs first": ("gpt2", "FP8_DYNAMIC", (*DEFAULT, "re:.*(wte|wpe|ln_.)$")),
}


def make(name: str, folder: Path) -> None:
    """The model's checkpoint in BF16, with random values."""
    kind, settings = MODELS[name]
    if "text_config" in settings:
        settings = {**settings, "text_config": {**TEXT, **settings["text_config"]}}
        auto = AutoModelForImageTextToText
    else:
        settings = {key: value for key, value in {**TEXT, **settings}.items() if value != ABSENT}
        auto = AutoModelForCausalLM
    torch.manual_seed(7)
    model = auto.from_config(AutoConfig.for_model(kind, **settings), dtype=torch.bfloat16)
    model.save_pretrained(folder)
    if name in AS_PUBLISHED:
        path = folder / "model.safetensors"
        old, new = AS_PUBLISHED[name]
        save_file({key.replace(old, new, 1): value for key, value in load_file(path).items()}, path, {"format": "pt"})


def refused(top: Path, name: str) -> dict:
    """What the step says of a list, and llm-compressor's result with it."""
    model, scheme, ignore = REFUSED[name]
    source = top / model / "source"
    if not source.exists():
        make(model, source)
    model_free_ptq(str(source), str(top / name / "quantized"), scheme=scheme, ignore=list(ignore), device="cpu")
    try:
        prepare(FolderFiles(source), QuantizeParameters(scheme=scheme, ignore=ignore), {})
    except BadInput as error:
        return {"name": name, "refused": str(error)}
    return {"name": name, "refused": ""}


def main() -> None:
    transformers.logging.set_verbosity_error()
    top, names = Path(sys.argv[1]), sys.argv[2:] or list(MODELS)
    with os.fdopen(os.dup(1), "w") as answers:
        os.dup2(2, 1)
        for name in names:
            if name in REFUSED:
                answers.write(json.dumps(refused(top, name)) + "\n")
                answers.flush()
                continue
            source, began = top / name / "source", time.monotonic()
            make(name, source)
            config = json.loads((source / "config.json").read_text())
            said = {"name": name, "architecture": config["architectures"][0]}
            try:
                parameters = quantization(config, "FP8_DYNAMIC")
                plan = make_plan(prepare(FolderFiles(source), parameters, {}))
                said |= {
                    "kept": [kept.reason for kept in plan.kept],
                    "quantized": plan.linear_layers,
                    "known": plan.known,
                }
                quantize_folder(source, top / name / "quantized", parameters)
            except BadInput as error:
                said["refused"] = str(error)
            answers.write(json.dumps(said | {"seconds": round(time.monotonic() - began, 1)}) + "\n")
            answers.flush()


if __name__ == "__main__":
    main()
