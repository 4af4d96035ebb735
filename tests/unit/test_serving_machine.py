"""Whether a model fits the memory of processors: told before it is fetched, with what would hold it."""

from __future__ import annotations

import sys

import pytest

from containers.errors import BadInput
from containers.hardware import processors
from flows.runners.backends import BACKENDS
from flows.serving import machine
from flows.serving.plan import ServicePlan, model_facts
from infra.memory import memory
from infra.settings import FlowServeSettings, PlacementSettings, ResourcesSettings, Settings

GIB = 1 << 30
LLAMA_70B = {
    "architectures": ["LlamaForCausalLM"], "num_hidden_layers": 80, "hidden_size": 8192, "intermediate_size": 28672,
    "num_attention_heads": 64, "num_key_value_heads": 8, "vocab_size": 128256, "torch_dtype": "bfloat16",
    "max_position_embeddings": 131072,
}  # fmt: skip
WEIGHTS = 141_107_497_872
DOCKER = {"launcher": "docker", "resources": {"serve": {"memory_gib": 64}}}


def test_what_does_not_fit_is_refused_with_what_would_hold_it() -> None:
    """141.1 GB of weights, 4 GiB of cache and 1.5 GiB beside them are 147.0 GB, or 137 GiB."""
    settings = Settings(**DOCKER, serve=FlowServeSettings(kv_cache_gib=4))
    with pytest.raises(BadInput, match=r"needs 147\.0 GB on processors .*and there are 68\.7 GB") as caught:
        machine.check_memory(LLAMA_70B, WEIGHTS, settings, 2048)
    assert "CARWRIGHT_RESOURCES__SERVE__MEMORY_GIB=137 would do" in caught.value.remedy
    assert "2 x H200" in caught.value.remedy
    machine.check_memory(LLAMA_70B, 60 * GIB, Settings(**DOCKER), 2048)
    with pytest.raises(BadInput):
        machine.check_memory(LLAMA_70B, 62 * GIB, Settings(**DOCKER), 2048)


def test_this_machines_memory_counts_without_containers() -> None:
    here = memory().total
    machine.check_memory({}, 1, Settings(), 2048)
    with pytest.raises(BadInput, match="does not fit the memory") as caught:
        machine.check_memory(LLAMA_70B, here, Settings(), 2048)
    assert "on processors, a machine with" in caught.value.remedy


def test_a_model_that_cannot_be_sized_still_has_weights() -> None:
    with pytest.raises(BadInput) as caught:
        machine.check_memory({"model_type": "mamba"}, 100 * GIB, Settings(**DOCKER), 2048)
    assert "GPUs" not in caught.value.remedy


@pytest.mark.parametrize(
    ("settings", "room"),
    [
        (Settings(launcher="docker"), 0),
        (Settings(launcher="docker", resources={"all": {"memory_gib": 2}}), 2 * GIB),
        (Settings(launcher="docker", resources={"serve": {"memory_gib": 2, "gpus": -1}}), 0),
        (Settings(launcher="kubernetes"), 32 * GIB),
        (Settings(launcher="kubernetes", resources={"serve": {"memory_gib": 48}}), 48 * GIB),
        (Settings(launcher="kubernetes", resources={"serve": {"gpus": 1}}), 0),
        (Settings(serve=FlowServeSettings(python=sys.executable)), 0),
    ],
)
def test_the_room_is_the_services_limit_where_one_is_known(settings: Settings, room: int) -> None:
    assert BACKENDS[settings.launcher].memory(settings) == room


def test_what_another_pool_serves_is_not_judged_here() -> None:
    settings = Settings(placement=PlacementSettings(serve="run-step/gpu"))
    machine.check_memory(LLAMA_70B, 10**15, settings, 2048)
    assert machine.gpus(settings, print) == ()
    named = {"serve": {"gpu": "H100", "gpus": 2}}
    there = machine.gpus(settings.model_copy(update={"resources": ResourcesSettings(**named)}), print)
    assert [(one.index, one.name, one.memory) for one in there] == [(-1, "H100", 81_559 << 20)] * 2


@pytest.mark.parametrize(
    ("settings", "plan", "what"),
    [
        (Settings(), {"gpu": "H100", "gpus": ("0", "1"), "tensor_parallel_size": 2}, "2 x H100 (machine "),
        (Settings(), {}, f"{processors()} (machine "),
        (Settings(), {"endpoint": "http://gpu:8000/v1"}, ""),
        (Settings(launcher="docker"), {"gpu": "H100"}, ""),
        (Settings(placement=PlacementSettings(serve="run-step/gpu")), {"gpu": "H100"}, ""),
        (Settings(serve=FlowServeSettings(python=sys.executable)), {}, ""),
    ],
)
def test_the_hardware_is_known_before_where_it_is_this_machines(
    settings: Settings, plan: dict[str, object], what: str
) -> None:
    """Times are compared and found again by it: a text that might be wrong would be worse than none."""
    found = machine.hardware(settings, ServicePlan(role="baseline", max_model_len=1, **plan))
    assert found.startswith(what)
    assert bool(found) == bool(what)


def of(role: str, gpus: int = 0, **more: str) -> ServicePlan:
    gpu = {"gpu": "H100", "tensor_parallel_size": gpus} if gpus else {}
    return ServicePlan.model_validate({"role": role, "max_model_len": 1, **gpu, **more})


@pytest.mark.parametrize(
    ("baseline", "candidate", "said", "remedy"),
    [
        (of("baseline", 2), of("candidate", 1), "on 2 x H100, the candidate on 1 x H100", "--tensor-parallel-size 2"),
        (of("baseline"), of("candidate", endpoint="http://a/v1"), "only the candidate is at an endpoint", "for both"),
        (of("baseline", 1), of("candidate", 1), "", ""),
        (of("baseline"), of("candidate"), "", ""),
        (of("baseline", endpoint="http://b/v1"), of("candidate", endpoint="http://a/v1"), "", ""),
    ],
)
def test_times_that_could_not_be_compared_are_not_measured(
    baseline: ServicePlan, candidate: ServicePlan, said: str, remedy: str
) -> None:
    if not said:
        machine.check_alike(baseline, candidate)
        return
    with pytest.raises(BadInput, match=said) as caught:
        machine.check_alike(baseline, candidate)
    assert remedy in caught.value.remedy


@pytest.mark.parametrize(
    ("said", "weights", "bytes_"),
    [
        ({}, 1000, 1000),
        ({"torch_dtype": "float32"}, 1000, 500),
        # Embeddings and head of 8 x 4 at 2 bytes each are 128; the other 872 bytes become 1744.
        ({"quantization_config": {"quant_method": "fp8"}, "vocab_size": 8, "hidden_size": 4}, 1000, 1872),
        (
            {
                "quantization_config": {"quant_method": "compressed-tensors", "format": "float-quantized"},
                "text_config": {"vocab_size": 8, "hidden_size": 4},
            },
            1000,
            1872,
        ),
        ({"quantization_config": {"quant_method": "awq"}}, 1000, 1000),
    ],
)
def test_weights_are_held_in_sixteen_bits(said: dict[str, object], weights: int, bytes_: int) -> None:
    assert machine.in_sixteen_bits(said, weights) == bytes_


def test_weights_that_are_not_known_are_not_judged() -> None:
    assert model_facts(LLAMA_70B, 0) is None
    machine.check_fits(None, 0, 1, Settings(), 2048)
