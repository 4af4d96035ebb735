"""What holds for a step's container wherever it runs, on a container engine or in a cluster."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from containers.contract import Step
from containers.errors import BadInput
from containers.settings import SECRETS as SECRETS_FOLDER
from containers.suites import makes_load

if TYPE_CHECKING:
    from containers.contract import StepRequest
    from infra.settings import Settings

WORK: Final = "/run/carwright"  # the request, and where a step writes
SECRETS: Final = str(SECRETS_FOLDER)
LOGINS: Final = "registry-logins.json"  # among the secrets


def image_name(template: str, step: Step, settings: Settings) -> str:
    """The image of a step, another one where it gets GPUs; `template` has `{target}` in the target's place."""
    target = step.value
    gpus = settings.resources.of(step).gpus
    if step is Step.QUANTIZE and gpus:
        target = "quantize-cuda"
    elif step is Step.SERVE:
        target = serving_target(settings) if gpus else "serve-cpu"
    return template.format(target=target)


def image_step(request: StepRequest) -> Step:
    """The step whose image runs the request: its own, but what puts load on an endpoint needs the load generator of vLLM."""
    return Step.SERVE if makes_load(request) else request.step


def serving_target(settings: Settings) -> str:
    """The image that serves on GPUs: Carwright's own, or the one made from upstream's, as which alone there is one for ROCm."""
    rocm = settings.launcher == "docker" and settings.docker.gpu_kind == "rocm"
    return "serve" if rocm else settings.serve.gpu_image


def has_registry(image: str) -> bool:
    """Whether the name says which registry it comes from, as engines read it; one without is built here, and never pulled.

    Engines would ask Docker Hub for a name without a registry, where anybody may take it. What `localhost/` begins was
    built here, as podman has it, and no registry: one on this machine has a port.
    """
    first, slash, _ = image.partition("/")
    return bool(slash) and first != "localhost" and ("." in first or ":" in first)


def makes_user_namespaces(request: StepRequest) -> bool:
    """Whether it runs bubblewrap, around a model's programs: the default seccomp profile of engines forbids what that does."""
    return request.step is Step.EVALUATE and request.parameters.get("action", "measure") == "measure"


def check_signing(settings: Settings) -> None:
    """Raises BadInput where a run with these settings would promote in a container and is to sign with a folder of this machine."""
    if settings.launcher != "process" and not settings.placement.deployment(Step.PUSH):
        refuse_key_folder(settings)


def refuse_key_folder(settings: Settings) -> None:
    """Raises BadInput if keys lie in a folder of this machine, which no container has."""
    if settings.sign.folder is not None:
        raise BadInput(
            f"CARWRIGHT_SIGN__FOLDER, {settings.sign.folder}, is of this machine, and promotion runs in a container",
            remedy="set CARWRIGHT_DOCKER__SIGNING_VOLUME or CARWRIGHT_KUBERNETES__SIGNING_SECRET, or CARWRIGHT_SIGN__KEY_FILE",
        )
