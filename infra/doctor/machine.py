"""What this machine has: Python, disk, memory, cores, and free ports."""

from __future__ import annotations

import os
import platform
import shutil
import socket
from importlib.metadata import PackageNotFoundError, metadata
from typing import TYPE_CHECKING, Final

from packaging.specifiers import SpecifierSet

from containers.events import amount
from containers.ports import LOOPBACK
from infra.doctor.line import Line, ok, wrong
from infra.memory import cgroup
from infra.memory import memory as machine_memory

if TYPE_CHECKING:
    from collections.abc import Mapping

    from infra.settings import Settings

GIB: Final = 1 << 30
ROOM: Final = 8 * 10**9  # bytes that shipping the demo takes: environments, store and image (README)
LEAST_ROOM: Final = 10**9  # bytes below which not even a database and logs are safe
MEMORY: Final = 4 * GIB  # bytes: a quantization takes 2.6 GB, vLLM with the demo somewhat more (docs/measurements)
LEAST_MEMORY: Final = GIB


def python() -> Line:
    """The interpreter is one that the locks are for, on a system that they are for."""
    text = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    try:
        required = str(metadata("carwright").json.get("requires_python", ""))
    except PackageNotFoundError:  # a checkout that is not installed
        required = ""
    if not SpecifierSet(required).contains(platform.python_version(), prereleases=True):
        return wrong("python", text, f"install a Python that is {required}", asked_for=True)
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        return wrong("python", text, "use Linux on x86-64: the steps' locks are for that alone", asked_for=True)
    return ok("python", text)


def disk(settings: Settings, *, room: int = ROOM, least: int = LEAST_ROOM) -> Line:
    """The folders of state and cache can be written and have room; `room` and `least` are bytes."""
    found, tight, full = [], [], []
    for variable, folder in (("CARWRIGHT_HOME", settings.home), ("CARWRIGHT_CACHE", settings.cache)):
        path = folder.expanduser().absolute()
        there = next(one for one in (path, *path.parents) if one.exists())
        if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
            return wrong("disk", f"{path} cannot be written", f"set {variable} to a folder of yours", asked_for=True)
        free = shutil.disk_usage(there).free
        found.append(f"{amount(free, 'B')} free for {path} ({variable})")
        if free < least:
            full.append(variable)
        elif free < room:
            tight.append(variable)
    text = ", ".join(found)
    if full or tight:
        remedy = f"free some space, or set {' and '.join(full or tight)} to a folder on a larger disk"
        needs = f"{text}; the demo needs {amount(room, 'B')}, a model about twice its size"
        return wrong("disk", needs, remedy, asked_for=bool(full))
    return ok("disk", text)


def memory(*, wanted: int = MEMORY, least: int = LEAST_MEMORY) -> Line:
    """What may still be used, also of a control group's limit; `wanted` and `least` are bytes."""
    here = machine_memory()
    free, total = here.free, here.total
    text = f"{amount(free, 'B')} of {amount(total, 'B')} are free"
    if free < wanted:
        remedy = "end other programs, or give steps to a larger machine (CARWRIGHT_PLACEMENT__QUANTIZE, __SERVE)"
        needs = f"{text}; quantizing and serving the demo take up to {amount(wanted, 'B')}"
        return wrong("memory", needs, remedy, asked_for=free < least)
    return ok("memory", text)


def cores() -> Line:
    """Processors that this process may use, also by a control group's quota."""
    count = len(os.sched_getaffinity(0))
    quota, _, period = cgroup("cpu.max").partition(" ")
    share = int(quota) / int(period) if quota.isdigit() and period.isdigit() else float(count)
    text = f"{count}" + (f", of which a limit leaves {share:.1f}" if share < count else "")
    if min(count, share) < 2:
        return wrong("cores", text, "expect long runs: two or more are better", asked_for=False)
    return ok("cores", text)


def ports(wanted: Mapping[str, int]) -> Line:
    """The ports that a dry run publishes on loopback are free; `wanted` is variable -> port."""
    taken = {name: port for name, port in wanted.items() if port and not _is_free(port)}
    if not taken:
        return ok("ports", f"{', '.join(map(str, wanted.values()))} are free for a dry run")
    return wrong(
        "ports",
        f"in use: {', '.join(f'{port} ({name})' for name, port in taken.items())}",
        "nothing to do if a dry run is up; else set these variables to other ports before `make dry-run`",
        asked_for=False,
    )


def _is_free(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # connections that end do not count
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
    return True
