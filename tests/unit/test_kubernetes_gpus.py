"""The GPUs of a cluster, planned for by the labels of its nodes (a small API server stands in for the cluster's)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from containers.errors import BadInput
from flows.serving import machine
from infra.settings import Settings
from tests.support.kube_api import KubeApi, allowed, kube_api, kubeconfig

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# As the GPU feature discovery of NVIDIA's operator writes them (its README, and nodes of public clusters).
H100 = {
    "nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM3",
    "nvidia.com/gpu.memory": "81559",
    "nvidia.com/gpu.compute.major": "9",
    "nvidia.com/gpu.compute.minor": "0",
    "nvidia.com/cuda.driver-version.major": "580",
    "nvidia.com/cuda.driver.major": "580",
}
L40S = H100 | {
    "nvidia.com/gpu.product": "NVIDIA-L40S", "nvidia.com/gpu.memory": "46068", "nvidia.com/gpu.compute.major": "8",
    "nvidia.com/gpu.compute.minor": "9",
}  # fmt: skip
OLD = {name: value for name, value in H100.items() if "driver-version" not in name} | {
    "nvidia.com/cuda.driver.major": "535"
}
READY = [{"type": "Ready", "status": "True"}]


@pytest.fixture
def api() -> Iterator[KubeApi]:
    with kube_api() as served:
        yield served


def node(api: KubeApi, name: str, labels: dict[str, str], gpus: str = "2", **more: Any) -> None:
    status = {"allocatable": {"cpu": "64", "nvidia.com/gpu": gpus}, "conditions": more.pop("conditions", READY)}
    api.put("nodes", {"metadata": {"name": name, "labels": labels}, "spec": more, "status": status})


def planned_for(api: KubeApi, folder: Path, **settings: Any) -> tuple[list[tuple[str, int]], list[str]]:
    """Name and MiB of the GPUs of a service that gets two, and the lines that are said."""
    said: list[str] = []
    wanted = {"launcher": "kubernetes", "resources": {"serve": {"gpus": 2}}} | settings
    cluster = {"kubeconfig": kubeconfig(api, folder)} | wanted.pop("kubernetes", {})
    found = machine.gpus(Settings(**wanted, kubernetes=cluster), said.append)
    assert all(gpu.index == -1 and gpu.free == gpu.memory for gpu in found)
    return [(gpu.name, gpu.memory >> 20) for gpu in found], said


def test_nodes_say_what_their_gpus_are(api: KubeApi, tmp_path: Path) -> None:
    """A node without GPUs, one with too few, one that is being emptied and one that is down are none to go by."""
    node(api, "cpu", {}, "0")
    node(api, "few", L40S, "1")
    node(api, "drained", L40S, unschedulable=True)
    node(api, "down", L40S, conditions=[{"type": "Ready", "status": "Unknown"}])
    node(api, "good", H100)
    assert planned_for(api, tmp_path) == ([("NVIDIA-H100-80GB-HBM3", 81559)] * 2, [])
    assert api.requests == [("list", "nodes")]


def test_of_different_nodes_the_smallest_counts_and_the_user_may_choose(api: KubeApi, tmp_path: Path) -> None:
    node(api, "large", H100 | {"pool": "large"})
    node(api, "small", L40S | {"pool": "small"})
    found, (said,) = planned_for(api, tmp_path)
    assert found == [("NVIDIA-L40S", 46068)] * 2
    assert "NVIDIA-H100-80GB-HBM3 (85.5 GB), NVIDIA-L40S (48.3 GB), and the smallest is planned for" in said
    assert "CARWRIGHT_KUBERNETES__NODE_SELECTOR" in said
    chosen = planned_for(api, tmp_path, kubernetes={"node_selector": {"pool": "large"}})
    assert chosen == ([("NVIDIA-H100-80GB-HBM3", 81559)] * 2, [])


@pytest.mark.parametrize("settings", [{"resources": {"serve": {"gpus": 2, "gpu": "L40S"}}}])
def test_what_the_settings_say_counts_and_no_node_is_asked(
    settings: dict[str, Any], api: KubeApi, tmp_path: Path
) -> None:
    node(api, "good", H100)
    assert planned_for(api, tmp_path, **settings) == ([("L40S", 46068)] * 2, [])
    assert api.requests == []


def test_an_account_that_may_not_list_nodes_is_told_what_to_set(api: KubeApi, tmp_path: Path) -> None:
    """And the run goes on without a plan, as it did before nodes were asked."""
    node(api, "good", H100)
    api.forbidden.add(("list", "nodes"))
    found, (said,) = planned_for(api, tmp_path)
    assert found == []
    assert "may not list the cluster's nodes" in said
    assert "CARWRIGHT_RESOURCES__SERVE__GPU says" in said


@pytest.mark.parametrize(
    ("labels", "gpus", "words"),
    [
        ({"nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM3"}, "2", "say what their GPUs are (only)"),
        (H100 | {"nvidia.com/gpu.memory": "many"}, "2", "say what their GPUs are (only)"),
        (H100 | {"nvidia.com/gpu.replicas": "4"}, "8", "say what their GPUs are (only)"),  # turns at the same ones
        (H100, "1", "have 2 nvidia.com/gpu each"),
    ],
)
def test_nodes_that_do_not_tell_are_no_error(
    labels: dict[str, str], gpus: str, words: str, api: KubeApi, tmp_path: Path
) -> None:
    """A node may come when a pod waits for one."""
    node(api, "only", labels, gpus)
    found, (said,) = planned_for(api, tmp_path)
    assert (found, words in said) == ([], True), said


def test_a_driver_that_is_too_old_is_told_before_any_work(api: KubeApi, tmp_path: Path) -> None:
    """By its node's name; upstream's image may be of another CUDA, and a newer node is planned for."""
    node(api, "old", OLD)
    with pytest.raises(BadInput, match="old: its driver 535 is too old for CUDA 13, which needs 580") as caught:
        planned_for(api, tmp_path)
    assert "CARWRIGHT_SERVE__GPU_IMAGE=serve" in caught.value.remedy
    assert planned_for(api, tmp_path, serve={"gpu_image": "serve"}) == ([("NVIDIA-H100-80GB-HBM3", 81559)] * 2, [])
    node(api, "new", L40S)
    found, (said,) = planned_for(api, tmp_path)
    assert found == [("NVIDIA-L40S", 46068)] * 2
    assert "does not run on every node: old: its driver 535" in said


def test_a_service_without_gpus_asks_nobody(api: KubeApi, tmp_path: Path) -> None:
    assert planned_for(api, tmp_path, resources={}) == ([], [])
    with pytest.raises(BadInput, match="a cluster gives GPUs by number"):
        planned_for(api, tmp_path, resources={"serve": {"gpus": -1}})
    assert api.requests == []


def test_listing_nodes_is_a_permission_of_its_own(root: Path) -> None:
    """Only an administrator can give it, so rbac.yaml does without."""
    assert allowed(root, "carwright-flow", "nodes.yaml") == {("list", "nodes")}
    assert not any(resource == "nodes" for _, resource in allowed(root, "carwright-flow"))
