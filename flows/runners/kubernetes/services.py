"""Services as Jobs of a Kubernetes cluster: the serve step, which says its result when the model answers and goes on.

Steps reach it by its pod's address. It ends when the Job is deleted: by its lease, with the flow's pod that owns it, and at
the latest after `kubernetes.service_timeout`. What is to stay has neither owner nor time limit, and is found by its label.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from containers.contract import Step
from containers.errors import Error
from containers.fingerprints import fingerprint_inputs
from containers.labels import KUBERNETES_LABEL
from containers.parameters import Endpoint, ServeOptions
from containers.serve_health import is_healthy
from containers.step import parse_result_line
from flows.runners.kubernetes import manifests
from flows.runners.kubernetes.kept import forget, mark, places, remember
from flows.runners.kubernetes.launcher import JobWatch, opened
from flows.runners.service import refuse_unseen
from flows.runners.step_protocol import last_error
from infra.cluster import Cluster, is_going

if TYPE_CHECKING:
    from containers.contract import StepRequest
    from containers.events import OnEvent
    from infra.settings import KubernetesSettings, Settings

PORT: Final = 8000
_SERVICE: Final = f"{KUBERNETES_LABEL}service"
_KEPT: Final = f"{KUBERNETES_LABEL}kept"
_PROJECT: Final = {"app.kubernetes.io/managed-by": "carwright", "app.kubernetes.io/component": "serve"}


@dataclass
class KubernetesLease:
    """One Job that serves."""

    endpoint: Endpoint
    found: bool
    _settings: Settings
    _job: str
    _stays: bool = field(default=False)

    @property
    def serves(self) -> bool:
        return is_healthy(self.endpoint.url)

    def why_ended(self) -> Error | None:
        with Cluster.open(self._settings.kubernetes) as cluster:
            for pod in cluster.list("Pod", {"job-name": self._job}):
                name = pod["metadata"]["name"]
                with contextlib.suppress(Error):
                    lines = cluster.log(name, manifests.CONTAINER)
                    if (said := last_error(Step.SERVE, lines, f"its log is that of the pod {name}")) is not None:
                        return said
        return None

    def end(self) -> None:
        if not self._stays:
            with Cluster.open(self._settings.kubernetes) as cluster:
                cluster.delete("Job", self._job)

    def keep(self) -> None:
        self._stays = True
        with Cluster.open(self._settings.kubernetes) as cluster:
            remember(self._settings, cluster.found_by)
            cluster.patch("Job", self._job, _STAYING)


# RFC 7386: null removes. Without an owner it survives the flow's pod, without a deadline the day.
_STAYING: Final[dict[str, Any]] = {
    "metadata": {"labels": {_KEPT: "true"}, "ownerReferences": None},
    "spec": {"activeDeadlineSeconds": None},
}


@dataclass(frozen=True)
class KubernetesServices:
    """Reconciles what is served in the namespace that the settings name."""

    settings: Settings

    def start(self, request: StepRequest, on_event: OnEvent, *, keep: bool = False) -> KubernetesLease:
        """See Services. What another run serves for itself is left to it; what was kept is found by every run."""
        manifests.check(request)
        key = request.fingerprint(fingerprint_inputs(request.step))[:12]
        with opened(self.settings, on_event) as cluster:
            for one in cluster.list("Job", {_SERVICE: key, _KEPT: "true"}):
                endpoint = None if is_going(one) else self._endpoint(cluster, one["metadata"]["name"])
                if endpoint is not None:
                    refuse_unseen(request, f"by the Job {one['metadata']['name']}")
                    return KubernetesLease(endpoint, True, self.settings, one["metadata"]["name"], _stays=True)
            options = ServeOptions.read(request.options).model_copy(update={"host": "0.0.0.0", "port": PORT})  # noqa: S104 -- in its pod
            asked = request.model_copy(update={"options": options.dump()})
            name = manifests.new_name(request)
            manifest = manifests.job(self.settings, asked, name)
            manifest["metadata"]["labels"][_SERVICE] = key
            manifest["spec"]["activeDeadlineSeconds"] = self.settings.kubernetes.service_timeout
            try:
                made = cluster.create(manifest)
                cluster.create(manifests.secret(self.settings, asked, name, made["metadata"]["uid"]))
                cluster.patch("Job", name, {"spec": {"suspend": False}})
                pod, result = JobWatch(cluster, self.settings, request.step, name, on_event).result_while_it_works()
                endpoint = _of_pod(cluster, pod, Endpoint.read(result.values))
            except BaseException:
                with contextlib.suppress(Error):  # the first error counts
                    cluster.delete("Job", name)
                raise
            finally:
                with contextlib.suppress(Error):
                    cluster.delete("Secret", name, wait=False)  # which may not be read
        return KubernetesLease(endpoint, False, self.settings, name)

    def stop_all(self, *, kept: bool = False) -> list[str]:
        """Of what dead runs leave the cluster takes care itself; with `kept` every service that was to stay is ended.

        In the namespace of the settings, where they start steps on a cluster, and wherever runs of this folder have kept any.
        """
        if not kept:
            return []
        stopped = []
        for place in places(self.settings):
            try:
                stopped += _stop_kept(place)
            except Error as error:
                if mark(self.settings).exists():
                    error.remedy = f"{error.remedy}; if that cluster is gone, remove {mark(self.settings)}"
                raise
        forget(self.settings)
        return stopped

    def _endpoint(self, cluster: Cluster, name: str) -> Endpoint | None:
        """Of a Job that serves, from the result in its log; None when it does not answer."""
        for pod in cluster.list("Pod", {"job-name": name}):
            with contextlib.suppress(Error):
                for line in cluster.log(pod["metadata"]["name"], manifests.CONTAINER):
                    if (result := parse_result_line(line)) is not None:
                        endpoint = _of_pod(cluster, pod["metadata"]["name"], Endpoint.read(result.values))
                        return endpoint if is_healthy(endpoint.url) else None
        return None


def _stop_kept(place: KubernetesSettings) -> list[str]:
    with Cluster.open(place) as cluster:
        names = [one["metadata"]["name"] for one in cluster.list("Job", _PROJECT | {_KEPT: "true"})]
        return [f"the Job {name} in the namespace {cluster.namespace}" for name in names if cluster.delete("Job", name)]


def _of_pod(cluster: Cluster, pod: str, endpoint: Endpoint) -> Endpoint:
    """The endpoint by the pod's address, which other pods reach."""
    found = cluster.get("Pod", pod) or {}
    address = (found.get("status") or {}).get("podIP") or "127.0.0.1"
    host = f"[{address}]" if ":" in address else address
    return endpoint.model_copy(update={"url": f"http://{host}:{PORT}/v1"})
