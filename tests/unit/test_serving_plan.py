"""How models are going to be served, planned from config.json and the bytes of the weights alone."""

from __future__ import annotations

from typing import Any

import pytest

from containers.errors import BadInput, NotReady
from flows.serving.plan import ServicePlan, model_facts, plan, plan_both, quantized, what_would_fit
from flows.ship_request import ServingOptions
from flows.targets.size import gpu_memory
from infra.accelerators import Gpu

GB = 1_000_000_000
MIB = 1 << 20
# As their repositories on the hub say: config.json, and the bytes of all safetensors files (BF16).
MODELS: dict[str, tuple[dict[str, Any], int]] = {
    "8B": (
        {"architectures": ["LlamaForCausalLM"], "num_hidden_layers": 32, "hidden_size": 4096, "intermediate_size": 14336,
         "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 128256, "torch_dtype": "bfloat16",
         "max_position_embeddings": 131072}, 16_060_556_376),
    "70B": (
        {"architectures": ["LlamaForCausalLM"], "num_hidden_layers": 80, "hidden_size": 8192, "intermediate_size": 28672,
         "num_attention_heads": 64, "num_key_value_heads": 8, "vocab_size": 128256, "torch_dtype": "bfloat16",
         "max_position_embeddings": 131072}, 141_107_497_872),
    "405B": (
        {"architectures": ["LlamaForCausalLM"], "num_hidden_layers": 126, "hidden_size": 16384, "intermediate_size": 53248,
         "num_attention_heads": 128, "num_key_value_heads": 8, "vocab_size": 128256, "torch_dtype": "bfloat16",
         "max_position_embeddings": 131072}, 811_707_015_168),
    "MoE": (  # Qwen3-235B-A22B
        {"architectures": ["Qwen3MoeForCausalLM"], "num_hidden_layers": 94, "hidden_size": 4096,
         "moe_intermediate_size": 1536, "num_attention_heads": 64, "num_key_value_heads": 4, "head_dim": 128,
         "vocab_size": 151936, "torch_dtype": "bfloat16", "max_position_embeddings": 40960}, 470_187_269_120),
}  # fmt: skip
# Name and MiB as nvidia-smi prints them.
CARDS = {"L40S": ("NVIDIA L40S", 46_068), "H100": ("NVIDIA H100 80GB HBM3", 81_559), "H200": ("NVIDIA H200", 143_771)}


def machine(text: str) -> tuple[Gpu, ...]:
    """`2 x H100` as its driver lists it, with nothing running."""
    count, _, card = text.partition(" x ")
    name, mib = CARDS[card]
    return tuple(Gpu(index=index, name=name, memory=mib * MIB, free=mib * MIB) for index in range(int(count)))


def planned(model: str, where: str, length: int = 2048, **options: Any) -> tuple[str, str]:
    """GPUs and utilization of baseline and candidate, or what does not fit."""
    config, weights = MODELS[model]
    facts = model_facts(config, weights)
    assert facts is not None

    def one(role: str, what: Any) -> str:
        try:
            made = plan(role, what, machine(where), ServingOptions(**options), length, concurrency=8)
        except BadInput as error:
            return "no" if "does not fit" in error.message else error.message
        return f"{made.tensor_parallel_size} at {made.gpu_memory_utilization:g}"

    return one("baseline", facts), one("candidate", quantized(facts))


@pytest.mark.parametrize(
    ("model", "where", "baseline", "candidate"),
    [
        ("8B", "1 x L40S", "1 at 0.9", "1 at 0.9"),
        ("8B", "1 x H100", "1 at 0.9", "1 at 0.9"),
        ("8B", "2 x H100", "1 at 0.9", "1 at 0.9"),
        ("8B", "8 x H200", "1 at 0.9", "1 at 0.9"),
        ("70B", "1 x L40S", "no", "no"),
        ("70B", "1 x H100", "no", "1 at 0.95"),
        ("70B", "2 x H100", "2 at 0.9", "1 at 0.95"),
        ("70B", "8 x H200", "2 at 0.9", "1 at 0.9"),
        ("405B", "1 x L40S", "no", "no"),
        ("405B", "1 x H100", "no", "no"),
        ("405B", "2 x H100", "no", "no"),
        ("405B", "8 x H200", "8 at 0.9", "4 at 0.9"),
        ("MoE", "1 x H100", "no", "no"),
        ("MoE", "2 x H100", "no", "no"),
        ("MoE", "8 x H200", "4 at 0.9", "2 at 0.9"),
    ],
)
def test_each_model_gets_the_fewest_gpus_that_hold_it(model: str, where: str, baseline: str, candidate: str) -> None:
    """As was seen with vLLM 0.23: a model of the 70B shape in BF16 on two H100, in FP8 on one."""
    assert planned(model, where) == (baseline, candidate)


def test_what_fits_nowhere_says_what_would_fit() -> None:
    config, weights = MODELS["70B"]
    with pytest.raises(BadInput) as raised:
        plan_both(config, weights, machine("1 x H100"), ServingOptions(), 2048, concurrency=8)
    assert "the baseline (LlamaForCausalLM, 141.1 GB) with 2048 tokens does not fit" in raised.value.message
    assert "4 x L40S, 2 x H100, 2 x H200, 1 x B200" in raised.value.remedy
    assert raised.value.exit_code == 2


@pytest.mark.parametrize(("model", "where"), [("70B", "2 x H100"), ("70B", "2 x H200"), ("8B", "1 x L40S")])
def test_what_would_fit_is_what_is_planned_on_such_a_machine(model: str, where: str) -> None:
    """The refusal on another machine and the plan on this one go by the same memory and by the same utilizations."""
    facts = model_facts(*MODELS[model])
    assert facts is not None
    assert f" {where}" in what_would_fit(facts, 2048)
    made = plan("baseline", facts, machine(where), ServingOptions(), 2048, concurrency=1)
    assert len(made.gpus) == int(where.partition(" ")[0])
    assert gpu_memory(where.rpartition(" ")[2]) == CARDS[where.rpartition(" ")[2]][1] * MIB


def test_two_services_get_gpus_of_their_own_and_the_rest_quantizes() -> None:
    config, weights = MODELS["8B"]
    plans = plan_both(config, weights, machine("2 x H100"), ServingOptions(), 2048, concurrency=8)
    assert (plans.baseline.gpus, plans.candidate.gpus) == (("0",), ("1",))
    assert plans.at_once
    assert plans.quantize_devices == ("cuda:1",)


def test_nothing_goes_on_beside_a_measurement_of_speed() -> None:
    config, weights = MODELS["8B"]
    plans = plan_both(config, weights, machine("2 x H100"), ServingOptions(), 2048, concurrency=8).one_by_one()
    assert not plans.at_once
    assert plans.quantize_devices == ()


@pytest.mark.parametrize(("model", "where"), [("70B", "2 x H100"), ("8B", "1 x H100")])
def test_services_that_need_the_same_gpus_follow_each_other(model: str, where: str) -> None:
    config, weights = MODELS[model]
    plans = plan_both(config, weights, machine(where), ServingOptions(), 2048, concurrency=8)
    assert not plans.at_once
    assert plans.quantize_devices == ()


def test_without_gpus_everything_is_as_the_suite_wants_it() -> None:
    config, weights = MODELS["8B"]
    plans = plan_both(config, weights, (), ServingOptions(), 4097, concurrency=8)
    assert plans.baseline == ServicePlan(role="baseline", max_model_len=4097)
    assert str(plans.candidate) == "candidate: on the CPU, 4097 tokens"


def test_the_request_decides_what_it_says() -> None:
    assert planned("8B", "8 x H200", tensor_parallel_size=4) == ("4 at 0.9", "4 at 0.9")
    assert planned("8B", "8 x H200", gpu_memory_utilization=0.5) == ("1 at 0.5", "1 at 0.5")
    assert planned("70B", "2 x H100", length=131072) == ("no", "2 at 0.9")
    config, weights = MODELS["405B"]
    made = plan(
        "baseline", model_facts(config, weights), machine("8 x H200"), ServingOptions(pipeline_parallel_size=2), 2048,
        concurrency=1,
    )  # fmt: skip
    assert (made.tensor_parallel_size, made.pipeline_parallel_size, len(made.gpus)) == (4, 2, 8)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"tensor_parallel_size": 3}, "no power of two"),
        ({"tensor_parallel_size": 16}, "there are only 8 GPUs"),
        ({"tensor_parallel_size": 64}, "32 attention heads cannot be shared by 64"),
        ({"pipeline_parallel_size": 16}, "there are only 8 GPUs"),
    ],
)
def test_sizes_that_cannot_be_are_refused(options: dict[str, int], said: str) -> None:
    config, weights = MODELS["8B"]
    with pytest.raises(BadInput, match=said):
        plan(
            "baseline",
            model_facts(config, weights),
            machine("8 x H200"),
            ServingOptions(**options),
            2048,
            concurrency=1,
        )


def test_a_gpu_that_another_program_fills_is_passed_over_or_named() -> None:
    config, weights = MODELS["8B"]
    first, second = machine("2 x H100")
    busy = first.model_copy(update={"free": 10 * GB})
    made = plan("baseline", model_facts(config, weights), (busy, second), ServingOptions(), 2048, concurrency=8)
    assert made.gpus == ("1",)
    with pytest.raises(NotReady, match=r"GPU 0 \(NVIDIA H100 80GB HBM3\) has 10.0 of its 85.5 GB free"):
        plan("baseline", model_facts(config, weights), (busy,), ServingOptions(), 2048, concurrency=8)


def test_of_cards_of_different_sizes_the_smallest_bounds() -> None:
    config, weights = MODELS["70B"]
    mixed = (machine("1 x L40S")[0], machine("1 x H200")[0].model_copy(update={"index": 1}))
    facts = model_facts(config, weights)
    assert facts is not None
    assert plan("candidate", quantized(facts), mixed, ServingOptions(), 2048, concurrency=1).gpus == ("1",)
    with pytest.raises(BadInput, match="on 2: each needs"):
        plan("baseline", facts, mixed, ServingOptions(), 2048, concurrency=1)


def test_a_model_whose_memory_cannot_be_told_takes_every_gpu() -> None:
    plans = plan_both({"model_type": "mamba"}, 1, machine("2 x H100"), ServingOptions(), 2048, concurrency=8)
    assert plans.baseline.tensor_parallel_size == 2
    assert "cannot be told" in str(plans.baseline)
    with pytest.raises(BadInput, match="4 GPUs are asked for, and there are 2"):
        plan_both({}, 1, machine("2 x H100"), ServingOptions(tensor_parallel_size=4), 2048, concurrency=8)


def test_gpus_of_another_machine_are_planned_for_and_not_numbered() -> None:
    config, weights = MODELS["70B"]
    there = tuple(one.model_copy(update={"index": -1}) for one in machine("2 x H100"))
    plans = plan_both(config, weights, there, ServingOptions(), 2048, concurrency=8)
    assert (plans.baseline.tensor_parallel_size, plans.baseline.gpus) == (2, ())
    assert not plans.at_once
