"""Which tensors a recipe takes, and which recipes are refused before any work."""

from __future__ import annotations

import pytest

from containers.errors import BadInput
from containers.quantize.recipe import ROUTERS, Reason, Recipe, check_coverage, check_entries
from containers.quantize.schemes import SCHEMES, scheme_named

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


def test_a_plain_recipe_covers_a_llama_without_a_warning():
    """The default recipe is taken as it is."""
    assert check_coverage(recipe(*DEFAULT), LLAMA) == []


def test_a_tied_head_is_no_unmatched_entry():
    """The default names lm_head, which a tied checkpoint does not have."""
    assert check_coverage(recipe(*DEFAULT), [name for name in LLAMA if name != "lm_head.weight"]) == []


def test_a_quantized_head_is_warned_about():
    """It can be served, and it costs quality."""
    (warning,) = check_coverage(recipe("re:.*embed_tokens.*"), LLAMA)
    assert "lm_head" in warning


@pytest.mark.parametrize(
    ("ignore", "message"),
    [
        ((*DEFAULT, "model.layers.7.mlp.down_proj"), "matches no module"),
        ((*DEFAULT, r"re:.*experts.*"), "matches no module"),
        (("re:.*",), "quantizes none"),
        (("lm_head",), "would quantize the embedding model.embed_tokens"),
        ((*DEFAULT, r"re:.*q_proj$"), "loads as one layer"),
        ((*DEFAULT, "model.layers.0.mlp.up_proj"), "loads as one layer"),
    ],
)
def test_a_recipe_that_misses_is_refused(ignore, message):
    """Entries that match nothing, everything, the wrong things or half of a fused layer."""
    with pytest.raises(BadInput, match=message):
        check_coverage(recipe(*ignore), LLAMA)


def test_experts_are_all_quantized_or_none():
    """vLLM loads the experts of a layer as one."""
    names = [f"model.layers.0.mlp.experts.{expert}.{leaf}.weight" for expert in range(3) for leaf in ("w1", "w2", "w3")]
    assert check_coverage(recipe(*DEFAULT), names) == []
    with pytest.raises(BadInput, match=r"loads as one layer \(model.layers.0.mlp.experts\)"):
        check_coverage(recipe(*DEFAULT, r"re:.*experts\.1\..*"), names)


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
