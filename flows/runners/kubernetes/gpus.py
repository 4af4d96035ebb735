"""The GPUs that a service in the cluster gets, for the plan: as the settings name them, else as the nodes do.

The scheduler puts a service on any node that has as many GPUs free; so the node with the smallest counts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from containers.contract import Step
from containers.errors import BadInput
from flows.runners.kubernetes import manifests
from flows.runners.step_container import serving_target
from flows.targets.size import GB
from infra.cluster import NotAllowed
from infra.cluster_gpus import on_nodes

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from infra.accelerators import Gpu
    from infra.settings import Settings

_SAY_IT = "what fits is not planned; CARWRIGHT_RESOURCES__SERVE__GPU says which GPU to plan for"
_CHOOSE = "CARWRIGHT_KUBERNETES__NODE_SELECTOR chooses among them"


def of_nodes(settings: Settings, say: Callable[[str], None]) -> tuple[Gpu, ...]:
    """As many of the smallest as a service gets; none where nodes do not tell, which `say` gets the reason of.

    Raises BadInput when no node has GPUs that the image of the service runs on, and what the cluster's client raises.
    """
    wanted = manifests.resources(settings, Step.SERVE).gpus or 0
    if not wanted:
        return ()
    try:
        found = on_nodes(settings.kubernetes, wanted)
    except NotAllowed:
        say(f"this account may not list the cluster's nodes (infra/kubernetes/nodes.yaml): {_SAY_IT}")
        return ()
    told = {name: gpu for name, gpu in found.items() if gpu is not None}
    if not told:
        resource = settings.kubernetes.gpu_resource
        lack = f"say what their GPUs are ({', '.join(found)})" if found else f"have {wanted} {resource} each"
        say(f"no nodes that steps may run on {lack}: {_SAY_IT}")
        return ()
    usable = _usable(told, say) if serving_target(settings) == "serve-cuda" else told
    smallest = min(usable.values(), key=lambda gpu: gpu.memory)
    if any(gpu.memory != smallest.memory for gpu in usable.values()):
        kinds = ", ".join(sorted({f"{gpu.name} ({gpu.memory / GB:.1f} GB)" for gpu in usable.values()}))
        say(f"nodes have GPUs of different sizes, {kinds}, and the smallest is planned for: {_CHOOSE}")
    return (smallest,) * wanted


def _usable(told: Mapping[str, Gpu], say: Callable[[str], None]) -> Mapping[str, Gpu]:
    """Without those that the image's CUDA does not run on."""
    refused = {name: gpu.unusable for name, gpu in told.items() if gpu.unusable}
    why = "; ".join(f"{name}: {reason}" for name, reason in refused.items())
    if len(refused) == len(told):
        raise BadInput(
            f"no node has GPUs that the image serve-cuda runs on: {why}",
            remedy="renew the driver there, or take upstream's image: CARWRIGHT_SERVE__GPU_IMAGE=serve",
        )
    if refused:
        say(f"the image serve-cuda does not run on every node: {why}; {_CHOOSE}")
    return {name: gpu for name, gpu in told.items() if name not in refused}
