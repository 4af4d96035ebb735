"""Deploy a model to a cluster with KServe: apply, wait until the new one serves, ask it something, or put the old back.

The old pod serves until the new one is ready (`maxUnavailable: 0`), so `Ready` alone proves nothing: the Deployment behind
the InferenceService must be that of what was applied, and have no pod of the old kind left, as `kubectl rollout status`
wants it. The service's own `observedGeneration` is of no help: KServe copies the Deployment's there
(pkg/apis/serving/v1beta1/inference_service_status.go, PropagateRawStatus).
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from containers.errors import BadInput, Error, NotReady, Temporary
from flows.targets.smoke import ask
from flows.targets.target import RolloutResult
from infra.cluster import MANAGER, Conflict, is_going, refusal
from infra.cluster.client import CANNOT_START
from infra.cluster.managed_fields import applied_by, overlay, split

if TYPE_CHECKING:
    from collections.abc import Callable

    from infra.cluster import Cluster

_CRASHES: Final = 3  # restarts after which a container is not waited for any longer
# What a deployment does without where another manager has set it: how many replicas there are, and what a person reads.
_YIELDED: Final = (
    ".spec.predictor.minReplicas",
    ".spec.predictor.maxReplicas",
    ".metadata.labels.",
    ".metadata.annotations.openshift.io/",
)
_LABEL: Final = "serving.kserve.io/inferenceservice"
_SOURCE: Final = "internal.serving.kserve.io/storage-initializer-sourceuri"  # KServe's annotation of a pod: its model


@dataclass
class Rollout:
    """One attempt. Times are in seconds: `timeout` for all of it, `gpu_patience` for a node with enough free GPUs (a
    cluster that grows by itself may add one), `refusal_patience` for a service that KServe calls invalid (it does so
    too while it has not seen the runtime that came a moment before), `poll` between two looks. With `force_conflicts`
    fields that other managers have set are taken from them.
    """

    cluster: Cluster
    runtime: dict[str, Any]
    service: dict[str, Any]
    say: Callable[[str], None]
    timeout: float
    gpu_patience: float = 180.0
    refusal_patience: float = 30.0
    poll: float = 2.0
    url: str = ""
    force_conflicts: bool = False
    _deployed: int = field(default=0, init=False)  # generation of the Deployment before; 0 where there was none
    _old_pods: frozenset[str] = field(default=frozenset(), init=False)
    _unplaced: float | None = field(default=None, init=False)
    _refused: float | None = field(default=None, init=False)
    _said: str = field(default="", init=False)
    _no_pod: str = field(default="", init=False)  # why the Deployment's pods cannot be made
    _taken: dict[str, Any] = field(default_factory=dict, init=False)  # by kind, what was another manager's

    @property
    def name(self) -> str:
        return str(self.service["metadata"]["name"])

    def run(self) -> RolloutResult:
        """Raises the error that stopped it, when everything is again as it was; BadInput, NotReady, Temporary."""
        started = time.monotonic()
        before = [self._there(one["kind"], one["metadata"]["name"]) for one in (self.runtime, self.service)]
        deployment = self.cluster.get("Deployment", f"{self.name}-predictor")
        self._deployed = deployment["metadata"]["generation"] if deployment is not None else 0
        self._old_pods = frozenset(pod["metadata"]["name"] for pod in self.cluster.list("Pod", {_LABEL: self.name}))
        touched: list[dict[str, Any]] = []
        try:
            for one in (self.runtime, self.service):
                touched.append(one)  # before: the cluster may take it, and the answer may be lost
                try:
                    applied = self._apply(one)
                except BadInput:  # it said no
                    touched.pop()
                    raise
            found = self._wait(started + self.timeout)
            url = self.url or found
            self.say(f"ready: {url}")
            answer = ask(url, self.name, self.say)
        except BaseException as error:
            self._roll_back(touched, before, error)
            raise
        was = before[1]
        changed = was is None or was["metadata"].get("generation") != applied["metadata"].get("generation")
        return RolloutResult(
            name=self.name, url=url, answer=answer, changed=changed, seconds=round(time.monotonic() - started, 1)
        )

    def _there(self, kind: str, name: str) -> dict[str, Any] | None:
        """The object before anything is done; what is being deleted is waited for, since it would take ours along."""
        found = self.cluster.get(kind, name)
        if found is not None and is_going(found):
            self.say(f"{kind} {name} is being deleted: waiting until it is gone")
            self.cluster.wait_until_gone(kind, name)
            found = self.cluster.get(kind, name)
        return found

    def _apply(self, one: dict[str, Any]) -> dict[str, Any]:
        """Server-side apply. Raises Conflict for what another manager has set and the model cannot be served without."""
        try:
            return self.cluster.apply(one)
        except Conflict as conflict:
            if self.force_conflicts:
                self._taken[one["kind"]] = split(one, conflict.fields)[1]
                return self.cluster.apply(one, force=True)
            if not all(field.startswith(_YIELDED) for field in conflict.fields):
                raise
            for field_, manager in conflict.fields.items():
                self.say(f"{field_.removeprefix('.')} stays as {manager} has set it")
            return self.cluster.apply(split(one, conflict.fields)[0])

    def _runtime_used(self) -> bool:
        """Whether another service has taken to the runtime in the meantime; one that is being deleted does not count."""
        services = (one for one in self.cluster.list("InferenceService", {}) if not is_going(one))
        models = (one["spec"]["predictor"].get("model") or {} for one in services)
        return any(model.get("runtime") == self.runtime["metadata"]["name"] for model in models)

    def _wait(self, deadline: float) -> str:
        """The service's URL, once the new one serves behind it; raises NotReady or BadInput with the cluster's own message."""
        while True:
            service = self.cluster.get("InferenceService", self.name)
            if service is None:
                raise BadInput(f"the InferenceService {self.name} was deleted while it was waited for")
            status = service.get("status") or {}
            lacks = self._not_rolled_out()
            why = _not_ready(status) or lacks
            if not why:
                return str(status["url"])
            self._look_at_status(status, time.monotonic())
            self._look_at_pods(time.monotonic())
            self._report(why)
            if time.monotonic() > deadline:
                raise NotReady(
                    f"{self.name} was not ready after {self.timeout:.0f} s: {self._said}",
                    remedy=f"look at it: kubectl -n {self.cluster.namespace} describe pod -l {_LABEL}={self.name}",
                )
            time.sleep(self.poll)

    def _not_rolled_out(self) -> str:
        """What `kubectl rollout status` would wait for; empty when there is nothing, or no Deployment at all (Knative)."""
        self._no_pod = ""
        deployment = self.cluster.get("Deployment", f"{self.name}-predictor")
        if deployment is None:
            return ""
        if deployment["metadata"]["generation"] == self._deployed and not self._asked_for(deployment):
            return "KServe has not looked at it yet"
        status, wanted = deployment.get("status") or {}, (deployment.get("spec") or {}).get("replicas", 1)
        if status.get("observedGeneration", 0) < deployment["metadata"].get("generation", 0):
            return "the Deployment has not been looked at yet"
        for one in status.get("conditions") or ():  # its controller copies what the ReplicaSet's was told
            if one.get("type") == "ReplicaFailure" and one.get("status") == "True":
                self._no_pod = str(one.get("message") or one.get("reason"))
        if status.get("updatedReplicas", 0) < wanted or status.get("availableReplicas", 0) < wanted:
            return (
                f"{status.get('updatedReplicas', 0)} of {wanted} new pod(s), {status.get('availableReplicas', 0)} ready"
            )
        if status.get("replicas", 0) > status.get("updatedReplicas", 0):
            return "an old pod still ends"
        return ""

    def _asked_for(self, deployment: dict[str, Any]) -> bool:
        """Whether a Deployment is of the model, the runtime and the arguments that were applied."""
        template, model = deployment["spec"]["template"], self.service["spec"]["predictor"]["model"]
        annotations = (template.get("metadata") or {}).get("annotations") or {}
        runtime = self.runtime["spec"]["containers"][0]
        (container,) = (one for one in template["spec"]["containers"] if one["name"] == runtime["name"])
        there = (annotations.get(_SOURCE), container.get("image"), (container.get("args") or [])[-len(model["args"]) :])
        return bool(there == (model["storageUri"], runtime["image"], model["args"]))

    def _look_at_status(self, status: dict[str, Any], now: float) -> None:
        """Raises when KServe goes on saying that the service is invalid; crashes are for the pods to tell."""
        failure = _invalid(status)
        if not failure:
            self._refused = None
            return
        self._refused = now if self._refused is None else self._refused
        if now - self._refused >= self.refusal_patience:
            raise BadInput(f"KServe refuses {self.name}: {failure}")

    def _look_at_pods(self, now: float) -> None:
        """Raises for what waiting does not mend: no GPUs, an image that cannot be pulled, a server that keeps crashing, a pod
        that the cluster does not let be made.
        """
        waiting: Error | None = None
        if self._no_pod:
            waiting = refusal(f"make a pod of {self.name}", self._no_pod)
            if not isinstance(waiting, Temporary):
                raise waiting
        for pod in self.cluster.list("Pod", {_LABEL: self.name}):
            if pod["metadata"]["name"] in self._old_pods:
                continue
            status = pod.get("status") or {}
            for one in status.get("conditions") or ():
                if one.get("type") == "PodScheduled" and one.get("reason") == "Unschedulable":
                    waiting = NotReady(
                        f"no node has room for {self.name}: {one.get('message')}",
                        remedy="free GPUs, add a node, or take fewer: --tensor-parallel-size, --max-model-len, --kv-cache-dtype fp8",
                    )
            for container in [*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())]:
                self._check_container(pod["metadata"]["name"], container)
        if waiting is None:
            self._unplaced = None
            return
        self._unplaced = now if self._unplaced is None else self._unplaced
        self._report(waiting.message)
        if now - self._unplaced >= self.gpu_patience:
            raise waiting

    def _check_container(self, pod: str, container: dict[str, Any]) -> None:
        reason = ((container.get("state") or {}).get("waiting") or {}).get("reason", "")
        message = ((container.get("state") or {}).get("waiting") or {}).get("message", "")
        if reason in CANNOT_START:
            raise BadInput(
                f"{container['name']} of {pod} cannot start: {reason}: {message}",
                remedy="check the name of the image, and the login that the cluster has for its registry",
            )
        if container.get("restartCount", 0) >= _CRASHES:
            last = "\n".join(self.cluster.log(pod, container["name"], tail=15))
            raise BadInput(f"{container['name']} of {pod} keeps ending; its last lines:\n{last}")

    def _report(self, why: str) -> None:
        if why != self._said:
            self._said = why
            self.say(why)

    def _roll_back(
        self, touched: list[dict[str, Any]], before: list[dict[str, Any] | None], error: BaseException
    ) -> None:
        """Put what was touched back as it was, or away; the error then says so."""
        if not touched:
            return
        try:
            for one, was in reversed(list(zip(touched, before, strict=False))):
                if was is not None:
                    ours = applied_by(MANAGER, was)  # others' fields are theirs, and nobody has changed them
                    self.cluster.apply(overlay(ours, was, self._taken.get(one["kind"], {})), force=True)
                elif one is self.service or not self._runtime_used():
                    self.cluster.delete(one["kind"], one["metadata"]["name"])
        except Error as failure:
            word = f"and could not be put back ({failure.message}): look at {self.name}"
        else:
            word = (
                f"rolled back: {self.name} serves as before"
                if before[1] is not None
                else f"rolled back: nothing is left of {self.name}"
            )
        self.say(word)
        if isinstance(error, Error):
            error.message = f"{error.message}\n{word}"


def _not_ready(status: dict[str, Any]) -> str:
    conditions = {one["type"]: one for one in status.get("conditions") or ()}
    ready = conditions.get("Ready")
    if ready is None:
        return "KServe has not said anything yet"
    if ready.get("status") != "True":
        return str(ready.get("message") or ready.get("reason") or "not ready")
    return "" if status.get("url") else "it has no URL yet"


def _invalid(status: dict[str, Any]) -> str:
    """KServe's statement that the service does not fit its runtime (pkg/apis/serving/v1beta1: TransitionStatus).

    `BlockedByFailedLoad` is none: it comes with the first crash of a container, which may start better the next time.
    """
    model = status.get("modelStatus") or {}
    if model.get("transitionStatus") != "InvalidSpec":
        return ""
    failure = model.get("lastFailureInfo") or {}
    return str(failure.get("message") or failure.get("reason") or "InvalidSpec")
