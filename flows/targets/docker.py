"""Docker on one host: the modelcar runs as KServe runs it, and vLLM reads it through the shared pid namespace."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from flows.targets.description import MODULE, USER, Rendered, RenderedFile, command, pairs, unpinned
from flows.targets.size import GIB

if TYPE_CHECKING:
    from flows.targets.description import Deployment

IMAGE: Final = "docker.io/vllm/vllm-openai:latest"
CPU_IMAGE: Final = "carwright/serve-cpu:latest"
MODELS: Final = "/proc/1/root/models"  # the modelcar is process 1 of the pid namespace that both share


def image_for(deployment: Deployment, otherwise: str = IMAGE) -> str:
    """The engine's image: as asked for, or the target's own for GPUs, or ours for the CPU."""
    return deployment.image or (otherwise if deployment.on_gpu else CPU_IMAGE)


def render(deployment: Deployment) -> Rendered:
    """A shell script of two `docker run` commands."""
    image = image_for(deployment)
    name, model = deployment.name, f"{deployment.name}-model"
    gpus = [("--gpus", str(deployment.gpus))] if deployment.on_gpu else []
    script = "#!/bin/sh\nset -eu\n\n# The model: files and `sleep`, nothing else.\n"
    script += command(
        ("docker", "run", "--detach", "--name", model),
        ("--restart", "unless-stopped"),
        ("--network", "none"),
        ("--user", f"{USER}:0"),
        deployment.hub,
        ("sleep", "infinity"),
    )
    script += "\n# vLLM, as the same user: otherwise the kernel denies it /proc/1/root.\n"
    script += command(
        ("docker", "run", "--detach", "--name", name),
        ("--restart", "unless-stopped"),
        ("--pid", f"container:{model}"),
        ("--user", f"{USER}:0"),
        *gpus,
        ("--shm-size", f"{deployment.shared_memory // GIB}g"),
        ("--publish", f"{deployment.listen}:{deployment.port}:{deployment.port}"),
        *pairs("--env", [f"{key}={value}" for key, value in deployment.environment.items()]),
        ("--entrypoint", "python3"),
        image,
        ("-m", MODULE),
        *deployment.vllm(MODELS, deployment.port),
    )
    return Rendered(files=(RenderedFile(name=f"{name}.docker.sh", text=script),), notes=unpinned(image))
