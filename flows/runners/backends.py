"""The backends that start steps and services, by the names that `settings.launcher` has for them.

A backend's modules are loaded when it is used: the command line's help needs none of their clients.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from flows.runners.launcher import Launcher
    from flows.runners.service import Services
    from infra.settings import Settings


@dataclass(frozen=True)
class Backend:
    """`images` is the template of the names of its images, None where steps run without; see `step_container.image_name`.

    `may_serve` says whether an earlier run of this folder, under whatever settings, may have left a service on it.
    """

    launcher: Callable[[Settings], Launcher]
    services: Callable[[Settings], Services]
    images: Callable[[Settings], str | None]
    may_serve: Callable[[Settings], bool]


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


BACKENDS: Final[Mapping[str, Backend]] = {
    "process": Backend(_process_launcher, _process_services, images=lambda _: None, may_serve=lambda _: True),
    "docker": Backend(
        _docker_launcher,
        _docker_services,
        images=lambda settings: settings.docker.image,
        may_serve=_docker_may_serve,
    ),
    "kubernetes": Backend(
        _kubernetes_launcher,
        _kubernetes_services,
        images=lambda settings: settings.kubernetes.image,
        may_serve=lambda _: False,
    ),
}
