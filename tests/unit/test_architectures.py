"""What stays unquantized of each architecture, as data."""

from __future__ import annotations

import pytest

from containers.architectures import architectures, everywhere, quantization, recipe_of
from containers.contract import Step, StepRequest
from containers.parameters import QuantizeParameters
from containers.quantize.recipe import check_entries, matches


def of(architecture: str) -> dict:
    return {"architectures": [architecture]}


def fingerprint(parameters: QuantizeParameters) -> str:
    return StepRequest(step=Step.QUANTIZE, run="r", parameters=parameters.dump()).fingerprint({"bytes_version": "1"})


@pytest.mark.parametrize(
    "architecture", ["LlamaForCausalLM", "Qwen3MoeForCausalLM", "Gemma2ForCausalLM", "Phi3VForCausalLM"]
)
def test_models_that_need_nothing_more_keep_their_fingerprints(architecture):
    """Both numbers are what version 0.2 gave, before there were recipes by architecture."""
    plain = quantization(of(architecture), "FP8_DYNAMIC")
    assert fingerprint(plain) == "c37d09c39185d5d5774dd9bac8c8447ef15294737f1dbf077424cb7f71496a9f"
    more = quantization(of(architecture), "W8A8", more=("re:.*q_proj",))
    assert fingerprint(more) == "f39188738f79e5a8c10f887aebd2401da52ea22f61e5db2abc48f09452abb607"


def test_what_stays_everywhere_is_the_default_of_a_request():
    """The default is part of fingerprints, so it is written out where requests are defined; the reasons are in the file."""
    head, embeddings, routers = everywhere().values()
    assert (*head.modules, *embeddings.modules) == QuantizeParameters().ignore
    assert all(part.why and part.served == "unquantized" for part in (head, embeddings, routers))


def test_every_entry_of_the_file_is_one_of_an_ignore_list():
    """And every part has its reason: without one the file is not read."""
    for architecture in (*architectures(), "NobodyHasSeenThis"):
        check_entries(recipe_of(of(architecture)).ignore)


@pytest.mark.parametrize(
    ("architecture", "stays", "goes"),
    [
        ("Gemma3ForConditionalGeneration", "model.vision_tower.vision_model.encoder.layers.0.mlp.fc1", "model.language_model.layers.0.mlp.up_proj"),
        ("Qwen2_5_VLForConditionalGeneration", "visual.blocks.0.attn.qkv", "model.layers.0.self_attn.q_proj"),
        ("InternVLChatModel", "mlp1.1", "language_model.model.layers.0.mlp.up_proj"),
        ("InternVLChatModel", "language_model.lm_head", "language_model.model.layers.0.self_attn.o_proj"),
        ("DeepseekV3ForCausalLM", "model.layers.0.self_attn.kv_b_proj", "model.layers.0.self_attn.q_b_proj"),
        ("DeepseekV32ForCausalLM", "model.layers.0.self_attn.indexer.wk", "model.layers.0.self_attn.kv_a_proj_with_mqa"),
        ("DeepseekV3ForCausalLM", "model.layers.61.eh_proj", "model.layers.61.mlp.experts.0.up_proj"),
        ("JambaForCausalLM", "model.layers.0.mamba.dt_proj", "model.layers.0.feed_forward.up_proj"),
        ("Mamba2ForCausalLM", "backbone.layers.0.mixer.conv1d", "backbone.layers.0.mixer.in_proj"),
        ("Qwen3NextForCausalLM", "model.layers.0.linear_attn.in_proj_ba", "model.layers.3.self_attn.q_proj"),
        ("Qwen3NextForCausalLM", "mtp.layers.0.self_attn.q_proj", "model.layers.0.mlp.experts.0.up_proj"),
        ("Qwen3_5ForConditionalGeneration", "model.language_model.layers.0.linear_attn.in_proj_a", "model.language_model.layers.0.linear_attn.in_proj_qkv"),
        ("Gemma4ForCausalLM", "model.layers.0.router.proj", "model.layers.0.experts.0.up_proj"),
        ("GraniteMoeForCausalLM", "model.layers.0.block_sparse_moe.input_linear", "model.layers.0.self_attn.q_proj"),
        ("GraniteMoeForCausalLM", "model.layers.0.block_sparse_moe.experts.0.w1", "model.layers.0.self_attn.q_proj"),
        ("NobodyHasSeenThis", "model.vision_backbone.blocks.0.fc1", "model.layers.0.self_attn.q_proj"),
        ("NobodyHasSeenThis", "model.layers.0.moe.router.weight_proj", "model.layers.0.moe.experts.0.up_proj"),
        ("NobodyHasSeenThis", "transformer.wte", "transformer.h.0.mlp.c_fc"),
    ],
)  # fmt: skip
def test_what_stays_and_what_does_not(architecture, stays, goes):
    """By names as published checkpoints and vLLM have them."""
    ignore = recipe_of(of(architecture)).ignore
    assert any(matches(stays, entry) for entry in ignore)
    assert not any(matches(goes, entry) for entry in ignore)


def test_a_users_list_adds_to_the_recipe_or_takes_its_place():
    """`--ignore` and `--ignore-only`."""
    model = of("JambaForCausalLM")
    recipe = recipe_of(model).ignore
    assert quantization(model, "FP8_DYNAMIC", more=("x", "lm_head")).ignore == (*recipe, "x")
    assert quantization(model, "FP8_DYNAMIC", only=("y",)).ignore == ("y",)
    assert quantization(model, "FP8_DYNAMIC", only=("y",), more=("x",)).ignore == ("y", "x")


@pytest.mark.parametrize(
    "config", [{}, {"architectures": []}, {"architectures": [7]}, {"architectures": "LlamaForCausalLM"}]
)
def test_a_configuration_without_an_architecture_gets_the_careful_default(config):
    """Whatever it has in its place."""
    recipe = recipe_of(config)
    assert not recipe.known
    assert recipe.architecture == "unknown"
    assert len(recipe.ignore) > len(QuantizeParameters().ignore)
