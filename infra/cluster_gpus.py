"""The GPUs of a cluster, by what its nodes say of themselves.

NVIDIA's GPU feature discovery, a part of its operator and of its device plugin, writes a label for each property: product,
memory in MiB, version of the driver, compute capability (its README lists them). How many GPUs pods may have is in the
node's `status.allocatable`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from infra.accelerators import Gpu
from infra.cluster import Cluster

if TYPE_CHECKING:
    from collections.abc import Mapping

    from infra.settings import KubernetesSettings

_MIB: Final = 1 << 20
_DRIVER: Final = (
    "nvidia.com/cuda.driver-version",
    "nvidia.com/cuda.driver",
)  # the second until 2024, and beside it since


def on_nodes(settings: KubernetesSettings, wanted: int) -> dict[str, Gpu | None]:
    """One GPU of each node that could take a pod with `wanted` of them, by the node's name.

    None for a node that does not say what its GPUs are, or whose "GPUs" are turns at the same ones (time slicing). Raises
    NotAllowed for an account that may not list nodes, and what a cluster's client raises.
    """
    with Cluster.open(settings) as cluster:
        nodes = cluster.list("Node", settings.node_selector)
    return {
        str(node["metadata"]["name"]): labelled(node["metadata"].get("labels") or {})
        for node in nodes
        if _takes_pods(node) and _allocatable(node, settings.gpu_resource) >= wanted
    }


def labelled(labels: Mapping[str, str]) -> Gpu | None:
    """The GPU that the labels of a node describe; None for labels that do not, or for one that pods share."""
    memory = labels.get("nvidia.com/gpu.memory", "")
    if not memory.isdecimal() or not int(memory) or _number(labels, "nvidia.com/gpu.replicas") > 1:
        return None
    driver = next((labels[f"{name}.major"] for name in _DRIVER if f"{name}.major" in labels), "")
    return Gpu(
        index=-1,
        name=labels.get("nvidia.com/gpu.product", "GPU"),
        memory=int(memory) * _MIB,
        free=int(memory) * _MIB,  # pods get whole GPUs, and wait for them
        driver=driver,
        capability=(_number(labels, "nvidia.com/gpu.compute.major"), _number(labels, "nvidia.com/gpu.compute.minor")),
    )


def _takes_pods(node: Mapping[str, Any]) -> bool:
    conditions = (node.get("status") or {}).get("conditions") or ()
    ready = all(one.get("status") == "True" for one in conditions if one.get("type") == "Ready")
    return ready and not (node.get("spec") or {}).get("unschedulable")


def _allocatable(node: Mapping[str, Any], resource: str) -> int:
    return _number((node.get("status") or {}).get("allocatable") or {}, resource)


def _number(values: Mapping[str, Any], name: str) -> int:
    text = str(values.get(name, ""))
    return int(text) if text.isdecimal() else 0
