"""Everything that is refused or planned from headers: no weight is read, and no torch is there to read it."""

from __future__ import annotations

import json
import sys

import pytest

from containers.architectures import quantization
from containers.errors import BadInput
from containers.parameters import QuantizeParameters
from containers.quantize.checkpoint import FolderFiles
from containers.quantize.plan import make_plan
from containers.quantize.preflight import prepare
from tests.support.checkpoints import ends, layer, write

SHARDS = [ends() | layer(0), layer(1)]


def job(folder, **parameters):
    return prepare(FolderFiles(folder), QuantizeParameters(**parameters), {})


def plan(folder, **parameters):
    return make_plan(job(folder, **parameters))


def test_the_plan_of_a_small_llama(tmp_path):
    """Counted by hand: 7 matrices a layer, of 32x64 (3) and 32x32 (4) elements."""
    found = plan(write(tmp_path, SHARDS, {"tie_word_embeddings": False}))
    assert found.architecture == "LlamaForCausalLM"
    assert found.linear_layers == 14
    assert found.parameters == 2 * (3 * 32 * 64 + 4 * 32 * 32)
    assert {kept.reason: kept.tensors for kept in found.kept} == {"output head": 1, "embeddings": 1, "norm": 5}
    assert all(kept.why for kept in found.kept if kept.reason != "norm")
    assert [group.quantized for group in found.groups] == [7, 7]
    # Quantized: one byte an element and a two-byte scale a row; the norms as they were.
    second = 10240 + 2 * (32 + 64 + 64 + 4 * 32) + 2 * 2 * 32
    header = found.groups[1].size_after - second
    assert 8 < header < 4096
    assert header % 8 == 0
    assert found.layers == 6  # base, two shards, config, index, tokenizer
    assert not found.warnings


def test_the_size_of_every_shard_is_known_beforehand(tmp_path):
    """405B-shaped, 191 shards, headers alone (the files are holes): the plan says what will be written and needed."""
    hidden, inner = 16384, 53248
    pieces = [ends(hidden, 128256)] + [layer(index, hidden, inner) for index in range(126)]
    tensors = [(name, shape) for piece in pieces for name, shape in piece.items()]
    shards = [dict(tensors[at::191]) for at in range(191)]
    found = plan(write(tmp_path, shards, sparse=True))
    assert len(found.groups) == 191
    assert found.linear_layers == 126 * 7
    assert 0.5 < found.size_after / found.size_before < 0.53
    assert found.layers == 121  # base and 120: shards are grouped into layers
    three_largest = sorted(group.size_after for group in found.groups)[-3:]
    assert make_plan(job(tmp_path), lanes=3).disk_needed == sum(three_largest)


def test_planning_needs_no_torch(tmp_path):
    """It would cost seconds, and the plan is wanted before anything is installed."""
    plan(write(tmp_path, SHARDS))
    assert not {"torch", "compressed_tensors", "transformers"} & set(sys.modules)


def test_a_tied_head_and_routers_are_told(tmp_path):
    """Why they stay is part of the plan."""
    moe = layer(0) | {"model.layers.0.mlp.gate.weight": (4, 32)}
    shapes = {name: shape for name, shape in (ends() | moe).items() if name != "lm_head.weight"}
    found = plan(write(tmp_path, [shapes], {"tie_word_embeddings": True}))
    assert found.tied_head
    assert "router of a mixture of experts" in {kept.reason for kept in found.kept}
    assert found.ignore[-1].startswith("re:")


def test_fused_experts_are_split(tmp_path):
    """As llm-compressor does: an expert's gate rows, then its up rows, each under a name of its own."""
    shapes = ends() | {
        "model.layers.0.mlp.experts.gate_up_proj": (3, 128, 32),
        "model.layers.0.mlp.experts.down_proj": (3, 32, 64),
    }
    parts = {part.name: part for part in job(write(tmp_path, [shapes], {"hidden_size": 32})).groups[0].parts}
    gate, up = (parts[f"model.layers.0.mlp.experts.1.{name}_proj.weight"] for name in ("gate", "up"))
    assert gate.shape == up.shape == (64, 32)
    assert gate.stop == up.start
    assert parts["model.layers.0.mlp.experts.2.down_proj.weight"].shape == (32, 64)


def test_experts_that_lie_transposed_are_refused(tmp_path):
    """llm-compressor would cut them along the wrong side (Llama 4's layout)."""
    shapes = ends() | {"model.layers.0.feed_forward.experts.gate_up_proj": (3, 32, 128)}
    with pytest.raises(BadInput, match="transposed"):
        plan(write(tmp_path, [shapes], {"hidden_size": 32}))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ({"weight_map": {"model.norm.weight": "model-00002-of-00002.safetensors"}}, "disagree"),
        ({"weight_map": {}}, "disagree"),
        ({"dtypes": "F64"}, "F64"),
        ({"dtypes": {"model.layers.1.mlp.up_proj.weight": "I8"}}, "already quantized"),
        ({"dtypes": {"model.layers.1.mlp.up_proj.weight": "F8_E4M3"}}, "already quantized"),
        ({"config": {"quantization_config": {"quant_method": "fp8"}}}, "already quantized"),
        ({"config": {"text_config": {"quantization_config": {"quant_method": "gptq"}}}}, "already quantized"),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_refused(tmp_path, damage, message):
    """An index of another version, types that cannot be quantized, and what is already quantized."""
    with pytest.raises(BadInput, match=message):
        plan(write(tmp_path, SHARDS, sparse=True, **damage))


def test_a_tensor_in_two_shards_is_refused(tmp_path):
    """With both shards named."""
    with pytest.raises(BadInput, match=r"model\.norm\.weight is in model-00001.* and in model-00002"):
        plan(write(tmp_path, [ends() | layer(0), layer(1) | {"model.norm.weight": (32,)}]))


def test_a_tensor_twice_in_one_header_is_refused(tmp_path):
    """JSON allows it and readers would silently take one."""
    folder = write(tmp_path, [ends() | layer(0)])
    shard = folder / "model.safetensors"
    content = shard.read_bytes()
    length = int.from_bytes(content[:8], "little")
    text = content[8 : 8 + length].replace(b'"lm_head.weight"', b'"model.norm.weight"', 1)
    shard.write_bytes(len(text).to_bytes(8, "little") + text + content[8 + length :])
    with pytest.raises(BadInput, match=r"names model\.norm\.weight twice"):
        plan(folder)


def test_a_truncated_shard_is_refused(tmp_path):
    """It is seen by its size, without reading it."""
    folder = write(tmp_path, [ends() | layer(0)])
    with (folder / "model.safetensors").open("r+b") as file:
        file.truncate((folder / "model.safetensors").stat().st_size - 2)
    with pytest.raises(BadInput, match="should have"):
        plan(folder)


@pytest.mark.parametrize(
    ("name", "shape", "scheme", "message"),
    [
        ("model.layers.0.conv.weight", (8, 1, 4), "FP8_DYNAMIC", "only a matrix"),
        ("model.layers.0.extra.weight", (128, 200), "FP8_BLOCK", "multiple of 128"),
    ],
)
def test_a_tensor_that_cannot_be_quantized_is_named(tmp_path, name, shape, scheme, message):
    """With the entry that would leave it alone."""
    shards = [{name: shape, "model.norm.weight": (32,)}]
    with pytest.raises(BadInput, match=message) as caught:
        plan(write(tmp_path, shards, sparse=True), scheme=scheme)
    assert name.removesuffix(".weight") in caught.value.remedy


def test_weights_of_one_dimension_stay(tmp_path):
    """They are norms by other names: GPT-2's ln_1, Mamba's norm_f."""
    names = ("model.layers.0.ln_1.weight", "model.norm_f.weight")
    found = plan(write(tmp_path, [layer(0) | dict.fromkeys(names, (32,))]))
    assert {kept.reason: kept.tensors for kept in found.kept}["one-dimensional, as the weights of norms are"] == 2
    assert found.linear_layers == 7


def test_the_careful_default_fits_a_model_that_has_a_recipe(tmp_path):
    """Its configuration was not read when the list was made. What does not apply is not in the result, so its bytes are the same."""
    folder = write(tmp_path, SHARDS)
    careful = quantization({}, "FP8_DYNAMIC").ignore
    assert job(folder, ignore=careful).ignore == job(folder).ignore == QuantizeParameters().ignore


def test_an_unknown_architecture_is_told(tmp_path):
    """With what it gets in place of a recipe of its own."""
    folder = write(tmp_path, SHARDS, {"architectures": ["NobodyHasSeenThis"]})
    found = plan(folder, ignore=quantization({"architectures": ["NobodyHasSeenThis"]}, "FP8_DYNAMIC").ignore)
    assert not found.known
    assert found.linear_layers == 14
    assert "careful default" in found.warnings[0]
    assert plan(write(tmp_path / "llama", SHARDS)).known


def test_scale_tensors_mean_that_it_was_quantized(tmp_path):
    """Whatever the config says."""
    with pytest.raises(BadInput, match="weight_scale"):
        plan(write(tmp_path, [layer(0) | {"model.layers.0.mlp.up_proj.weight_scale": (64, 1)}]))


def test_the_same_weights_in_another_layout_are_left_out(tmp_path):
    """Mistral's repositories carry both; the index decides, and the plan tells."""
    folder = write(tmp_path, SHARDS)
    (folder / "consolidated.safetensors").write_bytes((folder / "model-00002-of-00002.safetensors").read_bytes())
    (folder / "params.json").write_text("{}")
    found = plan(folder)
    assert "consolidated.safetensors" in found.warnings[0]
    assert found.layers == 6


def test_several_shards_need_an_index(tmp_path):
    """Nothing says that they belong together."""
    folder = write(tmp_path, SHARDS)
    (folder / "model.safetensors.index.json").unlink()
    with pytest.raises(BadInput, match="has no index"):
        plan(folder)


def test_a_folder_without_a_config_is_refused(tmp_path):
    """And one whose config is not JSON."""
    folder = write(tmp_path, SHARDS)
    (folder / "config.json").write_text("{")
    with pytest.raises(BadInput, match="not JSON"):
        plan(folder)
    (folder / "config.json").unlink()
    with pytest.raises(BadInput, match="no config"):
        plan(folder)


def test_uneven_matrices_are_warned_about(tmp_path):
    """vLLM's fast kernels want multiples of 16."""
    found = plan(write(tmp_path, [ends() | layer(0, 32, 60)]))
    assert "3 matrices" in found.warnings[0]


def test_a_group_is_named_by_what_it_becomes(tmp_path):
    """Ignoring a module of another shard changes nothing for this one; a scheme, a library or a path does."""
    from dataclasses import replace

    from containers.digest import Digest

    def fingerprints(fingerprint_inputs=None, **parameters):
        found = job(folder, **parameters).groups
        groups = [replace(group, source=replace(group.source, sha256=Digest("0" * 64))) for group in found]
        return [group.fingerprint(fingerprint_inputs or {}) for group in groups]

    folder = write(tmp_path, SHARDS)
    plain = fingerprints()
    ignore = [*QuantizeParameters().ignore, "re:model.layers.0.mlp.*"]
    other = fingerprints(ignore=ignore)
    assert other[0] != plain[0]
    assert other[1] == plain[1]
    assert set(fingerprints(scheme="W8A8")).isdisjoint(plain)
    assert set(fingerprints({"compressed-tensors": "0.20"})).isdisjoint(plain)
    assert len(set(plain)) == 2


def test_a_plan_is_json(tmp_path):
    """It crosses the border between step and flow."""
    found = plan(write(tmp_path, SHARDS))
    assert json.loads(found.model_dump_json())["groups"][0]["path"] == "model-00001-of-00002.safetensors"
