"""What the steps that compute run on without containers: this machine's GPUs, or its processors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from containers.errors import BadInput
from containers.fingerprints import VLLM_DISTRIBUTIONS
from containers.interpreter import versions
from infra import accelerators

if TYPE_CHECKING:
    from collections.abc import Callable

    from infra.settings import Settings

Device = Literal["cpu", "cuda"]


def device(settings: Settings) -> Device:
    """The device that the settings name, or with `auto` the GPUs if the locked CUDA builds run on all of them.

    Raises BadInput where GPUs are asked for and there are none that they run on.
    """
    if settings.device == "cpu":
        return "cpu"
    why = unusable(accelerators.gpus())
    if not why:
        return "cuda"
    if settings.device == "cuda":
        raise _refused(why)
    return "cpu"


def check(settings: Settings, say: Callable[[str], None]) -> None:
    """Say why GPUs that are here go unused, before any step begins; of no account for steps in containers.

    Raises BadInput for a device that cannot be used: what `device` raises, and a vLLM for GPUs that is to use processors.
    """
    if settings.launcher != "process" or (settings.placement.quantize and settings.placement.serve):
        return
    own = settings.serve.python
    if settings.device == "cpu" and own is not None and not settings.placement.serve:
        name, version = next(iter(versions(own, VLLM_DISTRIBUTIONS).items()), ("", ""))
        if name == "vllm" and "cpu" not in version.partition("+")[2]:
            raise BadInput(
                f"{own} has vllm {version}, which serves on GPUs alone",
                remedy="unset CARWRIGHT_SERVE__PYTHON to serve with the locked CPU build, or leave out --device cpu",
            )
    if own is not None and settings.quantize.python is not None:
        if settings.device == "cuda" and not accelerators.gpus():
            raise _refused(unusable(()))
        return  # whether its libraries run on these GPUs is not known here
    if device(settings) == "cuda" or settings.device == "cpu":
        return
    found = accelerators.gpus()
    if found or accelerators.cards():
        say(f"the GPUs of this machine go unused, and its processors do the work: {unusable(found)}")


def _refused(why: str) -> BadInput:
    return BadInput(f"the GPUs of this machine cannot be used: {why}", remedy="use its processors: --device cpu")


def unusable(found: tuple[accelerators.Gpu, ...]) -> str:
    """Why the locked CUDA builds do not run on these GPUs, in one line; empty when they do."""
    if not found:
        return "there is no NVIDIA driver, or no GPU that it shows"
    reasons = [f"GPU {gpu.index} ({gpu.name}): {gpu.unusable}" for gpu in found if gpu.unusable]
    return reasons[0] if reasons else ""
