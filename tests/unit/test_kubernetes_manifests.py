"""What goes to a cluster fits Kubernetes' schemas, and nobody there may do more than needed."""

from __future__ import annotations

import asyncio
import base64
import json
import re
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from unittest.mock import AsyncMock

import kubernetes_validate
import pytest
import yaml
from prefect.workers.base import BaseJobConfiguration

from containers.contract import Step, StepRequest, StoreLocation
from containers.digest import Digest
from containers.errors import BadInput
from containers.parameters import DownloadParameters, EvaluateParameters, ServeParameters
from containers.signing_settings import SigningSettings
from flows.orchestrator.postgres import NAME, PASSWORD_FILE
from flows.requests import Requests
from flows.runners.kubernetes.manifests import check, job, secret
from infra.settings import KubernetesSettings, Settings
from tests.support.kube_api import allowed

if TYPE_CHECKING:
    from pathlib import Path

KUBERNETES = "1.33"


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    section = KubernetesSettings(pull_logins=("login",), node_selector={"a": "b"}, step_timeout=60, owner_uid="u")
    store = {"secret_access_key": "k", "access_key_id": "i"}
    return Settings(home=tmp_path, kubernetes=section, resources={"download": {"gpus": 1}}, store=store)


REQUESTS = [
    StepRequest(
        step=Step.DOWNLOAD, run="a run/with odd signs-", parameters=DownloadParameters(source="hf://a/b").dump()
    ),
    StepRequest(step=Step.EVALUATE, run="r", parameters=EvaluateParameters(suite_digest=Digest("0" * 64)).dump()),
    StepRequest(step=Step.SERVE, run="r", parameters=ServeParameters(served_model_name="m").dump()),
]


@pytest.mark.parametrize("request_", REQUESTS, ids=lambda one: one.step.value)
def test_jobs_and_secrets_fit_the_schema(settings: Settings, request_: StepRequest) -> None:
    """Strictly: an unknown field is an error."""
    kubernetes_validate.validate(job(settings, request_, "a-name"), KUBERNETES, strict=True)
    kubernetes_validate.validate(secret(settings, request_, "a-name", "uid"), KUBERNETES, strict=True)


def test_a_step_has_no_more_than_it_needs(settings: Settings) -> None:
    """Not root, nothing writable but its folders, no token of the cluster, no capabilities."""
    pod = job(settings, REQUESTS[0], "a-name")["spec"]["template"]["spec"]
    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"] == {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
    assert pod["containers"][0]["securityContext"]["readOnlyRootFilesystem"] is True
    assert pod["containers"][0]["securityContext"]["capabilities"] == {"drop": ["ALL"]}


@pytest.mark.parametrize("request_", REQUESTS, ids=lambda one: one.step.value)
def test_every_pod_fits_the_strictest_level_of_pod_security(settings: Settings, request_: StepRequest) -> None:
    """`restricted` (kubernetes.io, "Pod Security Standards"), which `baseline` is a part of; measuring, too."""
    pod = job(settings, request_, "a-name")["spec"]["template"]["spec"]
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod)
    assert {kind for volume in pod["volumes"] for kind in volume} <= {"name", "emptyDir", "secret"}
    for container in [*pod.get("initContainers", ()), *pod["containers"]]:
        assert container["securityContext"]["allowPrivilegeEscalation"] is False
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        assert not any("hostPort" in port for port in container.get("ports", ()))


def test_a_request_that_no_secret_takes_is_refused_before_anything_is_made() -> None:
    """The API server would say it of the Secret, when the Job is there already."""
    check(REQUESTS[1])
    large = REQUESTS[1].model_copy(update={"options": {"suite_files": {"suite.yaml": "x" * 1_000_000}}})
    with pytest.raises(BadInput, match="a Secret of a cluster takes 1000000"):
        check(large)


def test_only_who_asks_for_bubblewrap_leaves_it(settings: Settings) -> None:
    """For its namespaces the profile of the runtime is in the way; and only where a model's programs run."""
    asked = settings.model_copy(update={"evaluate": settings.evaluate.model_copy(update={"sandbox": "bubblewrap"})})
    profiles = [
        job(asked, one, "a-name")["spec"]["template"]["spec"]["securityContext"]["seccompProfile"]["type"]
        for one in REQUESTS
    ]
    assert profiles == ["RuntimeDefault", "Unconfined", "RuntimeDefault"]


def test_the_container_that_serves_sees_no_secret(settings: Settings) -> None:
    """The one before it does, and ends; they share the folder with the model and nothing else that is secret."""
    request = REQUESTS[2]
    pod = job(settings, request, "a-name")["spec"]["template"]["spec"]
    (fetch,), (serve,) = pod["initContainers"], pod["containers"]
    mounted = [{one["name"] for one in container["volumeMounts"]} for container in (fetch, serve)]
    assert mounted == [{"request", "work", "tmp", "secrets"}, {"request", "work", "tmp", "shm"}]
    (request_volume,) = (one["secret"]["items"] for one in pod["volumes"] if one["name"] == "request")
    assert [one["key"] for one in request_volume] == ["request.json", "fetch.json"]
    data = {key: base64.b64decode(value) for key, value in secret(settings, request, "a-name", "u")["data"].items()}
    assert data["CARWRIGHT_STORE__SECRET_ACCESS_KEY"] == b"k"
    stages = [StepRequest.model_validate_json(data[name]).options["stage"] for name in ("fetch.json", "request.json")]
    assert stages == ["fetch", "serve"]
    assert [container["args"][1] for container in (fetch, serve)] == [
        "/run/request/fetch.json",
        "/run/request/request.json",
    ]
    assert "STORE" not in str(serve["env"])


def test_the_secret_with_keys_is_mounted_where_the_step_promotes(settings: Settings) -> None:
    """By its name: what it holds is in none of the objects that the flow makes."""
    kubernetes = settings.kubernetes.model_copy(update={"signing_secret": "release-keys", "signing_account": "signer"})
    given = settings.model_copy(update={"kubernetes": kubernetes})
    promote = StepRequest(step=Step.PUSH, run="r", parameters={"action": "promote"})
    pod = job(given, promote, "n")["spec"]["template"]["spec"]
    kubernetes_validate.validate(job(given, promote, "n"), KUBERNETES, strict=True)
    assert {"name": "signing", "secret": {"secretName": "release-keys"}} in pod["volumes"]
    (container,) = pod["containers"]
    assert {"name": "signing", "mountPath": "/run/signing", "readOnly": True} in container["volumeMounts"]
    assert {"name": "CARWRIGHT_SIGN__FOLDER", "value": "/run/signing"} in container["env"]
    assert pod["serviceAccountName"] == "signer"
    assert secret(given, promote, "n", "uid") == secret(settings, promote, "n", "uid")
    for other in (*REQUESTS, StepRequest(step=Step.PUSH, run="r"), StepRequest(step=Step.QUANTIZE, run="r")):
        told = json.dumps(job(given, other, "n"))
        assert not [word for word in ("release-keys", "signer", "/run/signing") if word in told]


def test_a_key_of_the_settings_is_in_the_secret_of_the_pod_that_promotes(settings: Settings) -> None:
    """As a file, and in nothing else that the cluster, or whoever may look at Jobs, gets."""
    sign = {
        "key": "canary-key",
        "password": "canary-password",
        "pin": "canary-pin",
        "uri": "awskms:a",
        "client": "A=canary",
    }
    given = settings.model_copy(update={"sign": SigningSettings.model_validate(sign)})
    promote = StepRequest(step=Step.PUSH, run="r", parameters={"action": "promote"})
    assert "canary" not in json.dumps(job(given, promote, "n"))
    data = {key: base64.b64decode(value) for key, value in secret(given, promote, "n", "uid")["data"].items()}
    assert sorted(key for key, value in data.items() if b"canary" in value) == [
        "CARWRIGHT_SIGN__CLIENT",
        "CARWRIGHT_SIGN__KEY",
        "CARWRIGHT_SIGN__PASSWORD",
        "CARWRIGHT_SIGN__PIN",
    ]
    for other in (*REQUESTS, StepRequest(step=Step.PUSH, run="r"), StepRequest(step=Step.QUANTIZE, run="r")):
        held = secret(given, other, "n", "uid")["data"].values()
        assert not [value for value in held if b"canary" in base64.b64decode(value)]


def test_arguments_are_checked_by_one_container_without_secrets(settings: Settings) -> None:
    request = Requests("r", StoreLocation(bucket="b"), settings).check_arguments(("--enforce-eager",))
    made, carried = job(settings, request, "a-name"), secret(settings, request, "a-name", "u")
    for manifest in (made, carried):
        kubernetes_validate.validate(manifest, KUBERNETES, strict=True)
    pod = made["spec"]["template"]["spec"]
    assert "initContainers" not in pod
    assert list(carried["data"]) == ["request.json"]
    assert "STORE" not in str(pod["containers"])


@pytest.mark.parametrize("name", ["rbac.yaml", "nodes.yaml", "settings.yaml", "postgres.yaml"])
def test_the_files_for_a_cluster_fit_the_schema(root: Path, name: str) -> None:
    """infra/kubernetes, document by document."""
    for document in yaml.safe_load_all((root / "infra" / "kubernetes" / name).read_text()):
        kubernetes_validate.validate(document, KUBERNETES, strict=True)


def test_the_server_on_a_cluster_has_a_database_of_its_own(root: Path) -> None:
    """Not the chart's, whose password everybody knows; server and database name one Secret, and neither file has a value."""
    folder = root / "infra" / "kubernetes"
    server = yaml.safe_load((folder / "server.yaml").read_text())
    service, stateful = yaml.safe_load_all((folder / "postgres.yaml").read_text())
    assert server["postgresql"] == {"enabled": False}
    (volume,) = [one for one in stateful["spec"]["template"]["spec"]["volumes"] if "secret" in one]
    assert server["secret"] == {"create": False, "name": volume["secret"]["secretName"]}
    (container,) = stateful["spec"]["template"]["spec"]["containers"]
    assert "env" not in container
    (item,) = volume["secret"]["items"]
    mounts = {one["name"]: one["mountPath"] for one in container["volumeMounts"]}
    assert f"{mounts['password']}/{item['path']}" == str(PASSWORD_FILE)
    assert f"@{service['metadata']['name']}:5432/{NAME}" in (folder / "postgres.yaml").read_text()


def test_the_settings_for_a_cluster_are_settings(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every name in settings.yaml is one that Settings knows, and the values fit."""
    config, secret_ = yaml.safe_load_all((root / "infra" / "kubernetes" / "settings.yaml").read_text())
    for name, value in {**config["data"], **secret_["stringData"]}.items():
        monkeypatch.setenv(name, value)
    settings = Settings()
    assert [step for step in Step if settings.resources.of(step).gpus] == [Step.QUANTIZE]
    assert settings.registry.password is not None


def test_the_work_pool_makes_a_job(root: Path) -> None:
    """The template with its defaults filled in is a valid Job, and every placeholder is a variable or Prefect's own."""
    template = json.loads((root / "infra" / "kubernetes" / "work-pool.json").read_text())
    variables = template["variables"]["properties"]
    text = json.dumps(template["job_configuration"])
    assert set(re.findall(r"{{ ([\w.]+) }}", text)) == set(variables)
    defaults = {name: one["default"] for name, one in variables.items() if "default" in one}
    manifest = fill(template["job_configuration"]["job_manifest"], defaults)
    del manifest["metadata"]["generateName"]  # the worker's API call may have it, the schema wants a name
    manifest["metadata"]["name"] = "x"
    kubernetes_validate.validate(manifest, KUBERNETES, strict=True)


def test_the_work_pool_leaves_nothing_free_that_decides_privileges(root: Path) -> None:
    """What a run may choose are sizes and times; the server refuses the rest, and a worker has no place to put it."""
    template = json.loads((root / "infra" / "kubernetes" / "work-pool.json").read_text())
    assert template["variables"]["additionalProperties"] is False
    assert {name for name, one in template["variables"]["properties"].items() if one.get("not") != {}} == {
        "finished_job_ttl",
        "cpu_request",
        "memory_request",
        "memory_limit",
        "pod_watch_timeout_seconds",
        "stream_output",
    }
    evil = {
        "image": "evil",
        "command": "sh",
        "namespace": "kube-system",
        "service_account_name": "admin",
        "env": {"CARWRIGHT_KUBERNETES__SERVICE_ACCOUNT": "admin"},
        "volumes": ["/:/host"],
        "privileged": True,
        "prefect.variables.carwright_kubernetes": {"EVIL": "1"},
    }
    configured = populate(template, evil)
    assert configured == populate(template, {})
    assert configured["env"] == "{{ prefect.variables.carwright_kubernetes }}"  # which a worker reads from the server


def populate(template: dict[str, Any], values: dict[str, Any]) -> Any:
    """What Prefect's worker makes of a run's job variables, up to the values that it asks the server for."""
    resolve = BaseJobConfiguration.from_template_and_values
    seen: dict[str, Any] = {}

    class Seen(BaseJobConfiguration):
        def __init__(self, **configuration: Any) -> None:
            seen.update(configuration)

    client = AsyncMock()
    client.read_variable_by_name.return_value = SimpleNamespace(value="{{ prefect.variables.carwright_kubernetes }}")
    asyncio.run(resolve.__func__(Seen, template, values, client=client))  # type: ignore[attr-defined]
    return seen


def fill(value: Any, variables: dict[str, Any]) -> Any:
    if isinstance(value, dict):
        return {key: fill(item, variables) for key, item in value.items()}
    if isinstance(value, list):
        return [fill(item, variables) for item in value]
    if isinstance(value, str) and (whole := re.fullmatch(r"{{ (\w+) }}", value)):
        return variables[whole[1]]
    if isinstance(value, str):
        return re.sub(r"{{ (\w+) }}", lambda match: str(variables[match[1]]), value)
    return value


def test_what_steps_and_flows_may_do(root: Path) -> None:
    """Steps nothing at all. That flows may do all they ask for is held by the tests that ask: tests/support/kube_api.py."""
    assert allowed(root, "carwright-step") == set()
    assert ("create", "jobs") in allowed(root, "carwright-flow")
    assert ("get", "secrets") not in allowed(root, "carwright-flow")
