"""Which tensors a recipe takes, and which recipes are refused before any work."""

from __future__ import annotations

import pytest

from containers.architectures import recipe_of
from containers.errors import BadInput
from containers.quantize.groups import Part
from containers.quantize.obstacles import Obstacles
from containers.quantize.recipe import ROUTERS, Reason, Recipe, check_entries
from containers.quantize.schemes import SCHEMES, scheme_named
from containers.quantize.servable import find_obstacles

DEFAULT = ("lm_head", "re:.*embed_tokens.*")
LLAMA = [
    "model.embed_tokens.weight",
    "model.layers.0.input_layernorm.weight",
    "model.layers.0.mlp.down_proj.weight",
    "model.layers.0.mlp.gate_proj.weight",
    "model.layers.0.mlp.up_proj.weight",
    "model.layers.0.self_attn.k_proj.bias",
    "model.layers.0.self_attn.k_proj.weight",
    "model.layers.0.self_attn.o_proj.weight",
    "model.layers.0.self_attn.q_proj.weight",
    "model.layers.0.self_attn.v_proj.weight",
    "lm_head.weight",
    "model.norm.weight",
]


def recipe(*ignore: str) -> Recipe:
    return Recipe(scheme_named("FP8_DYNAMIC"), ignore)


def check(asked: Recipe, names: list[str], shapes=None, architecture="LlamaForCausalLM", hidden=64) -> None:
    """What `prepare` does once it has read the headers."""
    parts = {name: Part(name, "BF16", (shapes or {}).get(name, (64, 64)), 0, 0, asked.kept(name)) for name in names}
    obstacles = Obstacles()
    find_obstacles(asked, parts, recipe_of({"architectures": [architecture]}), hidden, obstacles)
    obstacles.check()


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("model.layers.0.mlp.down_proj.weight", None),
        ("lm_head.weight", Reason.RECIPE),
        ("model.embed_tokens.weight", Reason.RECIPE),
        ("model.layers.0.input_layernorm.weight", Reason.NORM),
        ("model.norm.weight", Reason.NORM),
        ("model.layers.0.self_attn.k_proj.bias", Reason.NOT_A_WEIGHT),
        ("model.layers.0.self_attn.rotary_emb.inv_freq", Reason.NOT_A_WEIGHT),
        ("model.layers.0.mlp.gate.weight", Reason.ROUTER),
        ("model.layers.0.block_sparse_moe.gate.weight", Reason.ROUTER),
        ("model.layers.0.mlp.shared_expert_gate.weight", Reason.ROUTER),
        ("model.layers.0.feed_forward.router.weight", Reason.ROUTER),
        ("transformer.blocks.0.ffn.router.layer.weight", Reason.ROUTER),
        ("model.layers.0.mlp.gate_proj.weight", None),
        ("model.layers.0.mlp.gate_up_proj.weight", None),
    ],
)
def test_every_tensor_has_its_reason(name, reason):
    """Norms, biases, embeddings, the head and routers stay, each for its own reason."""
    assert recipe(*DEFAULT).kept(name) is reason


def test_the_config_names_routers_only_where_there_are_some():
    """A dense model's config is not littered with a pattern for routers."""
    assert recipe(*DEFAULT).effective_ignore(LLAMA) == DEFAULT
    assert recipe(*DEFAULT).effective_ignore([*LLAMA, "model.layers.0.mlp.gate.weight"]) == (*DEFAULT, ROUTERS)
    own = ("re:.*mlp.gate$", *DEFAULT)
    assert recipe(*own).effective_ignore([*LLAMA, "model.layers.0.mlp.gate.weight"]) == own


def test_entries_of_an_architecture_that_match_nothing_are_not_written_down():
    """A recipe says what may be there; the config says what is. The default's own two stay: they always have."""
    whole = recipe(*DEFAULT, "re:.*linear_attn.*", r"re:.*q_proj$")
    assert whole.effective_ignore(LLAMA, ["re:.*linear_attn.*", r"re:.*q_proj$"]) == (*DEFAULT, r"re:.*q_proj$")


def test_a_plain_recipe_covers_a_llama():
    """The default recipe is taken as it is, also for a tied checkpoint, which has no lm_head."""
    check(recipe(*DEFAULT), LLAMA)
    check(recipe(*DEFAULT), [name for name in LLAMA if name != "lm_head.weight"])


@pytest.mark.parametrize(
    ("ignore", "message"),
    [
        ((*DEFAULT, "model.layers.7.mlp.down_proj"), "matches no module"),
        ((*DEFAULT, r"re:.*experts.*"), "matches no module"),
        (("re:.*",), "quantizes none"),
        (("lm_head",), "would quantize the embedding model.embed_tokens"),
        (("re:.*embed_tokens.*",), r"would quantize lm_head \(output head\), for which vLLM has no scales"),
        ((*DEFAULT, r"re:.*q_proj$"), "loads as one layer"),
        ((*DEFAULT, "model.layers.0.mlp.up_proj"), "loads as one layer"),
    ],
)
def test_a_recipe_that_misses_is_refused(ignore, message):
    """Entries that match nothing, everything, the wrong things or half of a fused layer."""
    with pytest.raises(BadInput, match=message):
        check(recipe(*ignore), LLAMA)


def test_experts_are_all_quantized_or_none():
    """vLLM loads the experts of a layer as one."""
    names = [f"model.layers.0.mlp.experts.{expert}.{leaf}.weight" for expert in range(3) for leaf in ("w1", "w2", "w3")]
    check(recipe(*DEFAULT), names)
    with pytest.raises(BadInput, match=r"loads as one layer \(model.layers.0.mlp.experts\)"):
        check(recipe(*DEFAULT, r"re:.*experts\.1\..*"), names)


def test_all_reasons_are_told_at_once():
    """An entry that matches nothing, an embedding, half a layer and the head: one error, each with its remedy."""
    with pytest.raises(BadInput, match="there are 4 reasons") as caught:
        check(recipe("re:.*k_proj$", "re:.*experts.*"), LLAMA)
    for said in (
        "matches no module",
        "model.embed_tokens",
        "as one layer",
        "lm_head",
        "make the ignore list match all",
    ):
        assert said in str(caught.value)


def test_of_one_kind_the_first_is_told_and_the_others_counted():
    """126 layers that lack the same do not make 126 lines."""
    names = [name.replace("layers.0", f"layers.{at}") for at in range(126) for name in LLAMA if "layers" in name]
    with pytest.raises(BadInput) as caught:
        check(recipe(*DEFAULT, r"re:.*q_proj$"), names)
    assert "and 125 more like it" in caught.value.message
    assert "\n" not in caught.value.message


@pytest.mark.parametrize(
    ("name", "architecture", "message"),
    [
        ("model.layers.0.mamba.dt_proj.weight", "JambaForCausalLM", "vLLM has no scales"),
        ("model.layers.0.router.proj.weight", "Gemma4ForCausalLM", "vLLM has no scales"),
        ("model.layers.0.self_attn.indexer.weights_proj.weight", "DeepseekV32ForCausalLM", "vLLM has no scales"),
        ("model.layers.0.self_attn.q_proj.base_layer.weight", "LlamaForCausalLM", "LoRA beside it that is not merged"),
        ("model.layers.0.self_attn.q_proj.lora_A.default.weight", "LlamaForCausalLM", "LoRA beside it"),
    ],
)
def test_what_vllm_does_not_load_is_refused(name, architecture, message):
    """Whatever list is asked for."""
    with pytest.raises(BadInput, match=message):
        check(recipe(*DEFAULT), [*LLAMA, name], architecture=architecture)
    kept = recipe(*recipe_of({"architectures": [architecture]}).ignore)
    if "LoRA" not in message:
        check(kept, [*LLAMA, name], architecture=architecture)


def test_what_to_ignore_can_be_copied():
    """A regex is shown as it is written, and once for all that it means."""
    names = [*LLAMA, *(f"model.layers.{at}.mamba.{leaf}.weight" for at in range(3) for leaf in ("in_proj", "dt_proj"))]
    with pytest.raises(BadInput, match=r"mamba\.dt_proj and 5 more modules \(Mamba mixer\)") as caught:
        check(recipe(*DEFAULT), names, architecture="JambaForCausalLM")
    assert caught.value.remedy == r"ignore 're:.*\.(mamba|mixer)\..*'"


def test_weights_with_their_inputs_first_are_refused():
    """GPT-2's c_attn is 64 x 192 where a linear layer's would be 192 x 64, as GPT-BigCode's is."""
    name = "transformer.h.0.attn.c_attn.weight"
    with pytest.raises(BadInput, match="inputs first"):
        check(recipe(*DEFAULT), [name], {name: (64, 192)}, "GPT2LMHeadModel")
    check(recipe(*DEFAULT), [name], {name: (192, 64)}, "GPTBigCodeForCausalLM")


@pytest.mark.parametrize(
    ("kv", "inner", "fits"), [(64, 256, False), (128, 256, True), (128, 192, False), (256, 384, True)]
)
def test_blocks_end_where_parts_of_a_layer_end(kv, inner, fits):
    """FP8_BLOCK: in vLLM's qkv_proj the values begin at a new block only if the keys end at one. By channel all fit."""
    shapes = dict.fromkeys(LLAMA, (128, 128))
    for leaf, rows in (("k_proj", kv), ("v_proj", kv), ("gate_proj", inner), ("up_proj", inner)):
        shapes |= {name: (rows, 128) for name in LLAMA if name.endswith(f"{leaf}.weight")}
    check(recipe(*DEFAULT), LLAMA, shapes)
    blocks = Recipe(scheme_named("FP8_BLOCK"), DEFAULT)
    if fits:
        check(blocks, LLAMA, shapes)
    else:
        with pytest.raises(BadInput, match="not divisible by 128"):
            check(blocks, LLAMA, shapes)


@pytest.mark.parametrize(
    ("shapes", "fits"),
    [
        ({"qkv_proj": (128 + 2 * 64, 128), "o_proj": (128, 128)}, False),
        ({"qkv_proj": (256 + 2 * 128, 256), "o_proj": (256, 256)}, True),
        ({"query_key_value": (128 + 2 * 64, 128), "dense": (128, 128)}, False),
        ({"gate_up_proj": (2 * 192, 128)}, False),
        ({"gate_up_proj": (2 * 256, 128)}, True),
        ({"in_proj_qkv": (64 + 64 + 128, 128), "in_proj_z": (128, 128)}, False),
        ({"in_proj_qkv": (128 + 128 + 256, 128), "in_proj_z": (256, 128)}, True),
        ({"in_proj": (256 + 256 + 16 + 16 + 8, 128), "out_proj": (128, 256), "conv1d": (256 + 32, 1, 4)}, False),
        ({"in_proj": (256 + 256 + 128 + 128 + 8, 128), "out_proj": (128, 256), "conv1d": (256 + 256, 1, 4)}, True),
    ],
)
def test_blocks_end_where_matrices_end_that_are_stored_as_one(shapes, fits):
    """Phi-3's, Falcon's, Qwen3.5's and Mamba 2's: the rows of each by hand. vLLM refuses the same."""
    named = {f"model.layers.0.part.{leaf}.weight": shape for leaf, shape in shapes.items()}
    blocks = Recipe(scheme_named("FP8_BLOCK"), (*DEFAULT, "re:.*conv1d$"))
    names = [*named, "model.layers.0.other.conv1d.weight"]
    if fits:
        check(blocks, names, named)
    else:
        with pytest.raises(BadInput, match=r"holds several matrices, one of them of (16|64|192) rows"):
            check(blocks, names, named)


@pytest.mark.parametrize(
    ("name", "entry"),
    [
        ("model.layers.0.block_sparse_moe.input_linear.weight", "re:.*input_linear$"),
        ("transformer.blocks.0.ffn.experts.mlp.w1", "re:.*experts.mlp$"),
    ],
)
def test_experts_in_one_tensor_are_kept_under_the_name_that_vllm_asks_for(name, entry):
    """An entry that matches the tensor alone leaves vLLM waiting for scales; the advice of the error does not."""
    with pytest.raises(BadInput, match="vLLM takes") as caught:
        check(recipe(*DEFAULT, entry), [*LLAMA, name], {name: (4, 64, 64)})
    advised = caught.value.remedy.split("'")[1]
    check(recipe(*DEFAULT, advised), [*LLAMA, name], {name: (4, 64, 64)})


@pytest.mark.parametrize(
    "entry", [".*embed_tokens.*", "model.layers.0$", "q_proj|k_proj", "layers.[01].mlp", "^lm_head"]
)
def test_a_regex_without_its_prefix_is_refused(entry):
    """It would be compared with whole names and never match."""
    with pytest.raises(BadInput, match="looks like a regex") as caught:
        check_entries((entry,))
    assert f"re:{entry}" in caught.value.remedy


def test_a_broken_regex_is_refused():
    """With the place where it breaks."""
    with pytest.raises(BadInput, match="is not a regex"):
        check_entries(("re:layers.(",))


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("FP8", "calibration"),
        ("INT8", "W8A8"),
        ("NVFP4", "calibration"),
        ("fp8_dynamic", "FP8_DYNAMIC"),
        ("GGUF", "not supported"),
    ],
)
def test_other_schemes_are_refused_with_the_list(name, why):
    """By name, with the reason and what there is."""
    with pytest.raises(BadInput, match=name) as caught:
        scheme_named(name)
    assert why in str(caught.value)
    assert all(served in caught.value.remedy for served in SCHEMES)


@pytest.mark.parametrize(
    ("scheme", "shape", "scales"),
    [
        ("FP8_DYNAMIC", (4096, 1024), (4096, 1)),
        ("W8A8", (5, 7), (5, 1)),
        ("FP8_BLOCK", (256, 384), (2, 3)),
        ("FP8_BLOCK", (129, 128), (2, 1)),
    ],
)
def test_the_shape_of_scales(scheme, shape, scales):
    """One a row, or one a block, the last of which may be partly filled."""
    assert scheme_named(scheme).scale_shape(*shape) == scales
