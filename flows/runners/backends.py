"""The backends that start steps and services, by the names that `settings.launcher` has for them.

A backend's modules are loaded when it is used: the command line's help needs none of their clients.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from containers.contract import Step
from infra.settings import KUBERNETES_DEFAULTS, ResourcesSettings

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from flows.runners.launcher import Launcher
    from flows.runners.service import Services
    from infra.accelerators import Gpu
    from infra.settings import Settings


@dataclass(frozen=True)
class Backend:
    """`images` is the template of the names of its images, None where steps run without; see `step_container.image_name`.

    `may_serve` says whether an earlier run of this folder, under whatever settings, may have left a service on it. `gpus` are
    those that it serves on: none for processors; an index of -1 says that no service can be given certain ones; its second
    argument is told in one line what they cannot be found for. `memory` is the bytes that a service on processors gets at most, 0 where that is not known.
    """

    launcher: Callable[[Settings], Launcher]
    services: Callable[[Settings], Services]
    images: Callable[[Settings], str | None]
    may_serve: Callable[[Settings], bool]
    gpus: Callable[[Settings, Callable[[str], None]], tuple[Gpu, ...]]
    memory: Callable[[Settings], int]


def _process_launcher(settings: Settings) -> Launcher:
    from flows.runners.process.launcher import ProcessLauncher

    return ProcessLauncher(settings)


def _process_services(settings: Settings) -> Services:
    from flows.runners.process.services import ProcessServices

    return ProcessServices(settings)


def _docker_launcher(settings: Settings) -> Launcher:
    from flows.runners.docker.launcher import DockerLauncher, check_addresses

    check_addresses(settings)
    return DockerLauncher(settings)


def _docker_services(settings: Settings) -> Services:
    from flows.runners.docker.services import DockerServices

    return DockerServices(settings)


def _docker_may_serve(settings: Settings) -> bool:
    from flows.runners.docker.services import kept_mark

    return kept_mark(settings).exists()


def _kubernetes_launcher(settings: Settings) -> Launcher:
    from flows.runners.kubernetes.launcher import KubernetesLauncher

    return KubernetesLauncher(settings)


def _kubernetes_services(settings: Settings) -> Services:
    from flows.runners.kubernetes.services import KubernetesServices

    return KubernetesServices(settings)


def _kubernetes_may_serve(settings: Settings) -> bool:
    from flows.runners.kubernetes.kept import mark

    return mark(settings).exists()


def _process_gpus(settings: Settings, say: Callable[[str], None]) -> tuple[Gpu, ...]:
    from infra import accelerators
    from infra.environments.device import device

    own = settings.serve.python is not None and settings.device != "cpu"
    return accelerators.gpus() if own or device(settings) == "cuda" else ()


def _docker_gpus(settings: Settings, say: Callable[[str], None]) -> tuple[Gpu, ...]:
    """As the settings name them; else those of this machine, which is the engine's unless the settings say otherwise."""
    from infra import accelerators

    resources = settings.resources.of(Step.SERVE)
    if not resources.gpus or resources.gpu:
        return named_gpus(settings)
    found = accelerators.gpus()
    return found if resources.gpus < 0 else found[: resources.gpus]


def _kubernetes_gpus(settings: Settings, say: Callable[[str], None]) -> tuple[Gpu, ...]:
    """As the settings name them; else as the labels of the cluster's nodes do."""
    from flows.runners.kubernetes.gpus import of_nodes

    return named_gpus(settings) or of_nodes(settings, say)


def named_gpus(settings: Settings) -> tuple[Gpu, ...]:
    """The GPUs of another machine, by the name in the settings; none without one, and then nothing is planned for them."""
    from flows.targets.size import gpu_memory
    from infra.accelerators import Gpu

    resources = settings.resources.of(Step.SERVE)
    if not resources.gpu or not resources.gpus:
        return ()
    memory = gpu_memory(resources.gpu)
    return (Gpu(index=-1, name=resources.gpu, memory=memory, free=memory),) * max(1, resources.gpus)


def _process_memory(settings: Settings) -> int:
    """That of this machine. What a vLLM of the user's own serves on where there are no NVIDIA GPUs is not known."""
    from infra.memory import memory

    return 0 if settings.serve.python is not None else memory().total


def _limit(settings: Settings, defaults: ResourcesSettings) -> int:
    """The limit of a serving container without GPUs."""
    resources = settings.resources.of(Step.SERVE).over(defaults.of(Step.SERVE))
    return 0 if resources.gpus else int((resources.memory_gib or 0) * (1 << 30))


BACKENDS: Final[Mapping[str, Backend]] = {
    "process": Backend(
        _process_launcher,
        _process_services,
        images=lambda _: None,
        may_serve=lambda _: True,
        gpus=_process_gpus,
        memory=_process_memory,
    ),
    "docker": Backend(
        _docker_launcher,
        _docker_services,
        images=lambda settings: settings.docker.image,
        may_serve=_docker_may_serve,
        gpus=_docker_gpus,
        memory=lambda settings: _limit(settings, ResourcesSettings()),
    ),
    "kubernetes": Backend(
        _kubernetes_launcher,
        _kubernetes_services,
        images=lambda settings: settings.kubernetes.image,
        may_serve=_kubernetes_may_serve,
        gpus=_kubernetes_gpus,
        memory=lambda settings: _limit(settings, KUBERNETES_DEFAULTS),
    ),
}
