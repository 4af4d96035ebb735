"""OpenShift AI and any KServe: a ServingRuntime and an InferenceService, and their rollout."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any, Final

from containers.serve_health import HEALTH_PATH, HEALTH_TIMEOUT, STARTUP_PERIOD, startup_tries
from flows.targets.description import MODULE, Rendered, RenderedFile, unpinned
from flows.targets.size import GIB
from flows.targets.target import DeploymentTarget, RolloutResult, Storage, TargetOptions
from flows.targets.text import yaml
from infra.hardening import of_pod_container

if TYPE_CHECKING:
    from flows.targets.description import Deployment
    from flows.targets.target import DeploymentAttempt

PORT: Final = 8080  # KServe's own
MODELS: Final = "/mnt/models"
GPU: Final = "nvidia.com/gpu"


def image_for(deployment: Deployment) -> str:
    return deployment.vllm_image(deployment.images.kserve_image)


def render(deployment: Deployment, mode: Storage = "oci", namespace: str = "") -> Rendered:
    """`<name>.kserve.yaml`: both objects, in the order in which they must be applied."""
    image = image_for(deployment)
    notes = list(unpinned(image))
    if mode == "oci":
        notes.append("oci:// needs `enableModelcar` in KServe's ConfigMap, and both containers must run as one user")
    elif mode == "oci+native":
        notes.append("oci+native:// needs Kubernetes 1.33 or later with image volumes")
    else:
        notes.append("oci+fetch:// copies the weights to the node's disk at every start of a pod")
    text = yaml(*objects(deployment, mode, namespace))
    return Rendered(files=(RenderedFile(name=f"{deployment.name}.kserve.yaml", text=text),), notes=tuple(notes))


def objects(
    deployment: Deployment, mode: Storage = "oci", namespace: str = ""
) -> tuple[dict[str, Any], dict[str, Any]]:
    """ServingRuntime and InferenceService."""
    image = image_for(deployment)
    where = {"namespace": namespace} if namespace else {}
    return serving_runtime(image, where, on_gpu=deployment.on_gpu), _service(deployment, image, mode, where)


def runtime_name(image: str, *, on_gpu: bool) -> str:
    """One runtime for each vLLM image: a new image never touches what serves by an older one."""
    return f"vllm-{'cuda' if on_gpu else 'cpu'}-{hashlib.sha256(image.encode()).hexdigest()[:8]}"


def serving_runtime(image: str, where: dict[str, str], *, on_gpu: bool) -> dict[str, Any]:
    """What all models on one vLLM image share; what depends on the model is in the InferenceService."""
    annotations = {"openshift.io/display-name": f"vLLM {'NVIDIA GPU' if on_gpu else 'CPU'} ServingRuntime for KServe"}
    if on_gpu:
        annotations["opendatahub.io/recommended-accelerators"] = f'["{GPU}"]'
    return {
        "apiVersion": "serving.kserve.io/v1alpha1",
        "kind": "ServingRuntime",
        "metadata": {
            "name": runtime_name(image, on_gpu=on_gpu),
            **where,
            "annotations": annotations,
            "labels": {"opendatahub.io/dashboard": "true", "app.kubernetes.io/managed-by": "carwright"},
        },
        "spec": {
            "annotations": {
                "prometheus.io/scrape": "true",
                "prometheus.io/port": str(PORT),
                "prometheus.io/path": "/metrics",
            },
            "multiModel": False,
            "supportedModelFormats": [{"name": "vLLM", "autoSelect": False}],
            "containers": [
                {
                    "name": "kserve-container",
                    "image": image,
                    "command": ["python3", "-m", MODULE],
                    "args": [f"--port={PORT}", f"--model={MODELS}", "--served-model-name={{.Name}}"],
                    "ports": [{"containerPort": PORT, "protocol": "TCP"}],
                }
            ],
        },
    }


def _service(deployment: Deployment, image: str, mode: Storage, where: dict[str, str]) -> dict[str, Any]:
    predictor: dict[str, Any] = {
        "minReplicas": 1,
        "maxReplicas": 1,
        # The old pod serves until the new one is ready; that takes the GPUs of both for a while.
        "deploymentStrategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
        "model": {
            "modelFormat": {"name": "vLLM"},
            "runtime": runtime_name(image, on_gpu=deployment.on_gpu),
            "storageUri": f"{mode}://{deployment.hub}",
            "args": deployment.tuning,
            "env": environment(deployment),
            "resources": resources(deployment),
            "volumeMounts": [{"name": "shm", "mountPath": "/dev/shm"}],  # noqa: S108 -- NCCL's shared memory
            "securityContext": security(),
            **probes(deployment),
        },
        "volumes": [shared_memory(deployment)],
    }
    if deployment.on_gpu:
        predictor["tolerations"] = [{"key": GPU, "operator": "Exists", "effect": "NoSchedule"}]
    return {
        "apiVersion": "serving.kserve.io/v1beta1",
        "kind": "InferenceService",
        "metadata": {
            "name": deployment.name,
            **where,
            "annotations": {
                "openshift.io/display-name": deployment.name,
                "serving.kserve.io/deploymentMode": "RawDeployment",
                "serving.kserve.io/enable-prometheus-scraping": "true",
            },
            "labels": {"opendatahub.io/dashboard": "true", "app.kubernetes.io/managed-by": "carwright"},
        },
        "spec": {"predictor": predictor},
    }


def security() -> dict[str, Any]:
    """Of vLLM's container: no privileges; its image is anybody's, and where that writes is not known."""
    return {**of_pod_container(read_only=False), "seccompProfile": {"type": "RuntimeDefault"}}


def resources(deployment: Deployment) -> dict[str, dict[str, str]]:
    """Requests and limits; a GPU is not shared, so both ask for as many."""
    gpus = {GPU: str(deployment.gpus)} if deployment.on_gpu else {}
    return {
        "requests": {"cpu": str(deployment.cpu_request), "memory": f"{deployment.memory_request // GIB}Gi", **gpus},
        "limits": {"cpu": str(deployment.cpu_limit), "memory": f"{deployment.memory_limit // GIB}Gi", **gpus},
    }


def probes(deployment: Deployment) -> dict[str, Any]:
    """vLLM's /health; until it first answers, only the startup probe counts, with the time that the weights may take."""
    health = {"httpGet": {"path": HEALTH_PATH, "port": PORT, "scheme": "HTTP"}}
    tries = startup_tries(deployment.startup_seconds)
    return {
        "startupProbe": {
            **health,
            "periodSeconds": STARTUP_PERIOD,
            "timeoutSeconds": HEALTH_TIMEOUT,
            "failureThreshold": tries,
        },
        "readinessProbe": {**health, "periodSeconds": 5, "timeoutSeconds": HEALTH_TIMEOUT, "failureThreshold": 3},
        "livenessProbe": {**health, "periodSeconds": 30, "timeoutSeconds": 15, "failureThreshold": 4},
    }


def environment(deployment: Deployment) -> list[dict[str, str]]:
    return [{"name": name, "value": value} for name, value in deployment.environment.items()]


def shared_memory(deployment: Deployment) -> dict[str, Any]:
    return {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": f"{deployment.shared_memory // GIB}Gi"}}


def deploy(deployment: Deployment, attempt: DeploymentAttempt, options: TargetOptions) -> RolloutResult:
    """Apply both objects to the cluster of the settings, and wait for the rollout; raises what `Rollout.run` raises."""
    from flows.targets.rollout import Rollout
    from infra.cluster import Cluster

    with Cluster.open(attempt.settings.kubernetes, options.namespace, attempt.say) as cluster:
        runtime, service = objects(deployment, options.storage, cluster.namespace)
        rollout = Rollout(
            cluster,
            runtime,
            service,
            attempt.say,
            timeout=attempt.timeout,
            gpu_patience=options.gpu_patience,
            url=options.url,
            force_conflicts=options.force_conflicts,
        )
        return rollout.run()


TARGET: Final = DeploymentTarget(
    name="kserve",
    help="a cluster with KServe, such as OpenShift AI",
    render=lambda deployment, _, options: render(deployment, options.storage, options.namespace),
    deploy=deploy,
    options=frozenset({"storage", "namespace", "gpu_patience", "url", "force_conflicts"}),
)
