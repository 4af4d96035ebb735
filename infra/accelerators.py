"""The GPUs of this machine, as NVIDIA's driver lists them.

The driver's own command is asked (`nvidia-smi --help-query-gpu` names the fields): it comes with every driver and needs no
library. A machine without it has no GPU that vLLM or torch could use.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from containers.contract import Frozen
from containers.errors import BadInput
from containers.hardware import MINIMUM_CAPABILITY, MINIMUM_DRIVER
from containers.process import ProcessFailed, TimedOut, inherited, run

if TYPE_CHECKING:
    from collections.abc import Sequence

_FIELDS: Final = ("index", "uuid", "name", "memory.total", "memory.free", "driver_version", "compute_cap")
UNKNOWN_FIELD: Final = "is not a valid field to query"  # what a driver before 510 says of compute_cap
_MIB: Final = 1 << 20
_TIMEOUT: Final = 30.0  # seconds; without persistence mode the driver first wakes the cards


class Gpu(Frozen):
    """One GPU. `memory` and `free` in bytes; `driver` the version of the driver; `capability` the compute capability, (0, 0) where
    it is not known.
    """

    index: int
    name: str
    memory: int
    free: int
    uuid: str = ""
    driver: str = ""
    capability: tuple[int, int] = (0, 0)

    @property
    def old_driver(self) -> bool:
        """Whether its driver is older than the locked CUDA builds need; False for a version that is not known."""
        major = self.driver.partition(".")[0]
        return major.isdecimal() and int(major) < MINIMUM_DRIVER

    @property
    def unusable(self) -> str:
        """Why the locked CUDA builds do not run on it; empty when they do."""
        if self.old_driver:
            return f"its driver {self.driver} is too old for CUDA 13, which needs {MINIMUM_DRIVER} or newer"
        if (0, 0) < self.capability < MINIMUM_CAPABILITY:
            needed = ".".join(map(str, MINIMUM_CAPABILITY))
            return f"its compute capability {'.'.join(map(str, self.capability))} is below {needed}"
        return ""


def gpus() -> tuple[Gpu, ...]:
    """The GPUs that this process may use: all, or those that CUDA_VISIBLE_DEVICES names; empty without a driver.

    Raises BadInput when there is a driver and it does not answer, which is a broken installation.
    """
    try:
        listed = _listed()
    except BadInput:  # no such program
        return ()
    except ProcessFailed as error:
        if "No devices were found" in error.output:
            return ()
        raise BadInput(
            f"the NVIDIA driver does not answer: {error.output.strip().splitlines()[-1] if error.output.strip() else error}",
            remedy="repair the driver (`nvidia-smi` must list the GPUs), or use the CPU: --device cpu",
        ) from error
    except TimedOut as error:
        raise BadInput(
            f"the NVIDIA driver did not answer within {_TIMEOUT:g} s",
            remedy="repair the driver (`nvidia-smi` must list the GPUs), or use the CPU: --device cpu",
        ) from error
    visible = inherited().get("CUDA_VISIBLE_DEVICES")
    return chosen(parse(listed), visible)


def _listed() -> str:
    """A line a GPU; the last field is empty where the driver does not know it."""

    def asked(fields: Sequence[str]) -> str:
        argv = ["nvidia-smi", f"--query-gpu={','.join(fields)}", "--format=csv,noheader,nounits"]
        return run(argv, env=inherited(), timeout=_TIMEOUT).stdout

    try:
        return asked(_FIELDS)
    except ProcessFailed as error:
        if UNKNOWN_FIELD not in error.output:
            raise
        return "".join(f"{line}, \n" for line in asked(_FIELDS[:-1]).splitlines())


def cards(bus: Path = Path("/sys/bus/pci/devices")) -> int:
    """How many NVIDIA GPUs are plugged in, with a driver or without (PCI's vendor and class, pci.ids)."""
    return sum(
        _read(device / "vendor") == "0x10de" and _read(device / "class").startswith("0x03") for device in bus.glob("*")
    )


def _read(file: Path) -> str:
    try:
        return file.read_text().strip()
    except OSError:
        return ""


def parse(text: str) -> tuple[Gpu, ...]:
    """What nvidia-smi printed: a line a GPU, fields separated by commas, memory in MiB."""
    found = []
    for line in text.splitlines():
        fields = [one.strip() for one in line.split(",")]
        if len(fields) != len(_FIELDS) or not fields[0].isdecimal() or not fields[3].isdecimal():
            continue  # a card that has fallen off its bus is listed as an error
        index, uuid, name, total, free, driver, capability = fields
        major, _, minor = capability.partition(".")
        found.append(
            Gpu(
                index=int(index),
                uuid=uuid,
                name=name,
                memory=int(total) * _MIB,
                free=(int(free) if free.isdecimal() else 0) * _MIB,
                driver=driver,
                capability=(int(major), int(minor)) if major.isdecimal() and minor.isdecimal() else (0, 0),
            )
        )
    return tuple(found)


def chosen(all_: tuple[Gpu, ...], visible: str | None) -> tuple[Gpu, ...]:
    """The GPUs of a CUDA_VISIBLE_DEVICES, in its order: indices or beginnings of UUIDs, up to the first that is none
    (CUDA's documentation of its environment variables).
    """
    if visible is None:
        return all_
    taken = []
    for one in (part.strip() for part in visible.split(",")):
        match = [gpu for gpu in all_ if str(gpu.index) == one or (one.startswith("GPU-") and gpu.uuid.startswith(one))]
        if len(match) != 1:
            break
        taken += match
    return tuple(taken)
