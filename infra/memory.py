"""The memory of this machine, or of the control group that a limit holds this process in."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from containers.contract import Frozen

_CGROUP: Final = Path("/sys/fs/cgroup")


class Memory(Frozen):
    """Bytes in all, and bytes that may still be used."""

    total: int
    free: int


def memory() -> Memory:
    """The machine's, or the control group's where that has less."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    known = {name: int(rest.split()[0]) << 10 for name, _, rest in (line.partition(":") for line in lines)}
    total, free = known["MemTotal"], known["MemAvailable"]
    limit = cgroup("memory.max")
    if limit.isdigit() and int(limit) < total:
        total = int(limit)
        free = min(free, total - int(cgroup("memory.current") or 0))
    return Memory(total=total, free=free)


def cgroup(file: str) -> str:
    """A limit of this process's control group (cgroup v2, as a container sees it); empty without one."""
    try:
        return (_CGROUP / file).read_text().strip()
    except OSError:
        return ""
