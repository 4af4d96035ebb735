"""Where models will be served: the GPUs of the settings' backend, or processors with memory for them.

On processors a model needs its weights in 16 bits, also when they are stored in 8: FP8 is emulated (containers/serve/plugin).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from containers.errors import BadInput
from containers.hardware import processors, this_machine
from flows.runners.backends import BACKENDS, named_gpus
from flows.serving.plan import model_facts, what_would_fit
from flows.targets.size import GB, GIB

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from flows.serving.plan import Plans, ServicePlan
    from flows.targets.model import ModelFacts
    from infra.accelerators import Gpu
    from infra.settings import Settings

RESERVE: Final = 3 * GIB // 2  # Python, torch and vLLM's processes, and what they compute with, on processors


def gpus(settings: Settings, say: Callable[[str], None]) -> tuple[Gpu, ...]:
    """Those that can be planned for; none for processors. `say` is told in one line why GPUs that there may be are not known.

    Of another work pool that serves it is known what the settings say.
    """
    if settings.placement.serve:
        return named_gpus(settings)
    return BACKENDS[settings.launcher].gpus(settings, say)


def hardware(settings: Settings, plan: ServicePlan) -> str:
    """What a service of this plan runs on, with a mark of this very machine; empty for one in a container or elsewhere, whose
    hardware is not known before it serves.
    """
    if plan.endpoint or settings.placement.serve or settings.launcher != "process":
        return ""
    if not plan.gpu and settings.serve.python is not None:  # it may serve on GPUs of another make
        return ""
    count = plan.tensor_parallel_size * plan.pipeline_parallel_size
    return f"{f'{count} x {plan.gpu}' if plan.gpu else processors()} (machine {this_machine()})"


def located(settings: Settings, plans: Plans) -> Plans:
    """The plans with the hardware of both services."""
    both = {"baseline": plans.baseline, "candidate": plans.candidate}
    found = {role: one.model_copy(update={"hardware": hardware(settings, one)}) for role, one in both.items()}
    return plans.model_copy(update=found)


def check_alike(baseline: ServicePlan, candidate: ServicePlan) -> None:
    """Raises BadInput where a suite of speed could not compare the two: what they are served on is not alike."""
    both = (baseline, candidate)
    if bool(baseline.endpoint) != bool(candidate.endpoint):
        (there,) = (one.role for one in both if one.endpoint)
        raise BadInput(
            f"times from different hardware are not compared: only the {there} is at an endpoint, whose hardware is not known",
            remedy="give endpoints for both, or for neither",
        )
    sizes = [one.tensor_parallel_size * one.pipeline_parallel_size for one in both]
    where = [f"{size} x {one.gpu}" if one.gpu else "processors" for size, one in zip(sizes, both, strict=True)]
    if where[0] != where[1]:
        raise BadInput(
            f"times from different hardware are not compared: the baseline would be served on {where[0]}, the candidate on {where[1]}",
            remedy=f"give both as many GPUs: --tensor-parallel-size {max(sizes)}",
        )


def check_memory(config: Mapping[str, Any], weights: int, settings: Settings, length: int) -> None:
    """Raises BadInput for a model that cannot be held by the memory that its service gets without GPUs, `weights` bytes as
    its files are.
    """
    if not settings.placement.serve:
        room = BACKENDS[settings.launcher].memory(settings)
        check_fits(model_facts(config, weights), in_sixteen_bits(config, weights), room, settings, length)


def in_sixteen_bits(config: Mapping[str, Any], weights: int) -> int:
    """Bytes of the weights as vLLM holds them on processors; embeddings and the head are not quantized."""
    text = config.get("text_config")
    said = {**config, **(text if isinstance(text, dict) else {})}
    quantization = config.get("quantization_config")
    if isinstance(quantization, dict):
        how = f"{quantization.get('quant_method')} {quantization.get('format')}"
        embeddings = min(4 * int(said.get("vocab_size") or 0) * int(said.get("hidden_size") or 0), weights)
        return 2 * weights - embeddings if "fp8" in how or "float-quantized" in how else weights
    return weights // 2 if "float32" in str(said.get("dtype") or said.get("torch_dtype")) else weights


def check_fits(model: ModelFacts | None, weights: int, room: int, settings: Settings, length: int) -> None:
    """`weights` bytes in 16 bits against `room`, the bytes that there are; 0 stands for unknown, and then all fits."""
    cache = settings.serve.kv_cache_gib * GIB
    needed = weights + cache + RESERVE
    if not room or not weights or needed <= room:
        return
    larger = f"a machine with {needed / GB:.1f} GB"
    if settings.launcher != "process":
        larger = f"CARWRIGHT_RESOURCES__SERVE__MEMORY_GIB={-(-needed // GIB)}"
    remedy = f"on processors, {larger} would do"
    raise BadInput(
        f"the model does not fit the memory: vLLM needs {needed / GB:.1f} GB on processors ({weights / GB:.1f} GB of weights "
        f"in 16 bits, as FP8 is emulated, {cache / GB:.1f} GB of KV cache, {RESERVE / GB:.1f} GB for itself), and there are "
        f"{room / GB:.1f} GB",
        remedy=f"{remedy}; with GPUs {what_would_fit(model, length)}" if model is not None else remedy,
    )
