"""Podman / Red Hat AI Inference Server: the reference card's command made right, and a Quadlet unit for systemd.

The model is mounted from its image (`--mount type=image`), read-only and without a copy; GPUs come by CDI. Options are
those of podman-run(1) and podman-systemd.unit(5) of podman 4.4, the first with Quadlet.
"""

from __future__ import annotations

import contextlib
import json
import shlex
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from containers.digest import Digest
from containers.errors import BadInput, Error
from containers.labels import LABEL
from containers.process import Completed, ProcessFailed, inherited, run
from containers.serve_health import is_healthy
from flows.targets.description import MODULE, Rendered, RenderedFile, command, pairs, unpinned
from flows.targets.docker import confined
from flows.targets.hosts import LAST_LINES, PULL, note_rollback, reached, since, wait
from flows.targets.size import GIB
from flows.targets.smoke import ask
from flows.targets.target import DeploymentTarget, RolloutResult
from infra.hardening import DROPPED, pids

if TYPE_CHECKING:
    from collections.abc import Callable

    from flows.targets.description import Deployment

MOUNT: Final = "/modelcar"
MODELS: Final = f"{MOUNT}/models"
_VARIABLES: Final = ("CONTAINER", "STORAGE_", "REGISTRY_AUTH_FILE", "XDG_", "DBUS_")  # that podman is configured by
_LABEL: Final = f"{LABEL}command"  # the digest of all that `podman run` was given


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
    """The vLLM image by its full name."""
    return deployment.vllm_image(deployment.images.podman_image)


def run_arguments(deployment: Deployment, image: str, model: str) -> list[tuple[str, ...]]:
    """What follows `podman run`; `model` is the image of the modelcar as podman knows it."""
    gpus = pairs("--device", devices(deployment))
    return [
        ("--name", deployment.name),
        *confined(pids(deployment.gpus)),
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
        *(f"DropCapability={one}" for one in DROPPED),
        "NoNewPrivileges=true",
        *(["SecurityLabelDisable=true"] if deployment.on_gpu else []),
        f"Mount=type=image,source={deployment.hub},destination={MOUNT}",
        f"PublishPort={deployment.listen}:{deployment.port}:{deployment.port}",
        *(f"Environment={key}={value}" for key, value in deployment.environment.items()),
        f"PodmanArgs=--shm-size={deployment.shared_memory // GIB}g --pids-limit={pids(deployment.gpus)} --entrypoint=python3",
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


def deploy(
    deployment: Deployment, say: Callable[[str], None], *, timeout: float, options: tuple[str, ...] = ()
) -> RolloutResult:
    """`podman run` in the background. One of that name that serves something else is stopped, and started again when the
    new one does not serve. `options` go to podman itself (`--runtime=runc`).
    """
    started = time.monotonic()
    engine = _Podman(options)
    image = image_of(deployment)
    url = f"http://{reached(deployment)}:{deployment.port}"
    arguments = [word for part in run_arguments(deployment, image, deployment.hub) for word in part]
    mark = str(Digest.of("\0".join(arguments).encode()))
    before = engine.container(deployment.name)
    if before is not None and before["Config"]["Labels"].get(_LABEL) == mark and is_healthy(url):
        return RolloutResult(
            name=deployment.name, url=url, answer=ask(url, deployment.name, say), changed=False, seconds=0
        )
    for one in (deployment.hub, image):
        if engine("image", "exists", one, check=False).code != 0:
            say(f"pulling {one}")
            engine("pull", "--quiet", one, timeout=PULL)
    old = f"{deployment.name}-before"
    if before is not None:
        engine("stop", deployment.name)
        engine("rename", deployment.name, old)
    try:
        engine("run", "--detach", "--label", f"{_LABEL}={mark}", *arguments)
        wait(url, timeout, lambda: engine.alive(deployment.name), lambda: engine.log(deployment.name), say)
        answer = ask(url, deployment.name, say)
    except BaseException as error:
        with contextlib.suppress(Error):
            engine("rm", "--force", deployment.name)
        if before is not None:
            engine("rename", old, deployment.name)
            engine("start", deployment.name)
        note_rollback(error, "the old one was started again" if before is not None else "nothing was left behind")
        raise
    if before is not None:
        engine("rm", "--force", old)
    return RolloutResult(name=deployment.name, url=url, answer=answer, changed=True, seconds=since(started))


@dataclass(frozen=True)
class _Podman:
    """The program, with the variables that it is configured by."""

    options: tuple[str, ...]

    def __call__(self, *arguments: str, check: bool = True, timeout: float = 300) -> Completed:
        """Raises BadInput with podman's own words when it refuses."""
        environment = inherited(*_VARIABLES)
        try:
            return run(["podman", *self.options, *arguments], env=environment, check=check, timeout=timeout)
        except ProcessFailed as error:
            raise BadInput(f"podman {arguments[0]}: {error.output.strip()}") from error

    def container(self, name: str) -> dict[str, Any] | None:
        found = self("container", "inspect", name, check=False)
        return dict(json.loads(found.stdout)[0]) if found.code == 0 else None

    def alive(self, name: str) -> bool:
        found = self.container(name)
        return found is not None and found["State"]["Status"] not in {"exited", "stopped"}

    def log(self, name: str) -> str:
        found = self("logs", "--tail", str(LAST_LINES), name, check=False)
        return found.stdout + found.stderr


TARGET: Final = DeploymentTarget(
    name="podman",
    help="one host with podman, or a systemd service there",
    render=lambda deployment, *_: render(deployment),
    deploy=lambda deployment, attempt, options: deploy(
        deployment, attempt.say, timeout=attempt.timeout, options=options.podman_option
    ),
    options=frozenset({"podman_option"}),
)
