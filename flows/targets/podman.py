"""Podman / Red Hat AI Inference Server: the reference card's command made right, and a Quadlet unit for systemd.

The model is mounted from its image (`--mount type=image`), read-only and without a copy; GPUs come by CDI. Options are
those of podman-run(1) and podman-systemd.unit(5) of podman 4.4, the first with Quadlet.
"""

from __future__ import annotations

import json
import shlex
from typing import TYPE_CHECKING, Final

from flows.targets.description import MODULE, Rendered, RenderedFile, command, pairs, unpinned
from flows.targets.docker import CPU_IMAGE
from flows.targets.size import GIB

if TYPE_CHECKING:
    from flows.targets.description import Deployment

IMAGE: Final = "registry.access.redhat.com/rhaiis/rh-vllm-cuda:latest"  # the reference card's, which names no tag
MOUNT: Final = "/modelcar"
MODELS: Final = f"{MOUNT}/models"


def render(deployment: Deployment) -> Rendered:
    """A shell script to try it with, and `<name>.container` for `/etc/containers/systemd` (or the user's)."""
    image = image_of(deployment)
    notes = list(unpinned(image))
    if deployment.on_gpu:
        notes.append("GPUs come by CDI: once for each host, `nvidia-ctk cdi generate --output=/etc/cdi/nvidia.yaml`")
    return Rendered(
        files=(
            RenderedFile(name=f"{deployment.name}.podman.sh", text=script(deployment, image)),
            RenderedFile(name=f"{deployment.name}.container", text=quadlet(deployment, image)),
        ),
        notes=tuple(notes),
    )


def image_of(deployment: Deployment) -> str:
    """The engine's image by its full name: one that was built here is localhost's to podman."""
    return deployment.image or (IMAGE if deployment.on_gpu else f"localhost/{CPU_IMAGE}")


def run_arguments(deployment: Deployment, image: str, model: str) -> list[tuple[str, ...]]:
    """What comes behind `podman run`; `model` is the image of the modelcar as podman knows it."""
    gpus = pairs("--device", devices(deployment))
    return [
        ("--name", deployment.name),
        *gpus,
        *([("--security-opt", "label=disable")] if gpus else []),  # SELinux does not let containers open the devices
        ("--shm-size", f"{deployment.shared_memory // GIB}g"),
        ("--publish", f"{deployment.listen}:{deployment.port}:{deployment.port}"),
        ("--mount", f"type=image,source={model},destination={MOUNT}"),
        *pairs("--env", [f"{key}={value}" for key, value in deployment.environment.items()]),
        ("--entrypoint", json.dumps(["python3", "-m", MODULE])),
        (image,),
        *((argument,) for argument in deployment.vllm(MODELS, deployment.port)),
    ]


def devices(deployment: Deployment) -> list[str]:
    """CDI names of as many GPUs as are used, from the first on."""
    return [f"nvidia.com/gpu={number}" for number in range(deployment.gpus)]


def script(deployment: Deployment, image: str) -> str:
    model = deployment.hub
    text = "#!/bin/sh\nset -eu\n\n# An image that is only mounted is not pulled by `podman run`.\n"
    text += command(("podman", "pull", model)) + "\n"
    return text + command(("podman", "run", "--rm"), *run_arguments(deployment, image, model))


def quadlet(deployment: Deployment, image: str) -> str:
    """The unit; keys in the order of podman-systemd.unit(5)."""
    arguments = ["-m", MODULE, *deployment.vllm(MODELS, deployment.port)]
    lines = [
        "[Unit]",
        f"Description=vLLM serving {deployment.name}",
        "Wants=network-online.target",
        "After=network-online.target",
        "",
        "[Container]",
        f"ContainerName={deployment.name}",
        f"Image={image}",
        *(f"AddDevice={device}" for device in devices(deployment)),
        *(["SecurityLabelDisable=true"] if deployment.on_gpu else []),
        f"Mount=type=image,source={deployment.hub},destination={MOUNT}",
        f"PublishPort={deployment.listen}:{deployment.port}:{deployment.port}",
        *(f"Environment={key}={value}" for key, value in deployment.environment.items()),
        f"PodmanArgs=--shm-size={deployment.shared_memory // GIB}g --entrypoint=python3",
        f"Exec={shlex.join(arguments)}",
        "",
        "[Service]",
        "# An image that is only mounted is not pulled by podman itself.",
        f"ExecStartPre=/usr/bin/podman pull --quiet {deployment.hub}",
        "Restart=on-failure",
        f"TimeoutStartSec={deployment.startup_seconds}",
        "",
        "[Install]",
        "WantedBy=multi-user.target default.target",
    ]
    return "\n".join(lines) + "\n"
