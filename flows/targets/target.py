"""What a deployment target is: what it renders, and how it is deployed to where that can be done from here.

A target's module defines one `TARGET`, and `flows.targets.TARGETS` holds them all. The command line is made of these.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Literal

from containers.contract import Frozen
from containers.errors import BadInput

if TYPE_CHECKING:
    from collections.abc import Callable

    from containers.events import OnEvent
    from flows.admission import Admitted
    from flows.targets.description import Deployment, Rendered
    from infra.settings import Settings

Storage = Literal["oci", "oci+native", "oci+fetch"]  # KServe's ways to a model in an image


@dataclass(frozen=True, kw_only=True)
class TargetOptions:
    """Options of the command line that some targets know and the others refuse, each under the name of its flag.

    `gpu_patience` is in seconds. `podman_option` is given to podman itself.
    """

    storage: Storage = "oci"
    namespace: str = ""
    gpu_patience: float = 180.0
    url: str = ""
    force_conflicts: bool = False
    podman_option: tuple[str, ...] = ()


@dataclass(frozen=True)
class ModelSource:
    """Where the description was read: the reference as the user gave it, with its tag.

    `settings` are those that its registry is asked with; None when the registry must not be asked.
    """

    reference: str
    settings: Settings | None


@dataclass(frozen=True)
class DeploymentAttempt:
    """What a deployment is carried out with. The model must be ready within `timeout` seconds.

    `say` is given lines for people, `on_event` the events of a step. `admitted` is the policy that the model has passed.
    """

    settings: Settings
    timeout: float
    say: Callable[[str], None]
    on_event: OnEvent
    admitted: Admitted | None = None


class RolloutResult(Frozen):
    """What came of a deployment. `changed` is False when the target served that very thing already."""

    name: str
    url: str
    answer: str
    changed: bool
    seconds: float


@dataclass(frozen=True, kw_only=True)
class DeploymentTarget:
    """One target; `help` is its place in words, for `carwright render --help`.

    `render` changes nothing. `deploy` returns when the model has answered at its URL, and else raises and puts back what
    was there before; it is None where a deployment cannot be started from here. `options` names those of `TargetOptions`
    that the target knows.
    """

    name: str
    help: str
    render: Callable[[Deployment, ModelSource, TargetOptions], Rendered]
    deploy: Callable[[Deployment, DeploymentAttempt, TargetOptions], RolloutResult] | None = None
    options: frozenset[str] = frozenset()

    def check(self, options: TargetOptions) -> None:
        """Raises BadInput for options that this target would pass over."""
        defaults = TargetOptions()
        unknown = [
            f"--{one.name.replace('_', '-')}"
            for one in fields(options)
            if one.name not in self.options and getattr(options, one.name) != getattr(defaults, one.name)
        ]
        if unknown:
            raise BadInput(f"the target {self.name} takes no {' and no '.join(unknown)}", remedy="leave it out")
