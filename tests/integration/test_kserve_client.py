"""Applying, waiting, asking and rolling back, over HTTP against a small API server (tests/support/kube_api.py)."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import pytest

from containers.errors import BadInput, NotReady, Temporary
from flows.targets.kserve import objects, runtime_name
from flows.targets.rollout import Rollout
from infra.cluster import Cluster
from infra.settings import KubernetesSettings
from tests.support.deployments import demo_deployment
from tests.support.kserve_world import CONTAINER, KServe
from tests.support.kube_api import KubeApi, allowed, kube_api, kubeconfig

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.integration
NAME = "smollm2-135m-fp8"


@pytest.fixture
def world() -> KServe:
    return KServe()


@pytest.fixture
def api(world: KServe, root: Path) -> Iterator[KubeApi]:
    with kube_api(world) as served:
        yield served
        assert served.rights <= allowed(root, "carwright-flow"), "rbac.yaml lacks a right"


@pytest.fixture
def cluster(api: KubeApi, tmp_path: Path) -> Iterator[Cluster]:
    with Cluster.open(KubernetesSettings(kubeconfig=kubeconfig(api, tmp_path))) as opened:
        yield opened


def rollout(cluster: Cluster, digit: str = "a", **options: Any) -> Rollout:
    """A rollout of the demo with a digest of one digit; the fates of `KServe` go by the digest."""
    deployment = demo_deployment(digit, options.pop("image", ""))
    runtime, service = objects(deployment)
    said: list[str] = options.pop("said", [])
    settings = {"timeout": 5.0, "gpu_patience": 0.2, "refusal_patience": 0.3, "poll": 0.03} | options
    return Rollout(cluster, runtime, service, said.append, **settings)


def test_a_model_is_served(cluster: Cluster, api: KubeApi) -> None:
    """Both objects are there, the service is asked through its URL, and a second time nothing changes."""
    served = rollout(cluster).run()
    assert served.url == f"{api.url}/served/{NAME}"
    assert served.answer.endswith("a" * 64)
    assert served.changed
    assert len(api.names("servingruntimes")) == 1
    assert not rollout(cluster).run().changed


def test_a_new_digest_replaces_the_old(cluster: Cluster, api: KubeApi) -> None:
    """What answers in the end is the new one; a field that is named no more is gone."""
    first = rollout(cluster, "a")
    first.service["spec"]["predictor"]["timeout"] = 60
    first.run()
    assert rollout(cluster, "b").run().answer.endswith("b" * 64)
    assert "timeout" not in api.find("inferenceservices", NAME)["spec"]["predictor"]


@pytest.mark.parametrize(
    ("fate", "error", "words"),
    [
        ("no-gpus", NotReady, "Insufficient nvidia.com/gpu"),
        ("ImagePullBackOff", BadInput, "ImagePullBackOff"),
        ("crash", BadInput, "ValueError: no such model"),
        ("never", NotReady, "was not ready after"),
        ("unseen", NotReady, "KServe has not looked at it yet"),
        ("invalid", BadInput, "KServe refuses smollm2-135m-fp8: Waiting for runtime"),
    ],
)
def test_what_does_not_come_up_is_rolled_back(
    cluster: Cluster, api: KubeApi, world: KServe, fate: str, error: type[Exception], words: str
) -> None:
    """The error says why, the objects are as before, and the old one still answers."""
    rollout(cluster, "a").run()
    before = copy.deepcopy(api.find("inferenceservices", NAME)["spec"])
    world.fate["b" * 64] = fate
    with pytest.raises(error) as caught:
        rollout(cluster, "b", image="registry.example.com/engine:2", timeout=1.0).run()
    assert words in str(caught.value)
    assert f"rolled back: {NAME} serves as before" in str(caught.value)
    assert api.find("inferenceservices", NAME)["spec"] == before
    assert len(api.names("servingruntimes")) == 1, "the runtime that was made for it is gone again"
    assert rollout(cluster, "a").run().answer.endswith("a" * 64)


def test_a_first_stumble_is_waited_out(cluster: Cluster, world: KServe) -> None:
    """KServe's cache may not have the runtime yet when it first sees the service, and calls it invalid until it has."""
    world.fate["a" * 64] = "stumbles"
    assert rollout(cluster).run().answer.endswith("a" * 64)


def test_crashes_of_the_pod_before_are_not_held_against_the_new_one(cluster: Cluster, api: KubeApi) -> None:
    """It may have crashed now and then in the months that it served."""
    rollout(cluster, "a").run()
    container = {"name": "kserve-container", **CONTAINER, "restartCount": 9, "state": {"running": {}}}
    api.put(
        "pods",
        {
            "metadata": {"name": "old", "labels": {"serving.kserve.io/inferenceservice": NAME}},
            "spec": {"containers": []},
            "status": {"containerStatuses": [container]},
        },
    )
    said: list[str] = []
    attempt = rollout(cluster, "b", said=said)
    attempt.service["spec"]["predictor"]["model"]["args"].append("--seed=1")
    assert attempt.run().answer.endswith("b" * 64)


def test_an_engine_alone_that_is_new_is_waited_for(cluster: Cluster, world: KServe) -> None:
    """With the same digest, too, the answer has to come from what was asked for."""
    rollout(cluster, "a").run()
    world.fate["a" * 64] = "unseen"
    with pytest.raises(NotReady, match="KServe has not looked at it yet"):
        rollout(cluster, "a", image="registry.example.com/engine:2", timeout=0.3).run()


def test_a_url_of_ones_own_does_not_spare_the_waiting(cluster: Cluster, api: KubeApi, world: KServe) -> None:
    """The old one answers there until the new one is ready."""
    rollout(cluster, "a").run()
    world.fate["b" * 64] = "never"
    with pytest.raises(NotReady, match="was not ready after"):
        rollout(cluster, "b", url=f"{api.url}/served/{NAME}", timeout=0.3).run()


@pytest.mark.parametrize("plural", ["servingruntimes", "inferenceservices"])
def test_an_object_whose_receipt_was_lost_is_asked_for_again(cluster: Cluster, api: KubeApi, plural: str) -> None:
    """The cluster took it, and the connection broke before it said so."""
    cluster.list("Pod", {})  # it has answered before
    api.loses[plural] = 1
    assert rollout(cluster).run().answer.endswith("a" * 64)


@pytest.mark.parametrize("plural", ["servingruntimes", "inferenceservices"])
def test_an_object_whose_receipt_never_comes_is_taken_away(api: KubeApi, tmp_path: Path, plural: str) -> None:
    api.loses[plural] = 99
    section = KubernetesSettings(kubeconfig=kubeconfig(api, tmp_path), patience=1)
    with Cluster.open(section) as hasty, pytest.raises(Temporary, match="rolled back: nothing is left"):
        rollout(hasty).run()
    assert api.names("servingruntimes") == api.names("inferenceservices") == []


def test_a_first_deployment_that_fails_leaves_nothing(cluster: Cluster, api: KubeApi, world: KServe) -> None:
    """Nothing was there before, so nothing stays."""
    world.fate["a" * 64] = "no-gpus"
    with pytest.raises(NotReady, match=f"rolled back: nothing is left of {NAME}"):
        rollout(cluster).run()
    assert api.names("servingruntimes") == api.names("inferenceservices") == []


def test_a_runtime_that_another_has_taken_to_stays(cluster: Cluster, api: KubeApi, world: KServe) -> None:
    """Two models on one engine: the failure of the second does not take the runtime from the first."""
    world.fate["a" * 64] = "never"
    attempt = rollout(cluster, timeout=0.3)
    other = copy.deepcopy(attempt.service)
    other["metadata"]["name"] = "other"
    other["spec"]["predictor"]["model"]["storageUri"] = "oci://r.example.com/other@sha256:" + "c" * 64
    cluster.apply(other)
    with pytest.raises(NotReady):
        attempt.run()
    assert api.names("servingruntimes") == [runtime_name("localhost/carwright/serve-cpu:latest", on_gpu=False)]


def test_a_wrong_answer_is_rolled_back(cluster: Cluster, api: KubeApi) -> None:
    """Ready is not enough: the URL has to know the model by its name."""
    api.served["other"] = "x"
    with pytest.raises(NotReady, match=r"serves other, and not smollm2"):
        rollout(cluster, url=f"{api.url}/served/other").run()
    assert api.names("inferenceservices") == []


def test_a_cluster_that_refuses(cluster: Cluster, api: KubeApi) -> None:
    """403 names verb and resource and where the rights are; nothing is half done."""
    api.forbidden.add(("patch", "inferenceservices"))
    with pytest.raises(BadInput, match="forbidden") as caught:
        rollout(cluster).run()
    assert "rbac.yaml" in caught.value.remedy
    assert api.names("servingruntimes") == []


def test_a_cluster_without_kserve(cluster: Cluster, api: KubeApi) -> None:
    """The missing CRD is named as such."""
    api.missing.update(("servingruntimes", "inferenceservices"))
    with pytest.raises(BadInput, match="does not know ServingRuntime") as caught:
        rollout(cluster).run()
    assert "install KServe" in caught.value.remedy


def test_fields_of_others_survive(cluster: Cluster, api: KubeApi) -> None:
    """An annotation that somebody else applied is still there after ours came and went."""
    rollout(cluster, "a").run()
    theirs = {"metadata": {"name": NAME, "annotations": {"team": "search"}}}
    assert api.apply("inferenceservices", NAME, theirs, "kubectl", force=False) == {}
    rollout(cluster, "b").run()
    assert api.find("inferenceservices", NAME)["metadata"]["annotations"]["team"] == "search"


def test_no_cluster_at_all(tmp_path: Path) -> None:
    """No kubeconfig is bad input; nobody at the address is temporary."""
    with pytest.raises(BadInput, match="no cluster to talk to"):
        Cluster.open(KubernetesSettings(kubeconfig=tmp_path / "none"))
    nobody = KubeApi(url="http://127.0.0.1:9")
    with pytest.raises(Temporary, match="does not answer"):
        Cluster.open(KubernetesSettings(kubeconfig=kubeconfig(nobody, tmp_path))).get("Job", "x")
