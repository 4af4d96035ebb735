"""Runs a step as a Job of a Kubernetes cluster: a Secret carries the request in, the log carries the lines and the result out.

The result is the log's last structured line. Every step can write it, whatever it has to do with the store; it takes no
right beyond reading logs; and the log of a finished pod can be read again, so a connection that breaks off loses nothing.
A termination message would be simpler and holds 4,096 bytes only.

The Job is made suspended, then the Secret, which the Job owns, and then the Job is let go: whenever this process dies,
nothing is left that nobody owns. The Secret goes as soon as the step has ended, the Job after `kubernetes.ttl`.
"""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final

from containers.contract import Step, StepResult
from containers.errors import BadInput, Error, StepFailed, Temporary
from containers.events import Event
from containers.step import parse_result_line
from flows.runners.docker.container_spec import with_identity
from flows.runners.kubernetes.manifests import CONTAINER, FETCH, check, job, labels, new_name, resources, secret
from flows.runners.service import serves
from flows.runners.step_protocol import StepOutput
from infra.cluster import Cluster, is_going, refusal
from infra.cluster.client import CANNOT_START

if TYPE_CHECKING:
    from containers.contract import StepRequest
    from containers.events import OnEvent
    from infra.settings import Settings

_POLL: Final = 1.0  # seconds


@dataclass(frozen=True)
class KubernetesLauncher:
    """Steps as Jobs in the namespace that the settings name."""

    settings: Settings

    def prepare(self, request: StepRequest, on_event: OnEvent) -> None:
        """See that the cluster answers and lets us look at Jobs; images are pulled by its nodes."""
        resources(self.settings, request.step)
        with opened(self.settings, on_event) as cluster:
            cluster.list("Job", labels(request))

    def run(self, request: StepRequest, on_event: OnEvent) -> StepResult:
        if serves(request):
            raise BadInput("a model is served by a service, not by a launcher")
        check(request)
        name = new_name(request)
        settings = with_identity(self.settings, request)
        with opened(self.settings, on_event) as cluster:
            try:
                made = cluster.create(job(settings, request, name))
                cluster.create(secret(settings, request, name, made["metadata"]["uid"]))
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
                    cluster.delete("Secret", name, wait=False)  # which may not be read


def opened(settings: Settings, on_event: OnEvent) -> Cluster:
    """The cluster; that it is waited for is told as an event."""
    return Cluster.open(
        settings.kubernetes, say=lambda line: on_event(Event(event="log", level="warning", message=line))
    )


@dataclass
class JobWatch:
    """One Job from its start to its end."""

    cluster: Cluster
    settings: Settings
    step: Step
    job: str
    on_event: OnEvent
    container: str = CONTAINER
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
        """The pod's name and the result of a step that goes on after it has said it: a service. Raises as `run` does.

        The init container that has fetched the model for it comes first.
        """
        replace(self, container=FETCH).run()
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
        while True:
            with contextlib.suppress(Temporary):  # a quiet log is cut by any proxy on the way: the pod is asked instead
                self._read(pod, follow=True)
            if (ended := self._ended(pod)) is not None:
                break
            time.sleep(_POLL)
        self._read(pod, follow=False)  # what a broken connection has kept from us
        return self._judge(ended)

    def _started(self) -> str:
        """The name of the Job's pod once its container runs or has ended; raises when it will not."""
        patience = self.settings.kubernetes.pending_timeout
        deadline = time.monotonic() + patience
        sizes = f"CARWRIGHT_RESOURCES__{self.step.upper()}__CPUS, __MEMORY_GIB and __GPUS"
        while True:
            pods = self.cluster.list("Pod", {"job-name": self.job})
            why, remedy = "no pod yet", f"free or add a node that fits {sizes}"
            for pod in pods:
                status = pod.get("status") or {}
                state = _state(pod, self.container)
                if "running" in state or "terminated" in state or status.get("phase") in ("Succeeded", "Failed"):
                    return str(pod["metadata"]["name"])
                why = _waiting(status, state)
            if not pods and (refused := self._refused()) is not None:
                why, remedy = refused.message, refused.remedy
            if why and why != self._said:
                self._said = why
                self.on_event(Event(event="log", message=f"{self.job}: {why}"))
            if time.monotonic() > deadline:
                raise Temporary(f"{self.step} did not start within {patience:g} s: {self._said}", remedy=remedy)
            time.sleep(_POLL)

    def _refused(self) -> Error | None:
        """Why the Job has no pod, as far as that is known and may pass; raises for what waiting does not mend."""
        uid = self._check_job()
        message = self.cluster.why_no_pod(uid)
        if not message:
            return None
        error = refusal(f"make the pod of {self.step}", message)
        if not isinstance(error, Temporary):
            raise error
        return error

    def _check_job(self) -> str:
        """The Job's uid; raises when it has failed or is going."""
        found = self.cluster.get("Job", self.job)
        if found is None or is_going(found):
            raise StepFailed(self.step, Temporary.exit_code, f"the Job {self.job} was deleted before it started")
        for one in (found.get("status") or {}).get("conditions") or ():
            if one.get("type") == "Failed" and one.get("status") == "True":
                raise StepFailed(
                    self.step, Temporary.exit_code, f"{self.step}: {one.get('message') or one.get('reason')}"
                )
        return str(found["metadata"]["uid"])

    def _read(self, pod: str, *, follow: bool) -> None:
        """Pass on the lines that were not passed on yet; the result counts wherever it stands, since a log may have lost
        its beginning (the kubelet's containerLogMaxSize).
        """
        for number, line in enumerate(self.cluster.log(pod, self.container, follow=follow)):
            if (result := parse_result_line(line)) is not None:
                self.result = result
                if self.step is Step.SERVE and self.container == CONTAINER:
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
        if (ended := _state(pod, self.container).get("terminated")) is not None:
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


def _state(pod: dict[str, Any], container: str) -> dict[str, Any]:
    status = pod.get("status") or {}
    for one in (*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())):
        if one["name"] == container:
            return {key: value for key, value in (one.get("state") or {}).items() if value is not None}
    return {}


def _waiting(status: dict[str, Any], state: dict[str, Any]) -> str:
    """Why a pod does not run yet; raises BadInput for what waiting does not mend."""
    waiting = state.get("waiting") or {}
    reason, message = waiting.get("reason", ""), waiting.get("message", "")
    if reason in CANNOT_START:
        raise BadInput(
            f"the step's image cannot be started: {reason}: {message}",
            remedy="check CARWRIGHT_KUBERNETES__IMAGE, and the login that the cluster has for its registry",
        )
    for one in status.get("conditions") or ():
        if one.get("type") == "PodScheduled" and one.get("reason") == "Unschedulable":
            return str(one.get("message"))
    return f"{reason}: {message}".strip(": ") or "waits for a node"
