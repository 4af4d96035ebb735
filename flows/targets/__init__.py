"""Where a modelcar can be deployed: one description, one module for each target, always by digest.

A new target is one module that defines `TARGET`, named below. It imports from the modules here, not from the package, which
imports it: `from flows.targets.docker import MODELS`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from flows.targets import compose, docker, kserve, pod, podman, rhel_ai

if TYPE_CHECKING:
    from collections.abc import Mapping

    from flows.targets.target import DeploymentTarget

# In the order in which the command line names them.
TARGETS: Final[Mapping[str, DeploymentTarget]] = {
    one.name: one
    for one in (
        docker.TARGET,
        podman.TARGET,
        rhel_ai.TARGET,
        kserve.TARGET,
        compose.TARGET,
        pod.TARGET,
    )
}
