"""Small models of many architectures go through the step's own engine and are loaded by vLLM's own loader.

Two processes do all of it, one in the environment of each step. docs/measurements/quantization.md has the table.
"""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

import pytest

from containers.contract import Step
from containers.process import inherited, run
from infra.environments.environment import Environment, prepare
from infra.settings import Settings
from tests.support.quantize_client import LAB, environment

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

pytestmark = pytest.mark.integration

MODELS = LAB.with_name("small_models.py")
LOADER = LAB.with_name("vllm_loader.py")
PLUGIN = LAB.parents[2] / "containers" / "serve" / "plugin"

# Matrices that are quantized, counted by hand: 7 a dense layer (q, k, v, o, gate, up, down), 3 an expert, of two layers.
CORE = {
    "llama": 14,
    "qwen2": 14,
    "qwen2-moe": 2 * (4 + 4 * 3 + 3),
    "mixtral": 2 * (4 + 4 * 3),
    "gemma2": 14,
    "gemma3-vision": 14,
    "gemma4-moe": 2 * (7 + 4 * 3),
    "qwen2.5-vl": 14,
    "deepseek-v3": (4 + 3) + (4 + 4 * 3 + 3),  # q_a, q_b, kv_a, o; kv_b stays
    "granite-moe": 2 * 4,
    "jamba": 2 * 4 + 2 * 3 + 2 * 4 * 3,  # of four layers two with attention, the others with an experts' block
    "mamba2": 2 * 2,  # in_proj, out_proj
    "qwen3-next": 4 + 2 * (4 * 3 + 3),  # linear attention stays
    "phi3": 2 * 4,  # qkv, o, gate_up, down
    "falcon": 2 * 4,
    "llava": 14,
}
REST = {
    "mistral": 14,
    "qwen3": 14,
    "qwen3-moe": 2 * (4 + 4 * 3),
    "olmoe": 2 * (4 + 4 * 3),
    "gemma3": 14,
    "qwen2-vl": 14,
    "qwen3-vl": 14,
    "internvl": 14,
    "idefics3": 14,
    "deepseek-v2": (4 + 3) + (4 + 4 * 3 + 3),
    "granite": 14,
    "granite-hybrid": 2 + 4 + 2 * 2,  # a mixer, an attention, two shared MLPs of two matrices
    "falcon-h1": 2 * (2 + 4 + 3),
    "lfm2": 2 + 4 + 2 * 3,
    "qwen3.5": 3 + 4 + 2 * 3,
    "gpt-neox": 2 * 4,
    "gpt-bigcode": 2 * 4,
    "opt": 2 * 6,
    "cohere": 14,
    "olmo2": 14,
    "glm4": 2 * 6,
    "glm4-moe": (4 + 3) + (4 + 4 * 3 + 3),
    "starcoder2": 2 * 6,
    "stablelm": 14,
}
# What the plan says of models that cannot be quantized
NEVER = {"gpt2": "inputs first", "llama4": "transposed", "mamba": "quantizes none"}
# What the plan says of lists that leave too little alone, and what vLLM says of llm-compressor's result with them
REFUSED = {
    "quantized head": ("lm_head (output head), for which vLLM has no scales", "lm_head.weight_scale"),
    "quantized nested head": ("language_model.lm_head (head of the language model)", "lm_head.weight_scale"),
    "keys of half a block": ("has 64 rows, which is not divisible by 128", "64 is not divisible"),
    "keys of half a block in one matrix": ("one of them of 64 rows", "64 is not divisible"),
    "states of less than a block": ("one of them of 16 rows", "16 is not divisible"),
    "quantized dt_proj": ("(Mamba mixer), for which vLLM has no scales", "weight_scale"),
    "quantized router.proj": (
        "(router with parts), for which vLLM has no scales",
        "router.proj.weight_scale",
    ),
    "experts ignored by half their name": ("vLLM takes model.layers.0.block_sparse_moe.experts.0.w1", "weight_scale"),
    "inputs first": ("inputs first", "exceeds dimension size"),
}


def ask(python: Environment, script: Path, *arguments: str, path: tuple[Path, ...] = ()) -> list[dict]:
    """A script's answers, one line of JSON each."""
    variables = {
        **inherited(),
        **python.environment(),
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
        "VLLM_CPU_KVCACHE_SPACE": "1",
    }
    variables["PYTHONPATH"] = os.pathsep.join([variables["PYTHONPATH"], str(LAB.parents[2]), *map(str, path)])
    answers = run([str(python.python), str(script), *arguments], env=variables, timeout=280).stdout
    return [json.loads(line) for line in answers.splitlines() if line.startswith("{")]


class Tried:
    """Models that were made, quantized and loaded: what the two scripts said of each."""

    def __init__(
        self, folder: Path, recipes: Iterable[str], never: Iterable[str] = (), refused: Iterable[str] = ()
    ) -> None:
        self.made = {one["name"]: one for one in ask(environment(), MODELS, str(folder), *recipes, *never, *refused)}
        names = [*recipes, *refused]
        python = prepare(Step.SERVE, Settings(), lambda event: None)
        said = ask(python, LOADER, *(str(folder / name / "quantized") for name in names), path=(PLUGIN,))
        self.loaded = dict(zip(names, said, strict=True))

    def check(self, models: dict[str, int]) -> None:
        assert {name: self.made[name].get("refused") for name in models} == dict.fromkeys(models)
        assert {name: self.made[name]["quantized"] for name in models} == models
        assert all(self.made[name]["known"] for name in models)
        assert {name: self.loaded[name]["failed"] for name in models if "failed" in self.loaded[name]} == {}
        assert all(self.loaded[name]["narrow"] > 0 for name in models)


@pytest.fixture(scope="module")
def core(tmp_path_factory: pytest.TempPathFactory) -> Tried:
    return Tried(tmp_path_factory.mktemp("models"), CORE, NEVER, REFUSED)


def test_what_is_quantized_by_its_recipe_is_loaded(core: Tried) -> None:
    """With every parameter of vLLM's filled from the checkpoint, and every 8-bit number of the checkpoint taken."""
    core.check(CORE)


@pytest.mark.campaign
def test_the_other_architectures_are_loaded_too(tmp_path: Path) -> None:
    """Likewise."""
    Tried(tmp_path, REST).check(REST)


def test_what_the_plan_refuses_vllm_does_not_load(core: Tried) -> None:
    """llm-compressor quantizes it all without a word."""
    for name, why in NEVER.items():
        assert why in core.made[name]["refused"], name
    for name, (why, of_vllm) in REFUSED.items():
        assert why in core.made[name]["refused"], name
        assert of_vllm in core.loaded[name]["failed"], name
