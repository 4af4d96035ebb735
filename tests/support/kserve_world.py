"""KServe, the scheduler and the kubelet, as the controller of tests/support/kube_api.py."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.support.kube_api import KubeApi

CONTAINER = {"image": "engine", "imageID": "", "ready": False}
FINALIZER = "inferenceservice.finalizers"  # pkg/controller/v1beta1/inferenceservice/controller.go
GPU_MESSAGE = "0/3 nodes are available: 3 Insufficient nvidia.com/gpu."


class KServe:
    """What KServe, the scheduler and the kubelet do with a service; `fate` is by the model's digest."""

    def __init__(self) -> None:
        self.fate: dict[str, str] = {}
        self.looks = 0
        self.cleans_up = True  # whether it takes its finalizer off what is being deleted

    def __call__(self, api: KubeApi) -> None:
        for (kind, name), service in list(api.objects.items()):
            if kind == "inferenceservices" and "deletionTimestamp" in service["metadata"]:
                if self.cleans_up:
                    api.let_go(kind, name, FINALIZER)
            elif kind == "inferenceservices":
                service["metadata"].setdefault("finalizers", [FINALIZER])
                self._reconcile(api, name, service)
        for kind, name in list(api.objects):
            if (
                kind in {"deployments", "pods"}
                and ("inferenceservices", name.partition("-predictor")[0]) not in api.objects
            ):
                api.remove(kind, name)

    def _reconcile(self, api: KubeApi, name: str, service: dict[str, Any]) -> None:
        model = service["spec"]["predictor"]["model"]["storageUri"]
        fate = self.fate.get(model[-64:], "ok")
        status = service.setdefault("status", {})
        if fate == "unseen":
            return
        self.looks += 1
        if fate == "invalid" or (fate == "stumbles" and self.looks < 5):
            failure = {"message": "Waiting for runtime to become available"}
            status["modelStatus"] = {"transitionStatus": "InvalidSpec", "lastFailureInfo": failure}
            return
        status["modelStatus"] = {"transitionStatus": "InProgress"}
        template = _template(api, service)
        for replicas in (1,) if ("deployments", f"{name}-predictor") in api.objects else (0, 1):
            spec = {"replicas": replicas, "selector": {}, "template": template}
            deployment = api.put("deployments", {"metadata": {"name": f"{name}-predictor"}, "spec": spec})
        good = fate in {"ok", "stumbles"} or api.served.get(name) == model
        old = name in api.served and api.served[name] != model
        if good:
            api.served[name] = model
            old = False
        deployment["status"] = {
            "observedGeneration": deployment["metadata"]["generation"],
            "replicas": 1 + old,
            "updatedReplicas": 1,
            "availableReplicas": int(good or name in api.served),
        }
        if fate.startswith("refused: "):  # pkg/controller/deployment: the condition of its ReplicaSet, copied
            failure = {"type": "ReplicaFailure", "status": "True", "reason": "FailedCreate", "message": fate[9:]}
            deployment["status"] |= {"conditions": [failure], "updatedReplicas": 0}
            return
        # KServe's word for it is the Deployment's (PropagateRawStatus), which has nothing to do with the service's own.
        status["observedGeneration"] = deployment["metadata"]["generation"]
        status["url"] = f"{api.url}/served/{name}"
        # As in a cluster: while an old pod is available the service stays Ready, whatever becomes of the new one.
        ready = name in api.served
        status["conditions"] = [{"type": "Ready", "status": str(ready), "message": "" if ready else "no pod is ready"}]
        pod: dict[str, Any] = {
            "metadata": {
                "name": f"{name}-predictor-{model[-4:]}",
                "labels": {"serving.kserve.io/inferenceservice": name},
            },
            "spec": {"containers": []},
            "status": {},
        }
        if not good and fate == "no-gpus":
            pod["status"]["conditions"] = [
                {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": GPU_MESSAGE}
            ]
        elif not good and fate in {"ImagePullBackOff", "crash"}:
            waiting = {"reason": "CrashLoopBackOff" if fate == "crash" else fate, "message": "back-off"}
            pod["status"]["containerStatuses"] = [
                {
                    "name": "kserve-container",
                    **CONTAINER,
                    "restartCount": 3 * (fate == "crash"),
                    "state": {"waiting": waiting},
                }
            ]
            api.logs[pod["metadata"]["name"]] = ["loading", "ValueError: no such model", None]
        api.put("pods", pod)


def _template(api: KubeApi, service: dict[str, Any]) -> dict[str, Any]:
    """The pod as KServe has it in the Deployment: where the model is from as an annotation, arguments one after the other."""
    model = service["spec"]["predictor"]["model"]
    runtime = api.objects.get(("servingruntimes", model["runtime"]))
    container = runtime["spec"]["containers"][0] if runtime is not None else {"name": "kserve-container"}
    return {
        "metadata": {"annotations": {"internal.serving.kserve.io/storage-initializer-sourceuri": model["storageUri"]}},
        "spec": {"containers": [{**container, "args": [*container.get("args", ()), *model.get("args", ())]}]},
    }
