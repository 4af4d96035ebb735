"""Runs a step as a Job of a Kubernetes cluster: a Secret carries the request in, the log carries the lines and the result out.

The result is the log's last structured line. Every step can write it, whatever it has to do with the store; it takes no
right beyond reading logs; and the log of a finished pod can be read again, so a connection that breaks off loses nothing.
A termination message would be simpler and holds 4,096 bytes only.

The Job is made suspended, then the Secret, which the Job owns, and then the Job is let go: whenever this process dies,
nothing is left that nobody owns. The Secret goes as soon as the step has ended, the Job after `kubernetes.ttl`.
"""

from __future__ import annotations

import base64
import contextlib
import secrets
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from containers.contract import Step, StepRequest, StepResult
from containers.errors import BadInput, Error, StepFailed, Temporary
from containers.events import Event
from containers.labels import KUBERNETES_LABEL
from containers.step import parse_result_line
from flows.runners.docker.container_spec import environment, payload, refuse_folders
from flows.runners.step_container import image_name, makes_user_namespaces
from flows.runners.step_protocol import REQUEST, StepOutput
from infra.cluster import Cluster
from infra.settings import KUBERNETES_DEFAULTS

if TYPE_CHECKING:
    from containers.events import OnEvent
    from infra.settings import Resources, Settings

CONTAINER: Final = "step"
REQUESTS: Final = "/run/request"
WORK: Final = "/run/carwright"
LOGINS: Final = "registry-logins.json"
SECRETS: Final = "/run/secrets"
_POLL: Final = 1.0  # seconds
_SILENT: Final = 60  # how often in a row the cluster may not answer before we give up: a restart takes its time
_HOPELESS: Final = ("ErrImageNeverPull", "InvalidImageName", "CreateContainerConfigError", "ImagePullBackOff")


@dataclass(frozen=True)
class KubernetesLauncher:
    """Steps as Jobs in the namespace that the settings name."""

    settings: Settings

    def prepare(self, request: StepRequest, on_event: OnEvent) -> None:
        """See that the cluster answers and lets us look at Jobs; images are pulled by its nodes."""
        resources(self.settings, request.step)
        with Cluster.open(self.settings.kubernetes) as cluster:
            cluster.list("Job", labels(request))

    def run(self, request: StepRequest, on_event: OnEvent) -> StepResult:
        if request.step is Step.SERVE:
            raise BadInput("a model is served by a service, not by a launcher")
        check(request)
        name = new_name(request)
        with Cluster.open(self.settings.kubernetes) as cluster:
            try:
                made = cluster.create(job(self.settings, request, name))
                cluster.create(secret(self.settings, request, name, made["metadata"]["uid"]))
                cluster.patch("Job", name, {"spec": {"suspend": False}})
                return JobWatch(cluster, self.settings, request.step, name, on_event).run()
            except StepFailed:
                raise  # it has ended by itself; its log stays for a while
            except BaseException:
                with contextlib.suppress(Error):  # the first error counts
                    cluster.delete("Job", name)
                raise
            finally:
                with contextlib.suppress(Error):
                    cluster.delete("Secret", name)


@dataclass
class JobWatch:
    """One Job from its start to its end."""

    cluster: Cluster
    settings: Settings
    step: Step
    job: str
    on_event: OnEvent
    result: StepResult | None = None
    _output: StepOutput = field(init=False)
    _lines: int = 0
    _said: str = ""

    def __post_init__(self) -> None:
        self._output = StepOutput(self.on_event)

    @property
    def where(self) -> str:
        return f"its log: kubectl -n {self.cluster.namespace} logs job/{self.job}"

    def result_while_it_works(self) -> tuple[str, StepResult]:
        """The pod's name and the result of a step that goes on after it has said it: a service. Raises as `run` does."""
        pod = self._started()
        while self.result is None:
            with contextlib.suppress(Temporary):
                self._read(pod, follow=True)
            if self.result is None and (ended := self._ended(pod)) is not None:
                self._read(pod, follow=False)
                self._judge(ended)
            time.sleep(_POLL)
        return pod, self.result

    def run(self) -> StepResult:
        pod = self._started()
        silent = 0
        while True:
            with contextlib.suppress(Temporary):  # a quiet log is cut by any proxy on the way: the pod is asked instead
                self._read(pod, follow=True)
            try:
                if (ended := self._ended(pod)) is not None:
                    break
                silent = 0
            except Temporary:
                silent += 1
                if silent > _SILENT:
                    raise
            time.sleep(_POLL)
        self._read(pod, follow=False)  # what a broken connection has kept from us
        return self._judge(ended)

    def _started(self) -> str:
        """The name of the Job's pod once its container runs or has ended; raises when it will not."""
        patience = self.settings.kubernetes.pending_timeout
        deadline = time.monotonic() + patience
        while True:
            pods = self.cluster.list("Pod", {"job-name": self.job})
            why = "no pod yet"
            for pod in pods:
                status = pod.get("status") or {}
                state = _state(pod)
                if "running" in state or "terminated" in state or status.get("phase") in ("Succeeded", "Failed"):
                    return str(pod["metadata"]["name"])
                why = _waiting(status, state)
            if why and why != self._said:
                self._said = why
                self.on_event(Event(event="log", message=f"{self.job}: {why}"))
            if not pods:
                self._check_job()
            if time.monotonic() > deadline:
                raise Temporary(
                    f"{self.step} did not start within {patience:g} s: {self._said}",
                    remedy=f"free or add a node that fits CARWRIGHT_RESOURCES__{self.step.upper()}__CPUS, __MEMORY_GIB and __GPUS",
                )
            time.sleep(_POLL)

    def _check_job(self) -> None:
        found = self.cluster.get("Job", self.job)
        if found is None:
            raise StepFailed(self.step, Temporary.exit_code, f"the Job {self.job} was deleted before it started")
        for one in (found.get("status") or {}).get("conditions") or ():
            if one.get("type") == "Failed" and one.get("status") == "True":
                raise StepFailed(
                    self.step, Temporary.exit_code, f"{self.step}: {one.get('message') or one.get('reason')}"
                )

    def _read(self, pod: str, *, follow: bool) -> None:
        """Pass on the lines that were not passed on yet; the result counts wherever it stands, since a log may have lost
        its beginning (the kubelet's containerLogMaxSize).
        """
        for number, line in enumerate(self.cluster.log(pod, CONTAINER, follow=follow)):
            if (result := parse_result_line(line)) is not None:
                self.result = result
                if self.step is Step.SERVE:
                    return  # a service goes on, and so does its log
                continue
            if number < self._lines:
                continue
            self._lines = number + 1
            self._output.line(line)

    def _ended(self, name: str) -> dict[str, Any] | None:
        """The container's end (`exitCode`, `reason`), None while it works; raises when the pod is gone."""
        pod = self.cluster.get("Pod", name)
        if pod is None:
            self._check_job()
            raise StepFailed(
                self.step,
                Temporary.exit_code,
                f"the pod {name} of {self.step} was removed while it worked (a node was drained?)",
                remedy="run it again: it resumes",
            )
        if (ended := _state(pod).get("terminated")) is not None:
            return dict(ended)
        status = pod.get("status") or {}
        if status.get("phase") == "Failed":  # evicted, or its node is lost: no container to ask
            raise StepFailed(
                self.step,
                Temporary.exit_code,
                f"the pod of {self.step} failed: {status.get('message') or status.get('reason')}",
                remedy="run it again: it resumes",
            )
        return None

    def _judge(self, ended: dict[str, Any]) -> StepResult:
        code = int(ended.get("exitCode", 1))
        if code == 0:
            if self.result is None:
                raise StepFailed(self.step, 1, f"{self.step} ended well but its log holds no result", remedy=self.where)
            return self.result
        if ended.get("reason") == "OOMKilled":
            limit = f"its limit of {resources(self.settings, self.step).memory_gib:g} GiB"
            raise self._output.out_of_memory(self.step, code, limit, self.where)
        raise self._output.failure(self.step, code, self.where)


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
    """The Job, suspended; its one container must not be root and writes to its own folders only."""
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
    variables = environment(settings, request) | {"TMPDIR": WORK, "HOME": WORK}
    names = [key.removeprefix("secrets/") for key in payload(settings, request) if key.startswith("secrets/")]
    if LOGINS in names:
        variables["CARWRIGHT_REGISTRY__AUTH_FILE"] = f"{SECRETS}/{LOGINS}"
    seccomp = "Unconfined" if makes_user_namespaces(request) else "RuntimeDefault"
    pod: dict[str, Any] = {
        "restartPolicy": "Never",
        "serviceAccountName": kube.service_account,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": seccomp}},
        "containers": [
            {
                "name": CONTAINER,
                "image": image_name(kube.image, step, settings),
                "command": ["python3", "-m", f"containers.{step}"],
                "args": ["--request", f"{REQUESTS}/{REQUEST}", "--result", "-"],
                "env": [{"name": key, "value": value} for key, value in sorted(variables.items())],
                "resources": _quantities(wanted, kube.gpu_resource),
                "securityContext": {
                    "allowPrivilegeEscalation": False,
                    "readOnlyRootFilesystem": True,
                    "capabilities": {"drop": ["ALL"]},
                },
                "volumeMounts": [
                    {"name": "request", "mountPath": REQUESTS, "readOnly": True},
                    {"name": "secrets", "mountPath": SECRETS, "readOnly": True},
                    {"name": "work", "mountPath": WORK},
                    {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108 -- in the pod
                ],
            }
        ],
        "volumes": [
            {"name": "request", "secret": {"secretName": name, "items": [_item(REQUEST)]}},
            # A Secret's volume without items would hold all of it, the request too.
            {"name": "secrets", "secret": {"secretName": name, "items": [_item(one) for one in names]}}
            if names
            else {"name": "secrets", "emptyDir": {}},
            {"name": "work", "emptyDir": {"sizeLimit": f"{wanted.scratch_gib:g}Gi"}},
            {"name": "tmp", "emptyDir": {}},
        ],
    }
    if step is Step.SERVE:  # what NCCL and vLLM's processes talk through
        pod["volumes"].append({"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": f"{2 * max(1, gpus)}Gi"}})
        pod["containers"][0]["volumeMounts"].append({"name": "shm", "mountPath": "/dev/shm"})  # noqa: S108 -- in the pod
    if kube.pull_logins:
        pod["imagePullSecrets"] = [{"name": one} for one in kube.pull_logins]
    if kube.node_selector:
        pod["nodeSelector"] = dict(kube.node_selector)
    if gpus:
        pod["tolerations"] = [{"key": kube.gpu_resource, "operator": "Exists", "effect": "NoSchedule"}]
    return pod


def secret(settings: Settings, request: StepRequest, name: str, owner: str) -> dict[str, Any]:
    """The request and the secrets that this very step needs; the Job with the uid `owner` takes it along."""
    entries = payload(settings, request)
    data = {key.rpartition("/")[2]: value for key, value in entries.items() if value is not None}
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


def _state(pod: dict[str, Any]) -> dict[str, Any]:
    for one in (pod.get("status") or {}).get("containerStatuses") or ():
        if one["name"] == CONTAINER:
            return {key: value for key, value in (one.get("state") or {}).items() if value is not None}
    return {}


def _waiting(status: dict[str, Any], state: dict[str, Any]) -> str:
    """Why a pod does not run yet; raises BadInput for what waiting does not mend."""
    waiting = state.get("waiting") or {}
    reason, message = waiting.get("reason", ""), waiting.get("message", "")
    if reason in _HOPELESS:
        raise BadInput(
            f"the step's image cannot be started: {reason}: {message}",
            remedy="check CARWRIGHT_KUBERNETES__IMAGE, and the login that the cluster has for its registry",
        )
    for one in status.get("conditions") or ():
        if one.get("type") == "PodScheduled" and one.get("reason") == "Unschedulable":
            return str(one.get("message"))
    return f"{reason}: {message}".strip(": ") or "waits for a node"


def check(request: StepRequest) -> None:
    """Raises BadInput for what a pod of another machine cannot do."""
    refuse_folders(request)
    source = str(request.parameters.get("source") or "")
    if source.startswith("file://") or request.options.get("folder"):
        raise BadInput(
            f"{source or request.options['folder']} is a folder of this machine, which no pod sees",
            remedy="give hf://org/name or s3://bucket/prefix",
        )
