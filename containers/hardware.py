"""What a model is served on, in words: measured times say nothing without it, and are compared only where it is the same."""

from __future__ import annotations

import hashlib
import os
import platform
from pathlib import Path
from typing import TYPE_CHECKING, Final

from containers.errors import BadInput
from containers.process import ProcessFailed, TimedOut, inherited, run

if TYPE_CHECKING:
    from collections.abc import Sequence

# What the locked CUDA builds run on: CUDA 13 (its release notes' table of drivers, and of the architectures it compiles for).
MINIMUM_DRIVER: Final = 580
MINIMUM_CAPABILITY: Final = (7, 5)
_CPUINFO: Final = Path("/proc/cpuinfo")
_MACHINE_ID: Final = Path("/etc/machine-id")  # machine-id(5)
_TIMEOUT: Final = 30.0  # seconds for nvidia-smi


def processors(cpuinfo: Path = _CPUINFO, count: int = 0) -> str:
    """The processors that this process may use, or `count` of them: "2 x Intel(R) Xeon(R) Processor"."""
    try:
        lines = cpuinfo.read_text(errors="replace").splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    name = next(named, "") or platform.machine()
    return f"{count or len(os.sched_getaffinity(0))} x {' '.join(name.split())}"


def gpus(devices: Sequence[str], count: int) -> str:
    """The GPUs with these indices, or the first `count` that the driver lists; empty where it lists none."""
    argv = ["nvidia-smi", "--query-gpu=index,name", "--format=csv,noheader"]
    try:
        listed = run(argv, env=inherited(), timeout=_TIMEOUT).stdout
    except (BadInput, ProcessFailed, TimedOut):
        return ""
    named = dict(part.strip().split(", ", 1) for part in listed.splitlines() if ", " in part)
    taken = [named[index] for index in devices if index in named] or list(named.values())[: max(count, 1)]
    return " and ".join(f"{taken.count(name)} x {name}" for name in sorted(set(taken)))


def this_machine(machine_id: Path = _MACHINE_ID) -> str:
    """Eight hex digits that tell this machine from others of the same make; machine-id(5) asks not to show the id itself."""
    try:
        found = machine_id.read_text().strip()
    except OSError:
        found = ""
    return hashlib.sha256(f"carwright {found or platform.node()}".encode()).hexdigest()[:8]
