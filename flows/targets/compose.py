"""A service for a single host, for `docker compose` (and docker-compose 1.28 or later)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from containers.labels import LABEL
from containers.serve_health import HEALTH_TIMEOUT, STARTUP_PERIOD, health_url, startup_tries
from flows.targets.description import MODULE, USER, Rendered, RenderedFile, unpinned
from flows.targets.docker import MODELS, image_for
from flows.targets.size import GIB
from flows.targets.text import yaml

if TYPE_CHECKING:
    from flows.targets.description import Deployment


def render(deployment: Deployment) -> Rendered:
    """`<name>.compose.yaml` with the services `model` and `vllm`."""
    image = image_for(deployment)
    vllm: dict[str, Any] = {
        "image": image,
        "labels": {f"{LABEL}reference": deployment.hub},  # another model is another container of vLLM, too
        "restart": "unless-stopped",
        "user": f"{USER}:0",
        "pid": "service:model",
        "depends_on": ["model"],
        "entrypoint": ["python3", "-m", MODULE],
        "command": deployment.vllm(MODELS, deployment.port),
        "environment": deployment.environment,
        "ports": [f"{deployment.listen}:{deployment.port}:{deployment.port}"],
        "shm_size": f"{deployment.shared_memory // GIB}g",
        "healthcheck": {
            "test": ["CMD", "python3", "-c", _probe(deployment.port)],
            "interval": f"{STARTUP_PERIOD}s",
            "timeout": f"{2 * HEALTH_TIMEOUT}s",
            "retries": startup_tries(deployment.startup_seconds),  # before that it counts as starting, not as unhealthy
        },
    }
    if deployment.on_gpu:
        device = {"driver": "nvidia", "count": deployment.gpus, "capabilities": ["gpu"]}
        vllm["deploy"] = {"resources": {"reservations": {"devices": [device]}}}
    services = {
        "model": {
            "image": deployment.hub,
            "restart": "unless-stopped",
            "user": f"{USER}:0",
            "network_mode": "none",
            "command": ["sleep", "infinity"],
            "stop_grace_period": "1s",  # as process 1 it hears no SIGTERM
        },
        "vllm": vllm,
    }
    text = yaml({"version": "3.8", "services": services})
    return Rendered(files=(RenderedFile(name=f"{deployment.name}.compose.yaml", text=text),), notes=unpinned(image))


def _probe(port: int) -> str:
    url = health_url(f"http://127.0.0.1:{port}")
    return f"import urllib.request; urllib.request.urlopen('{url}', timeout={HEALTH_TIMEOUT})"
