"""A service for a single host, for `docker compose` (and docker-compose 1.28 or later)."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from containers import private
from containers.errors import BadInput, Error
from containers.labels import LABEL
from containers.process import Completed, ProcessFailed, inherited, run
from containers.serve_health import HEALTH_TIMEOUT, STARTUP_PERIOD, health_url, startup_tries
from flows.targets.description import MODULE, Rendered, RenderedFile, unpinned
from flows.targets.docker import MODELS
from flows.targets.hosts import LAST_LINES, PULL, note_rollback, reached, since, wait
from flows.targets.size import GIB
from flows.targets.smoke import ask
from flows.targets.target import DeploymentTarget, RolloutResult
from flows.targets.text import yaml
from infra.hardening import DROPPED, NO_NEW_PRIVILEGES, PIDS_OF_A_MODELCAR, USER, pids

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from flows.targets.description import Deployment


def render(deployment: Deployment) -> Rendered:
    """`<name>.compose.yaml` with the services `model` and `vllm`."""
    image = deployment.vllm_image(deployment.images.docker_image)
    vllm: dict[str, Any] = {
        "image": image,
        "labels": {f"{LABEL}reference": deployment.hub},  # another model is another container of vLLM, too
        "restart": "unless-stopped",
        "user": f"{USER}:0",
        **_confined(pids(deployment.gpus)),
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
            "read_only": True,
            **_confined(PIDS_OF_A_MODELCAR),
            "network_mode": "none",
            "command": ["sleep", "infinity"],
            "stop_grace_period": "1s",  # as process 1 it hears no SIGTERM
        },
        "vllm": vllm,
    }
    text = yaml({"version": "3.8", "services": services})
    return Rendered(files=(RenderedFile(name=f"{deployment.name}.compose.yaml", text=text),), notes=unpinned(image))


def _confined(processes: int) -> dict[str, Any]:
    return {"cap_drop": list(DROPPED), "security_opt": [f"{NO_NEW_PRIVILEGES}:true"], "pids_limit": processes}


def _probe(port: int) -> str:
    url = health_url(f"http://127.0.0.1:{port}")
    return f"import urllib.request; urllib.request.urlopen('{url}', timeout={HEALTH_TIMEOUT})"


def deploy(deployment: Deployment, home: Path, say: Callable[[str], None], *, timeout: float) -> RolloutResult:
    """`docker compose up` of the rendered file, which stays at `<home>/deployments/<name>.compose.yaml`."""
    started = time.monotonic()
    file = render(deployment).files[0]
    path = private.folder(home.resolve(), "deployments") / file.name
    project = _Compose((*_program(), "--project-name", deployment.name, "--file", str(path)))
    before = path.read_text() if path.exists() and project.states() else None
    path.write_text(file.text)
    url = f"http://{reached(deployment)}:{deployment.port}"
    try:
        project.up()
        wait(url, timeout, lambda: "running" in project.states(), project.log, say)
        answer = ask(url, deployment.name, say)
    except BaseException as error:
        note_rollback(error, project.back(path, before))
        raise
    return RolloutResult(
        name=deployment.name, url=url, answer=answer, changed=before != file.text, seconds=since(started)
    )


@dataclass(frozen=True)
class _Compose:
    """The program with its options for one project."""

    command: tuple[str, ...]

    def __call__(self, *arguments: str, check: bool = True, timeout: float = 300) -> Completed:
        return run([*self.command, *arguments], env=inherited("DOCKER_", "COMPOSE_"), check=check, timeout=timeout)

    def up(self) -> None:
        """Raises BadInput with the program's own word for what is wrong."""
        try:
            self("up", "--detach", "--remove-orphans", timeout=PULL)
        except ProcessFailed as error:
            lines = error.output.strip().splitlines()
            told = [line for line in lines if line.lower().startswith("error")] or lines
            raise BadInput(
                f"compose could not start it: {told[-1].strip() if told else f'code {error.code}'}"
            ) from error

    def states(self) -> list[str]:
        """Of vLLM's containers: running, restarting (from the first time on), exited."""
        status = "{{if .RestartCount}}restarting{{else}}{{.State.Status}}{{end}}"  # it runs again a moment later
        return self._engine("inspect", "--format", status).stdout.split()

    def log(self) -> str:
        """Of vLLM; by the engine, since compose itself says nothing of a container that restarts."""
        said = self._engine("logs", "--tail", str(LAST_LINES))
        return said.stdout + said.stderr

    def _engine(self, *arguments: str) -> Completed:
        """A command of the engine about vLLM's containers."""
        listed = self("ps", "--quiet", "vllm", check=False).stdout.split()
        argv = ["docker", *arguments, *listed]
        return run(argv, env=inherited("DOCKER_"), check=False) if listed else Completed(0, "", "")

    def back(self, path: Path, before: str | None) -> str:
        """Put back what was there; a word about it."""
        if before is None:
            self("down", check=False)
            path.unlink()
            return "nothing was left behind"
        path.write_text(before)
        try:
            self.up()
        except Error as error:
            return f"and the old one could not be started again: {error.message}"
        return "the old one was started again"


def _program() -> list[str]:
    """`docker compose`, or the program that came before it."""
    environment = inherited("DOCKER_")
    for command in (["docker", "compose"], ["docker-compose"]):
        with contextlib.suppress(BadInput):
            if run([*command, "version"], env=environment, check=False).code == 0:
                return command
    raise BadInput(
        "neither `docker compose` nor `docker-compose` is installed", remedy="install one, or use another target"
    )


TARGET: Final = DeploymentTarget(
    name="compose",
    help="one host with Docker Compose",
    render=lambda deployment, *_: render(deployment),
    deploy=lambda deployment, attempt, _: deploy(
        deployment, attempt.settings.home, attempt.say, timeout=attempt.timeout
    ),
)
