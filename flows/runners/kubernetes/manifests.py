"""What a step is in a cluster: the Job with its pod, and the Secret that carries its request and its secrets in."""

from __future__ import annotations

import base64
import secrets
from typing import TYPE_CHECKING, Any, Final

from containers.errors import BadInput
from containers.labels import KUBERNETES_LABEL
from flows.runners.docker.container_spec import SIGNING, environment, payload, promotes, refuse_folders
from flows.runners.service import serves, stage
from flows.runners.step_container import (
    LOGINS,
    SECRETS,
    WORK,
    has_registry,
    image_name,
    image_step,
    makes_user_namespaces,
)
from flows.runners.step_protocol import REQUEST
from infra.hardening import of_pod_container
from infra.settings import KUBERNETES_DEFAULTS

if TYPE_CHECKING:
    from containers.contract import Step, StepRequest
    from infra.settings import Resources, Settings

CONTAINER: Final = "step"
FETCH: Final = "fetch"  # the init container of a service
REQUESTS: Final = "/run/request"
_FETCH_REQUEST: Final = "fetch.json"
_LARGEST: Final = (
    1_000_000  # bytes of a request: a Secret takes 1 MiB (kubernetes.io, "Secrets"), with the step's secrets
)


def new_name(request: StepRequest) -> str:
    return f"carwright-{request.step}-{secrets.token_hex(4)}"


def labels(request: StepRequest) -> dict[str, str]:
    """What Jobs, pods and Secrets of a step are found by; label values have at most 63 characters."""
    return {
        "app.kubernetes.io/name": "carwright",
        "app.kubernetes.io/component": request.step.value,
        "app.kubernetes.io/managed-by": "carwright",
        f"{KUBERNETES_LABEL}run": request.run[:63].strip("-_."),
    }


def resources(settings: Settings, step: Step) -> Resources:
    """What the step's pod is to have, all of it said. Raises BadInput for what a cluster cannot give."""
    wanted = settings.resources.of(step).over(KUBERNETES_DEFAULTS.of(step))
    if wanted.gpus == -1:
        raise BadInput(
            "a cluster gives GPUs by number, and not all that a machine has",
            remedy=f"set CARWRIGHT_RESOURCES__{step.upper()}__GPUS (or ..._ALL__GPUS) to how many {step} is to get",
        )
    return wanted


def job(settings: Settings, request: StepRequest, name: str) -> dict[str, Any]:
    """The Job, suspended; its container must not be root and writes to its own folders only.

    A service has a second one before it, which fetches the model: the secrets are mounted there, and not in the one that
    serves.
    """
    kube = settings.kubernetes
    owners = (
        [{"apiVersion": "v1", "kind": "Pod", "name": kube.owner_pod, "uid": kube.owner_uid}] if kube.owner_uid else []
    )
    spec: dict[str, Any] = {
        "suspend": True,
        "backoffLimit": 0,  # the flow repeats what is worth repeating
        "ttlSecondsAfterFinished": kube.ttl,
        "template": {"metadata": {"labels": labels(request)}, "spec": _pod(settings, request, name)},
    }
    if kube.step_timeout is not None:
        spec["activeDeadlineSeconds"] = kube.step_timeout
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name, "labels": labels(request), **({"ownerReferences": owners} if owners else {})},
        "spec": spec,
    }


def _pod(settings: Settings, request: StepRequest, name: str) -> dict[str, Any]:
    kube, step = settings.kubernetes, request.step
    wanted = resources(settings, step)
    gpus = wanted.gpus or 0
    service = serves(request)
    first = stage(request, "fetch") if service else request  # the one that gets the secrets
    names = [key.removeprefix("secrets/") for key in payload(settings, first) if key.startswith("secrets/")]
    container = _container(settings, stage(request, "serve") if service else request, CONTAINER, REQUEST, wanted)
    working = [container]
    if service:
        fetching = _container(settings, first, FETCH, _FETCH_REQUEST, wanted.model_copy(update={"gpus": 0}))
        working = [fetching, container]
    working[0]["volumeMounts"].append({"name": "secrets", "mountPath": SECRETS, "readOnly": True})
    if LOGINS in names:
        working[0]["env"].append({"name": "CARWRIGHT_REGISTRY__AUTH_FILE", "value": f"{SECRETS}/{LOGINS}"})
    # RuntimeDefault, as the Pod Security levels `baseline` and `restricted` want it, forbids the namespaces of bubblewrap; then
    # Landlock and the program's own list of system calls are its sandbox.
    bubblewrap = makes_user_namespaces(request) and settings.evaluate.sandbox == "bubblewrap"
    seccomp = "Unconfined" if bubblewrap else "RuntimeDefault"
    requests = [_item(REQUEST), *([_item(_FETCH_REQUEST)] if service else [])]
    pod: dict[str, Any] = {
        "restartPolicy": "Never",
        "serviceAccountName": (promotes(request) and kube.signing_account) or kube.service_account,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": seccomp}},
        **({"initContainers": working[:-1]} if service else {}),
        "containers": working[-1:],
        "volumes": [
            {"name": "request", "secret": {"secretName": name, "items": requests}},
            # A Secret's volume without items would hold all of it, the request too.
            {"name": "secrets", "secret": {"secretName": name, "items": [_item(one) for one in names]}}
            if names
            else {"name": "secrets", "emptyDir": {}},
            {"name": "work", "emptyDir": {"sizeLimit": f"{wanted.scratch_gib:g}Gi"}},
            {"name": "tmp", "emptyDir": {}},
        ],
    }
    if service:  # what NCCL and vLLM's processes talk through
        pod["volumes"].append({"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": f"{2 * max(1, gpus)}Gi"}})
        container["volumeMounts"].append({"name": "shm", "mountPath": "/dev/shm"})  # noqa: S108 -- in the pod
    if kube.signing_secret and promotes(request):
        pod["volumes"].append({"name": "signing", "secret": {"secretName": kube.signing_secret}})
        container["volumeMounts"].append({"name": "signing", "mountPath": SIGNING, "readOnly": True})
    if kube.pull_logins:
        pod["imagePullSecrets"] = [{"name": one} for one in kube.pull_logins]
    if kube.node_selector:
        pod["nodeSelector"] = dict(kube.node_selector)
    if gpus:
        pod["tolerations"] = [{"key": kube.gpu_resource, "operator": "Exists", "effect": "NoSchedule"}]
    return pod


def _container(settings: Settings, request: StepRequest, name: str, file: str, wanted: Resources) -> dict[str, Any]:
    """One container of the step, which reads its request from `file`; without secrets."""
    kube, step = settings.kubernetes, request.step
    variables = environment(settings, request, kube.signing_secret) | {"TMPDIR": WORK, "HOME": WORK}
    image = image_name(kube.image, image_step(request), settings)
    return {
        "name": name,
        "image": image,
        **(
            {} if has_registry(image) else {"imagePullPolicy": "Never"}
        ),  # of :latest the kubelet would pull a stranger's
        "command": ["python3", "-m", f"containers.{step}"],
        "args": ["--request", f"{REQUESTS}/{file}", "--result", "-"],
        "env": [{"name": key, "value": value} for key, value in sorted(variables.items())],
        "resources": _quantities(wanted, kube.gpu_resource),
        "securityContext": of_pod_container(),
        "volumeMounts": [
            {"name": "request", "mountPath": REQUESTS, "readOnly": True},
            {"name": "work", "mountPath": WORK},
            {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108 -- in the pod
        ],
    }


def secret(settings: Settings, request: StepRequest, name: str, owner: str) -> dict[str, Any]:
    """The request and the secrets that this very step needs; the Job with the uid `owner` takes it along."""
    first = stage(request, "fetch") if serves(request) else request
    entries = payload(settings, first)
    data = {key.rpartition("/")[2]: value for key, value in entries.items() if value is not None}
    if first is not request:
        data[_FETCH_REQUEST] = data[REQUEST]
        data[REQUEST] = stage(request, "serve").model_dump_json().encode()
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {
            "name": name,
            "labels": labels(request),
            "ownerReferences": [{"apiVersion": "batch/v1", "kind": "Job", "name": name, "uid": owner}],
        },
        "type": "Opaque",
        "data": {key: base64.b64encode(value).decode() for key, value in data.items()},
    }


def _item(name: str) -> dict[str, str]:
    return {"key": name, "path": name}


def _quantities(wanted: Resources, gpu: str) -> dict[str, dict[str, str]]:
    devices = {gpu: str(wanted.gpus)} if wanted.gpus else {}
    size = f"{int((wanted.memory_gib or 0) * 1024)}Mi"
    return {"requests": {"cpu": f"{wanted.cpus:g}", "memory": size, **devices}, "limits": {"memory": size, **devices}}


def check(request: StepRequest) -> None:
    """Raises BadInput for what a pod of another machine cannot do."""
    refuse_folders(request)
    source = str(request.parameters.get("source") or "")
    if source.startswith("file://") or request.options.get("folder"):
        raise BadInput(
            f"{source or request.options['folder']} is a folder of this machine, which no pod sees",
            remedy="give hf://org/name or s3://bucket/prefix",
        )
    if (size := len(request.model_dump_json(indent=2).encode())) > _LARGEST:
        raise BadInput(
            f"the request to {request.step} has {size} bytes, and a Secret of a cluster takes {_LARGEST}",
            remedy="make what it names smaller; of a large suite only suite.yaml is in it",
        )
