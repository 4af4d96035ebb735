"""What the steps that compute run on without containers: this machine's GPUs, or its processors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from containers.errors import BadInput
from infra import accelerators

if TYPE_CHECKING:
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
        raise BadInput(f"the GPUs of this machine cannot be used: {why}", remedy="use its processors: --device cpu")
    return "cpu"


def unusable(found: tuple[accelerators.Gpu, ...]) -> str:
    """Why the locked CUDA builds do not run on these GPUs, in one line; empty when they do."""
    if not found:
        return "there is no NVIDIA driver, or no GPU that it shows"
    reasons = [f"GPU {gpu.index} ({gpu.name}): {gpu.unusable}" for gpu in found if gpu.unusable]
    return reasons[0] if reasons else ""
