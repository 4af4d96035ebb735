"""The Job controller and the kubelet, as the controller of tests/support/kube_api.py: what a test lets a pod do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from containers.contract import Step, StepResult
from containers.step import result_line

if TYPE_CHECKING:
    from tests.support.kube_api import KubeApi

DONE = StepResult(step=Step.DOWNLOAD, values={"answer": 42})
_STATUS = {"name": "step", "image": "i", "imageID": "", "ready": False, "restartCount": 0}


class Kubelet:
    """Makes the pod of a Job that is not suspended and gives it the states that `play` says, one for each look."""

    def __init__(self, *play: Any) -> None:
        self.play = list(play)
        self.seen: list[dict[str, Any]] = []
        self.made: set[str] = set()

    def __call__(self, api: KubeApi) -> None:
        for (kind, name), job in list(api.objects.items()):
            if kind != "jobs" or job["spec"]["suspend"]:
                continue
            pod = f"{name}-x"
            if pod not in self.made:
                secret = api.objects["secrets", name]  # a Job is let go when all it needs is there
                self.seen += [job, secret]
                owner = {"apiVersion": "batch/v1", "kind": "Job", "name": name, "uid": job["metadata"]["uid"]}
                metadata = {"name": pod, "labels": {"job-name": name}, "ownerReferences": [owner]}
                spec = job["spec"]["template"]["spec"]
                if api.make_pod("jobs", name, {"metadata": metadata, "spec": spec, "status": {}}):
                    self.made.add(pod)
            elif self.play:
                change = self.play.pop(0)
                if change(api, pod) is False:  # not yet
                    self.play.insert(0, change)


def says(*lines: str) -> Any:
    return lambda api, pod: api.logs.setdefault(pod, []).extend(lines)


def state(kind: str = "containerStatuses", name: str = "step", **states: Any) -> Any:
    """Give the container a state: `running={}`, `terminated={"exitCode": 0}`; that one also ends its log."""

    def change(api: KubeApi, pod: str) -> None:
        api.objects["pods", pod]["status"][kind] = [{**_STATUS, "name": name, "state": states}]
        if "terminated" in states and name == "step":
            api.logs.setdefault(pod, []).append(None)

    return change


def fetches(*lines: str, code: int = 0) -> tuple[Any, ...]:
    """The init container of a service, from its start to its end."""

    def log(api: KubeApi, pod: str) -> None:
        result = [] if code else [result_line(StepResult(step=Step.SERVE))]
        api.logs[f"{pod}/fetch"] = [*lines, *result, None]

    init = {"kind": "initContainerStatuses", "name": "fetch"}
    return (log, state(**init, running={}), state(**init, terminated={"exitCode": code}))
