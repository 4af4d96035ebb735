"""The GPUs of this machine, and whether their driver and they themselves are recent enough for the GPU images.

The images are built on CUDA 13 (infra/images/cuda), which needs NVIDIA's driver 580 or later and compute capability 7.5
(CUDA Toolkit release notes). FP8 arithmetic comes with 8.9; vLLM serves FP8 weights on older GPUs with other arithmetic.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from containers.contract import Step
from containers.errors import BadInput, Error
from containers.process import inherited, run
from infra.accelerators import UNKNOWN_FIELD
from infra.doctor.line import Line, ok, wrong

if TYPE_CHECKING:
    from infra.settings import Settings

DRIVER: Final = 580
CAPABILITY: Final = (7, 5)
FP8: Final = (8, 9)
_QUERY: Final = ("name", "driver_version", "compute_cap", "memory.total")
_TIMEOUT: Final = 15.0  # seconds: the first question loads the driver
_DRIVER_LOADED: Final = Path("/proc/driver/nvidia/version")
_CPU: Final = "quantizing and serving work on the CPU"


@dataclass(frozen=True)
class Gpu:
    """As nvidia-smi tells it; `memory` in MiB."""

    name: str
    driver: str
    capability: tuple[int, ...]
    memory: int

    def __str__(self) -> str:
        capability = ".".join(map(str, self.capability))
        return f"{self.name} ({self.memory / 1024:.0f} GiB, compute capability {capability})"


def wants_gpus(settings: Settings) -> bool:
    """Whether the settings give a GPU to any step."""
    return any(settings.resources.of(step).gpus for step in Step)


def gpus() -> list[Gpu]:
    """Those of this machine; none without nvidia-smi. Raises an Error when it does not work."""
    try:
        done = run(
            ["nvidia-smi", f"--query-gpu={','.join(_QUERY)}", "--format=csv,noheader,nounits"],
            env=inherited(),
            timeout=_TIMEOUT,
        )
    except BadInput:  # not installed
        return []
    return [_parsed(line) for line in done.stdout.splitlines() if line.strip()]


def _parsed(line: str) -> Gpu:
    fields = [field.strip() for field in line.split(",")]
    try:
        name, driver, capability, memory = fields
        return Gpu(name, driver, tuple(int(part) for part in capability.split(".")), int(memory))
    except ValueError as error:
        raise Error(f"nvidia-smi says what is not understood: {line!r}") from error


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
    except Error as error:
        text = f"nvidia-smi does not work: {error.message}"
        remedy = f"install driver {DRIVER} or later" if UNKNOWN_FIELD in text else "install NVIDIA's driver again"
        return wrong("gpu", text, remedy, asked_for=asked_for)
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


def _recent(found: list[Gpu], *, asked_for: bool) -> Line:
    """Driver and compute capability of the oldest GPU."""
    oldest = min(found, key=lambda one: one.capability)
    text = f"{', '.join(map(str, found))}, driver {oldest.driver}"
    if int(oldest.driver.partition(".")[0]) < DRIVER:
        text += ": too old for the GPU images"
        return wrong("gpu", text, f"install driver {DRIVER} or later", asked_for=asked_for)
    if oldest.capability < CAPABILITY:
        text += f": {oldest.name} is too old for the GPU images"
        return wrong("gpu", text, f"hide it with CUDA_VISIBLE_DEVICES; else {_CPU}", asked_for=asked_for)
    if oldest.capability < FP8:
        text += f": {oldest.name} has no FP8 arithmetic (compute capability 8.9)"
        return wrong("gpu", text, "vLLM serves FP8 weights there, but with slower arithmetic", asked_for=False)
    return ok("gpu", text)
