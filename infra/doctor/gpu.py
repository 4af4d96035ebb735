"""The GPUs of this machine, and whether their driver and they themselves are recent enough for the GPU images.

What the images need is in containers/hardware.py. FP8 arithmetic comes with compute capability 8.9; vLLM serves FP8 weights on
older GPUs with other arithmetic.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from containers.contract import Step
from containers.errors import BadInput
from containers.hardware import MINIMUM_CAPABILITY, MINIMUM_DRIVER
from infra.accelerators import gpus
from infra.doctor.line import Line, ok, wrong

if TYPE_CHECKING:
    from collections.abc import Sequence

    from infra.accelerators import Gpu
    from infra.settings import Settings

FP8: Final = (8, 9)
_DRIVER_LOADED: Final = Path("/proc/driver/nvidia/version")
_CPU: Final = "quantizing and serving work on the CPU"
_NEW_DRIVER: Final = f"install driver {MINIMUM_DRIVER} or later"


def wants_gpus(settings: Settings) -> bool:
    """Whether the settings give a GPU to any step."""
    return any(settings.resources.of(step).gpus for step in Step)


def gpu(settings: Settings, *, loaded: Path = _DRIVER_LOADED) -> Line:
    """Whether the GPUs can be used; a problem only if the settings give one to a step of this machine.

    `loaded` is there when the kernel has NVIDIA's driver.
    """
    asked_for = wants_gpus(settings) and settings.launcher != "kubernetes"
    if settings.docker.gpu_kind == "rocm":
        there = Path("/dev/kfd").exists()
        return ok("gpu", "the device of AMD's driver is there (/dev/kfd)") if there else wrong(
            "gpu", "there is no /dev/kfd", "install AMD's driver (amdgpu)", asked_for=asked_for)  # fmt: skip
    try:
        found = gpus()
    except BadInput as error:
        return wrong("gpu", error.message, error.remedy, asked_for=asked_for)
    if found:
        return _recent(found, asked_for=asked_for)
    if loaded.exists():
        text, remedy = (
            "NVIDIA's driver is loaded, and nvidia-smi names no GPU",
            "give this container its GPU and its tools",
        )
        return wrong("gpu", text, remedy, asked_for=asked_for)
    if asked_for:
        remedy = "install NVIDIA's driver, or unset CARWRIGHT_RESOURCES__<STEP>__GPUS"
        return wrong("gpu", "the settings give a GPU to a step, and there is none here", remedy, asked_for=True)
    return ok("gpu", f"none: {_CPU}")


def _recent(found: Sequence[Gpu], *, asked_for: bool) -> Line:
    """Driver and compute capability of the oldest GPU; one whose capability the driver does not tell is not called old."""
    told = [one for one in found if one.capability > (0, 0)]
    oldest = min(told or found, key=lambda one: one.capability)
    text = f"{', '.join(map(_shown, found))}, driver {oldest.driver}"
    if oldest.old_driver:
        return wrong("gpu", f"{text}: too old for the GPU images", _NEW_DRIVER, asked_for=asked_for)
    if not told:
        return ok("gpu", text)
    if oldest.capability < MINIMUM_CAPABILITY:
        text += f": {oldest.name} is too old for the GPU images"
        return wrong("gpu", text, f"hide it with CUDA_VISIBLE_DEVICES; else {_CPU}", asked_for=asked_for)
    if oldest.capability < FP8:
        text += f": {oldest.name} has no FP8 arithmetic (compute capability {'.'.join(map(str, FP8))})"
        return wrong("gpu", text, "vLLM serves FP8 weights there, but with slower arithmetic", asked_for=False)
    return ok("gpu", text)


def _shown(one: Gpu) -> str:
    capability = ".".join(map(str, one.capability)) if one.capability > (0, 0) else "unknown"
    return f"{one.name} ({one.memory / (1 << 30):.0f} GiB, compute capability {capability})"
