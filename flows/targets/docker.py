"""Docker on one host: the modelcar runs as KServe runs it, and vLLM reads it through the shared pid namespace."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from containers.contract import Step, StepRequest
from containers.errors import BadInput
from containers.parameters import ServeParameters
from flows.targets.description import MODULE, Rendered, RenderedFile, command, pairs, unpinned
from flows.targets.hosts import since
from flows.targets.size import GIB
from flows.targets.smoke import ask
from flows.targets.target import DeploymentTarget, RolloutResult
from infra.hardening import DROPPED, NO_NEW_PRIVILEGES, PIDS_OF_A_MODELCAR, USER, pids

if TYPE_CHECKING:
    from collections.abc import Callable

    from pydantic import JsonValue

    from containers.events import OnEvent
    from flows.admission import Admitted
    from flows.targets.description import Deployment
    from infra.settings import Settings

MODELS: Final = "/proc/1/root/models"  # the modelcar is process 1 of the pid namespace that both share


def render(deployment: Deployment) -> Rendered:
    """A shell script of two `docker run` commands."""
    image = deployment.vllm_image(deployment.images.docker_image)
    name, model = deployment.name, f"{deployment.name}-model"
    gpus = [("--gpus", str(deployment.gpus))] if deployment.on_gpu else []
    script = "#!/bin/sh\nset -eu\n\n# The model: files and `sleep`, nothing else.\n"
    script += command(
        ("docker", "run", "--detach", "--name", model),
        ("--restart", "unless-stopped"),
        ("--network", "none"),
        ("--user", f"{USER}:0"),
        "--read-only",
        *confined(PIDS_OF_A_MODELCAR),
        deployment.hub,
        ("sleep", "infinity"),
    )
    script += "\n# vLLM, as the same user: otherwise the kernel denies it /proc/1/root.\n"
    script += command(
        ("docker", "run", "--detach", "--name", name),
        ("--restart", "unless-stopped"),
        ("--pid", f"container:{model}"),
        ("--user", f"{USER}:0"),
        *confined(pids(deployment.gpus)),
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


def confined(processes: int) -> list[tuple[str, str]]:
    """Options of `docker run`, and of podman's, for a program that needs no privileges."""
    return [
        *pairs("--cap-drop", DROPPED),
        ("--security-opt", NO_NEW_PRIVILEGES),
        ("--pids-limit", str(processes)),
    ]


def deploy(
    deployment: Deployment,
    settings: Settings,
    say: Callable[[str], None],
    on_event: OnEvent,
    *,
    timeout: float,
    admitted: Admitted | None = None,
) -> RolloutResult:
    """The modelcar mechanism, by the same service that the flow deploys with; it stays until `carwright clean`."""
    from flows.runners.docker.services import DockerServices

    here = deployment.listen in {"127.0.0.1", "0.0.0.0"}  # noqa: S104 -- compared, not bound
    others = {
        "--argument": deployment.arguments,
        "--kv-cache-dtype": deployment.fp8_cache,
        "--listen ADDRESS": not here,
    }
    if refused := [option for option, given in others.items() if given]:
        raise BadInput(
            f"deploy docker starts vLLM by Carwright's own server, which takes no {' and no '.join(refused)}",
            remedy="leave it out, or run the script that `carwright render docker REFERENCE` writes",
        )
    started = time.monotonic()
    docker = settings.docker.model_copy(update={"image": deployment.image or settings.docker.image})
    serve = settings.resources.serve.model_copy(update={"gpus": deployment.gpus})
    resources = settings.resources.model_copy(update={"serve": serve})
    parameters = ServeParameters(
        reference=deployment.hub,
        served_model_name=deployment.name,
        max_model_len=deployment.max_model_len,
        tensor_parallel_size=max(1, deployment.gpus),
        arguments=deployment.parsers.arguments,
    )
    options: dict[str, JsonValue] = {"host": deployment.listen, "port": deployment.port, "ready_timeout": timeout}
    options |= admitted.options if admitted is not None else {}
    request = StepRequest(
        step=Step.SERVE, run=f"deploy-{deployment.name}", parameters=parameters.dump(), options=options
    )
    services = DockerServices(settings.model_copy(update={"docker": docker, "resources": resources}))
    lease = services.start(request, on_event, keep=True)
    try:
        endpoint = lease.endpoint
        url = endpoint.published or endpoint.url
        answer = ask(url, deployment.name, say)
    except BaseException:
        lease.end()
        raise
    lease.keep()
    return RolloutResult(name=deployment.name, url=url, answer=answer, changed=not lease.found, seconds=since(started))


TARGET: Final = DeploymentTarget(
    name="docker",
    help="one host with Docker",
    render=lambda deployment, *_: render(deployment),
    deploy=lambda deployment, attempt, _: deploy(
        deployment,
        attempt.settings,
        attempt.say,
        attempt.on_event,
        timeout=attempt.timeout,
        admitted=attempt.admitted,
    ),
)
