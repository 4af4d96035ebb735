"""How the vLLM that will serve reads the weights: by fastsafetensors where that is faster, as measured, and there is room for it.

On an H100, 16 GB that lay in memory were loaded in 0.65 s instead of 8.7 to 11.6; from a disk with nothing cached the disk
bounds both (docs/measurements/reference-model.md). Carwright has just written or checked the files when it serves them. On
processors fastsafetensors does not run.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from containers.contract import Step
from containers.fingerprints import lock_of
from containers.interpreter import versions
from containers.pins import read_pins
from flows.runners.backends import BACKENDS
from flows.runners.step_container import serving_target
from flows.targets.size import GB

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flows.serving.plan import Plans, ServicePlan
    from infra.accelerators import Gpu
    from infra.settings import Settings

FAST: Final = "fastsafetensors"  # the package, and vLLM's name of the format
# A shard on its way, and the one after it. Hugging Face's libraries write shards of 5 GB; of larger ones vLLM says itself when
# they do not fit, and is started again without (containers/serve/loading.py).
ROOM: Final = 10 * GB
# What decides about loading, too, or needs memory while it happens (`vllm serve --help`): whoever says it is left alone.
_SAID: Final = (
    "load-format",
    "model-loader-extra-config",
    "config",
    "quantization",
    "speculative-config",
    "cpu-offload-gb",
)


def chosen(plan: ServicePlan, gpus: Sequence[Gpu], arguments: Sequence[str], settings: Settings) -> ServicePlan:
    """The plan with `load_format` and, in a few words, `loading`: why. `arguments` are the user's own for vLLM.

    A plan for processors, or of what somebody else serves, stays as it is.
    """
    if plan.endpoint or not plan.gpu:
        return plan
    why = _against(plan, gpus, arguments, settings)
    said = f"by vLLM's default: {why}" if why else f"by {FAST}"
    return plan.model_copy(update={"load_format": "" if why else FAST, "loading": said})


def of_both(plans: Plans, gpus: Sequence[Gpu], arguments: Sequence[str], settings: Settings) -> Plans:
    """The same for baseline and candidate."""
    both = {"baseline": plans.baseline, "candidate": plans.candidate}
    return plans.model_copy(update={role: chosen(one, gpus, arguments, settings) for role, one in both.items()})


def _against(plan: ServicePlan, gpus: Sequence[Gpu], arguments: Sequence[str], settings: Settings) -> str:
    """Why vLLM's default is left to load this; empty if nothing speaks against the other."""
    if said := next((word for word in map(_option, arguments) if word), ""):
        return f"{said} is yours"
    if plan.pipeline_parallel_size > 1:
        return f"{FAST} was not measured with pipeline parallelism"
    if not plan.weights:
        return "the size of the weights is not known"
    taken = [gpu for gpu in gpus if str(gpu.index) in plan.gpus] or list(gpus)
    if min(gpu.free for gpu in taken) < plan.weights + ROOM:
        return f"{FAST} needs {ROOM / GB:.0f} GB beside the weights"
    return "" if available(settings) else f"{FAST} is not known to be installed there"


def _option(argument: str) -> str:
    """The option of an argument that speaks of loading, as it is written; vLLM takes `_` for `-`, and what begins a name for it."""
    option = argument.partition("=")[0]
    name = option.removeprefix("--").replace("_", "-")
    return option if any(said.startswith(name) for said in _SAID) else ""


def available(settings: Settings) -> bool:
    """Whether the environment or the image of the vLLM that will serve on GPUs is known to hold the package."""
    if settings.placement.serve:
        return False
    if BACKENDS[settings.launcher].images(settings) is not None:
        return serving_target(settings) == "serve-cuda" and _locked()
    python = settings.serve.python
    return bool(versions(python, (FAST,))) if python is not None else _locked()


def _locked() -> bool:
    return FAST in read_pins(lock_of(Step.SERVE, cuda=True).read_text())
