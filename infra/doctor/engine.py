"""The container engine: whether Docker or podman answers, is recent enough, and can give GPUs to containers."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Final

from containers.errors import BadInput, Error
from infra.accelerators import gpus
from infra.container_engine.inspection import inspect_engine
from infra.doctor.gpu import wants_gpus
from infra.doctor.line import Line, failed, ok, skipped, wrong

if TYPE_CHECKING:
    from infra.container_engine.inspection import EngineFacts
    from infra.settings import Settings

API: Final = (1, 41)  # Docker 20.10
_WITHOUT: Final = "`make ship` works without one"


def engine(settings: Settings) -> Line:
    """Whether there is an engine for steps in containers; a problem only if the settings want one."""
    asked_for = _asked_for(settings)
    try:
        found = inspect_engine(settings.docker)
    except BadInput as error:
        remedy = _podman() or f"install and start Docker or podman, or set CARWRIGHT_DOCKER__HOST; {_WITHOUT}"
        if "may not use" in error.message:
            remedy = (
                "join the group of its socket (usermod -aG docker USER, then log in again), or use a rootless engine"
            )
        return wrong("engine", error.message, remedy, asked_for=asked_for)
    except Error as error:
        return failed("engine", error, asked_for=asked_for)
    if found.api < API:
        remedy = f"install Docker 20.10 or podman 4.3, or later; {_WITHOUT}"
        return wrong("engine", f"{found}: too old", remedy, asked_for=asked_for)
    return ok("engine", str(found))


def engine_gpu(settings: Settings) -> Line:
    """Whether containers can have the GPUs of this machine."""
    asked_for = _asked_for(settings) and wants_gpus(settings)
    if settings.docker.gpu_kind == "rocm":
        return ok("engine-gpu", "containers get /dev/kfd and /dev/dri")
    try:
        here = bool(gpus())
        found = inspect_engine(settings.docker)
    except Error:
        return wrong("engine-gpu", "see the lines `gpu` and `engine`", "", asked_for=True) if asked_for else skipped(
            "engine-gpu", "see the lines `gpu` and `engine`")  # fmt: skip
    if found.nvidia:
        return ok(
            "engine-gpu", f"containers get GPUs by {'the NVIDIA runtime' if found.nvidia == 'runtime' else 'CDI'}"
        )
    if not here and not asked_for:
        return skipped("engine-gpu", "there is no GPU here")
    return wrong("engine-gpu", "the engine cannot give GPUs to containers", _toolkit(found), asked_for=asked_for)


def _asked_for(settings: Settings) -> bool:
    return settings.launcher == "docker" or settings.docker.host is not None


def _toolkit(found: EngineFacts) -> str:
    if found.product == "Podman":
        how = "nvidia-ctk cdi generate --output=/etc/cdi/nvidia.yaml"
    else:
        how = "nvidia-ctk runtime configure --runtime=docker && systemctl restart docker"
    toolkit = "" if shutil.which("nvidia-ctk") else "install NVIDIA's container toolkit, then "
    return f"{toolkit}run `{how}`"


def _podman() -> str:
    """What to do on a machine that has podman and no Docker; empty without podman."""
    sockets = (Path(f"/run/user/{os.getuid()}/podman/podman.sock"), Path("/run/podman/podman.sock"))
    for socket in sockets:
        if os.access(socket, os.W_OK):
            return f"podman listens there: set CARWRIGHT_DOCKER__HOST=unix://{socket}"
    if shutil.which("podman"):
        return f"podman is installed: `systemctl --user start podman.socket`, then CARWRIGHT_DOCKER__HOST=unix://{sockets[0]}"
    return ""
