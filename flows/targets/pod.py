"""The pod that KServe makes of a predictor with an `oci://` URI, for `podman kube play`, which needs no cluster.

KServe's webhook makes it (pkg/utils/storage.go): an init container that looks whether the image holds a model, a sidecar
that links its own root's /models, one pid namespace.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from flows.targets.description import Rendered, RenderedFile, unpinned
from flows.targets.kserve import (
    MODELS,
    environment,
    image_for,
    probes,
    resources,
    security,
    serving_runtime,
    shared_memory,
)
from flows.targets.target import DeploymentTarget
from flows.targets.text import yaml
from infra.hardening import USER, of_pod_container

if TYPE_CHECKING:
    from flows.targets.description import Deployment


def render(deployment: Deployment) -> Rendered:
    """`<name>.pod.yaml` for `podman kube play`."""
    text = yaml(manifest(deployment))
    return Rendered(
        files=(RenderedFile(name=f"{deployment.name}.pod.yaml", text=text),),
        notes=(
            *unpinned(image_for(deployment)),
            "the pod that KServe makes, as podman wants it: podman kube play --log-driver k8s-file FILE",
        ),
    )


def manifest(deployment: Deployment) -> dict[str, Any]:
    """What KServe's webhook makes of the predictor, as it runs, and without privileges for the modelcar, too.

    In a cluster the sidecar's argument reads `/proc/$$$$/root`, of which the kubelet makes `$$`. Podman expands nothing,
    so the words here are those that reach the shell. Podman takes the pod's restart policy for init containers too, which
    it would start over and over: `OnFailure` has them end. And a port without an address of the host is published to
    everybody (4.3.1).
    """
    modelcar = {
        "image": deployment.hub,
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "resources": {
            "requests": {"cpu": "10m", "memory": "15Mi"},
            "limits": {"cpu": "10m", "memory": "15Mi"},
        },
        "securityContext": {"runAsUser": USER, **of_pod_container()},
    }
    look = (
        f"echo 'Pre-fetching modelcar {deployment.hub}: ' && [ -d /models ] && [ \"$(ls -A /models)\" ] "
        "&& echo 'OK ... Prefetched and valid (/models exists)' "
        "|| (echo 'NOK ... Prefetched but modelcar is invalid (/models does not exist or is empty)' && exit 1)"
    )
    mount = {"name": "kserve-provision-location", "mountPath": "/mnt"}
    runtime = serving_runtime(image_for(deployment), {}, on_gpu=deployment.on_gpu)["spec"]["containers"][0]
    shared = [*runtime["args"][:-1], f"--served-model-name={deployment.name}"]
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": deployment.name, "labels": {"app.kubernetes.io/managed-by": "carwright"}},
        "spec": {
            "shareProcessNamespace": True,
            "restartPolicy": "OnFailure",
            "initContainers": [{"name": "modelcar-init", "args": ["sh", "-c", look], **modelcar}],
            "containers": [
                {
                    **runtime,
                    "args": [*shared, *deployment.tuning],
                    "ports": [{**runtime["ports"][0], "hostIP": deployment.listen, "hostPort": deployment.port}],
                    "env": [*environment(deployment), {"name": "MODEL_INIT_MODE", "value": "async"}],
                    "resources": resources(deployment),
                    "volumeMounts": [mount, {"name": "shm", "mountPath": "/dev/shm"}],  # noqa: S108 -- as above
                    "securityContext": {"runAsUser": USER, **security()},
                    **probes(deployment),
                },
                {
                    "name": "modelcar",
                    "args": ["sh", "-c", f"ln -sf /proc/$$/root/models {MODELS} && sleep infinity"],
                    "volumeMounts": [mount],
                    **modelcar,
                },
            ],
            "volumes": [{"name": "kserve-provision-location", "emptyDir": {}}, shared_memory(deployment)],
        },
    }


TARGET: Final = DeploymentTarget(
    name="pod",
    help="the pod that KServe makes, for `podman kube play`",
    render=lambda deployment, *_: render(deployment),
)
