"""Every container that is started, by whatever file or code, against the one rule (infra/hardening.py); and whose image it is."""

from __future__ import annotations

import itertools
import json
import shlex
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from containers.contract import Step, StepRequest
from containers.digest import Digest
from containers.errors import BadInput
from containers.parameters import EvaluateParameters, ServeParameters
from flows.local.dry_run.site import Site
from flows.orchestrator.work_pools import POOLS, Host
from flows.runners.docker.container_spec import step_spec
from flows.runners.docker.launcher import ensure_image
from flows.runners.kubernetes.manifests import job
from flows.runners.step_container import has_registry
from flows.targets import kserve, pod
from infra.container_engine.client import ContainerEngine, Spec
from infra.hardening import PIDS, PIDS_OF_A_MODELCAR, PIDS_WITH_GPUS, of_pod_container
from infra.settings import IMAGES, Settings
from tests.support.deployments import demo_deployment, large_deployment, render

if TYPE_CHECKING:
    from pathlib import Path

BOTH = pytest.mark.parametrize(
    ("deployment", "pids"), [(demo_deployment(), PIDS), (large_deployment(), PIDS_WITH_GPUS)], ids=["demo", "70b"]
)
STEPS = [
    *(StepRequest(step=step, run="r") for step in (Step.DOWNLOAD, Step.QUANTIZE, Step.PUSH)),
    StepRequest(step=Step.EVALUATE, run="r", parameters=EvaluateParameters(suite_digest=Digest("0" * 64)).dump()),
    StepRequest(step=Step.SERVE, run="r", parameters=ServeParameters(served_model_name="m").dump()),
]


@pytest.mark.parametrize("name", ["compose.yaml", "compose.gpu.yaml"])
def test_services_of_compose(root: Path, name: str) -> None:
    """Root is only what gives keys away, without a network, and then ends, and what becomes another user at once."""
    for service, told in yaml.safe_load((root / "infra" / name).read_text())["services"].items():
        assert told["read_only"] is True, service
        assert told["cap_drop"] == ["ALL"], service
        socket = any("docker.sock" in volume for volume in told.get("volumes", ()))
        relabeled = ["label=disable"] if socket and name == "compose.yaml" else []  # for SELinux
        assert told["security_opt"] == ["no-new-privileges:true", *relabeled], service
        assert told["pids_limit"] == PIDS, service
        assert "privileged" not in told
        if service == "keys":
            assert (told["user"], told["network_mode"]) == ("0:0", "none")
            assert set(told["cap_add"]) == {"CHOWN", "DAC_OVERRIDE", "FOWNER"}
        elif told.get("user") == "0:0":
            assert (service, told["command"][:3]) == ("worker", ["python", "-m", "infra.socket_user"])
            assert set(told["cap_add"]) == {"SETUID", "SETGID"}
        elif service == "deployments":  # looks at the socket's group and is not in it
            assert told["user"] == "1001:1001"
            assert not {"cap_add", "group_add", "devices", "pid"} & set(told)
        else:
            assert not {"user", "cap_add", "devices", "pid"} & set(told), service  # the user is the image's, 1001


@pytest.mark.parametrize("pool", POOLS, ids=lambda pool: pool.name)
def test_flow_runs_of_a_docker_pool(pool: Any) -> None:
    told = Host(socket_group=998).template(pool)["job_configuration"]
    create = told["container_create_kwargs"]
    assert (create["user"], create["read_only"], create["pids_limit"]) == ("1001:0", True, PIDS)
    assert (create["cap_drop"], create["security_opt"]) == (["ALL"], ["no-new-privileges", "label=disable"])
    assert Host().template(pool)["job_configuration"]["container_create_kwargs"]["security_opt"] == [
        "no-new-privileges"
    ]
    assert set(create["tmpfs"]) == {"/tmp", "/home/carwright"}
    assert told["privileged"] is False


def test_flow_runs_of_a_cluster(root: Path) -> None:
    template = json.loads((root / "infra" / "kubernetes" / "work-pool.json").read_text())
    spec = template["job_configuration"]["job_manifest"]["spec"]["template"]["spec"]
    assert spec["securityContext"] == {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
    (container,) = spec["containers"]
    assert container["securityContext"] == of_pod_container()
    assert {one["mountPath"] for one in container["volumeMounts"]} == {"/tmp", "/home/carwright"}


@pytest.mark.parametrize("request_", STEPS, ids=lambda one: one.step.value)
def test_steps_of_a_cluster(request_: StepRequest) -> None:
    spec = job(Settings(), request_, "a-name")["spec"]["template"]["spec"]
    assert spec["securityContext"]["runAsNonRoot"] is True
    for container in (*spec["containers"], *spec.get("initContainers", ())):
        assert container["securityContext"] == of_pod_container()


class Engine:
    """Keeps what it is asked to make."""

    def __init__(self) -> None:
        self.host: dict[str, Any] = {}
        self.made: dict[str, Any] = {}

    def version(self) -> dict[str, Any]:
        return {"Components": [{"Name": "Engine"}]}  # Docker's

    def create_host_config(self, **host: Any) -> dict[str, Any]:
        self.host = host
        return {}

    def create_container(self, image: str, **made: Any) -> dict[str, str]:
        self.made = made
        return {"Id": "id"}


@pytest.mark.parametrize("gpus", [None, -1, 2])
@pytest.mark.parametrize("request_", STEPS, ids=lambda one: one.step.value)
def test_steps_of_an_engine(request_: StepRequest, gpus: int | None) -> None:
    engine = Engine()
    settings = Settings(resources={"all": {"gpus": gpus}})
    ContainerEngine(engine, "p").create(step_spec(settings, request_, "image"))
    assert engine.made["user"] == "1001:0"
    assert (engine.host["read_only"], engine.host["cap_drop"]) == (True, ["ALL"])
    assert engine.host["security_opt"][0] == "no-new-privileges"
    assert engine.host["pids_limit"] == (PIDS_WITH_GPUS if gpus else PIDS)
    assert "privileged" not in engine.host


def test_what_nobody_bounds_is_bounded_anyway() -> None:
    engine = Engine()
    ContainerEngine(engine, "p").create(Spec("name", "image", (), {}))
    assert engine.host["pids_limit"] == PIDS


@BOTH
def test_what_docker_and_podman_are_told(deployment: Any, pids: int) -> None:
    bounds = []
    for target in ("docker", "podman"):
        (script,) = (text for name, text in render(target, deployment).items() if name.endswith(".sh"))
        for run in [line for line in script.replace("\\\n", "").splitlines() if " run " in line and line[0] != "#"]:
            words = shlex.split(run)
            options = dict(itertools.pairwise(words))
            assert options["--cap-drop"] == "ALL"
            assert "--security-opt no-new-privileges" in run
            assert not {"--privileged", "--cap-add"} & set(words)
            bounds.append((target, int(options["--pids-limit"]), "--read-only" in words))
    assert bounds == [("docker", PIDS_OF_A_MODELCAR, True), ("docker", pids, False), ("podman", pids, False)]
    (unit,) = (text for name, text in render("podman", deployment).items() if name.endswith(".container"))
    assert {"DropCapability=ALL", "NoNewPrivileges=true"} <= set(unit.splitlines())
    assert f" --pids-limit={pids} " in unit


@BOTH
def test_what_compose_is_told(deployment: Any, pids: int) -> None:
    (text,) = render("compose", deployment).values()
    services = yaml.safe_load(text)["services"]
    for service in services.values():
        assert service["user"] == "1001:0"
        assert (service["cap_drop"], service["security_opt"]) == (["ALL"], ["no-new-privileges:true"])
    assert (services["model"]["read_only"], services["model"]["pids_limit"]) == (True, PIDS_OF_A_MODELCAR)
    assert services["vllm"]["pids_limit"] == pids


@BOTH
def test_what_pods_are_told(deployment: Any, pids: int) -> None:
    del pids  # the kubelet's to bound
    spec = pod.manifest(deployment)["spec"]
    _, service = kserve.objects(deployment)
    contexts = [one["securityContext"] for one in (*spec["initContainers"], *spec["containers"])]
    assert all(one["runAsUser"] == 1001 for one in contexts)
    for context in (*contexts, service["spec"]["predictor"]["model"]["securityContext"]):
        assert context["allowPrivilegeEscalation"] is False
        assert context["capabilities"] == {"drop": ["ALL"]}


@BOTH
def test_what_serves_is_told_no_secret(deployment: Any, pids: int) -> None:
    """Of no target: neither a key nor a token is anywhere in what is rendered."""
    del pids
    for target in ("docker", "podman", "compose", "pod", "kserve"):
        for text in render(target, deployment).values():
            assert not [
                word for word in ("SECRET", "TOKEN", "PASSWORD", "ACCESS_KEY", "AUTH", "CARWRIGHT_") if word in text
            ]


# Names that an engine would look up on Docker Hub, or nowhere, if it has no such image.
ATTACKS = ["flow", "flow:latest", "carwright/flow", "carwright/flow:latest", "library/flow:1", "a/b/c:1",
           f"{IMAGES}/flow:latest", "localhost/flow", "carwright/flow@sha256:" + "0" * 64]  # fmt: skip


@pytest.mark.parametrize("name", ATTACKS)
def test_a_name_without_a_registry_is_never_pulled(name: str) -> None:
    """By steps and services, by the pool's worker, or by a kubelet."""
    assert not has_registry(name)

    class Lacking:
        def has_image(self, name: str) -> bool:
            return False

    with pytest.raises(BadInput, match="the engine has no image"):
        ensure_image(Lacking(), name, Settings(), lambda _: None)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "name", ["registry.example.com/a/b:1", "localhost:5000/a", "127.0.0.1:5000/a", "docker.io/a/b"]
)
def test_a_name_with_a_registry_is(name: str) -> None:
    assert has_registry(name)


def test_nobody_pulls_ours_by_accident(root: Path) -> None:
    """localhost is a registry of this machine alone, and there is none."""
    assert IMAGES.startswith("localhost/")
    assert Site().image("flow") == f"{IMAGES}/flow:latest"
    for name in ("compose.yaml", "compose.gpu.yaml"):
        for service in yaml.safe_load((root / "infra" / name).read_text())["services"].values():
            assert service["image"].startswith(f"${{CARWRIGHT_IMAGES:-{IMAGES}}}/")
    assert Host().template(POOLS[0])["job_configuration"]["image_pull_policy"] == "Never"
    assert Host(images="carwright").template(POOLS[0])["job_configuration"]["image_pull_policy"] == "Never"
    mine = Host(images="registry.example.com/c").template(POOLS[0])["job_configuration"]
    assert (mine["image"], mine["image_pull_policy"]) == ("registry.example.com/c/flow:latest", "IfNotPresent")
    work_pool = json.loads((root / "infra" / "kubernetes" / "work-pool.json").read_text())
    (container,) = work_pool["job_configuration"]["job_manifest"]["spec"]["template"]["spec"]["containers"]
    assert container["image"] == f"{IMAGES}/flow:latest"
    for images, policy in ((f"{IMAGES}/{{target}}:latest", "Never"), ("r.example.com/{target}:latest", None)):
        manifest = job(Settings(kubernetes={"image": images}), STEPS[0], "n")["spec"]["template"]["spec"]
        assert manifest["containers"][0].get("imagePullPolicy") == policy
