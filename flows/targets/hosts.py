"""Deploying to one host: docker, podman and compose; each is waited for, asked, and put back when it does not answer."""

from __future__ import annotations

import contextlib
import json
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from containers.contract import ServeParameters, Step, StepRequest
from containers.digest import Digest
from containers.errors import BadInput, Error, NotReady
from containers.labels import LABEL
from containers.process import Completed, ProcessFailed, inherited, run
from containers.serve_health import health_url, is_healthy
from flows.targets import compose, podman
from flows.targets.rollout import RolloutResult
from flows.targets.smoke import ask

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from containers.events import OnEvent
    from flows.targets.description import Deployment
    from infra.settings import Settings

_POLL: Final = 1.0  # seconds
_PULL: Final = 4 * 3600.0  # seconds for the images, weights included
_PODMAN_VARIABLES: Final = ("CONTAINER", "STORAGE_", "REGISTRY_AUTH_FILE", "XDG_", "DBUS_")
_LABEL: Final = f"{LABEL}command"  # the digest of all that `podman run` was given
_LAST_LINES: Final = 20  # lines of a container's log that an error carries


def deploy_docker(
    deployment: Deployment, settings: Settings, say: Callable[[str], None], on_event: OnEvent, *, timeout: float
) -> RolloutResult:
    """The modelcar mechanism, by the same service that the flow deploys with; it stays until `carwright clean`."""
    from flows.runners.docker.services import DockerServices

    here = deployment.listen in {"127.0.0.1", "0.0.0.0"}  # noqa: S104 -- compared, not bound
    others = {
        "--argument": deployment.arguments,
        "--kv-cache-dtype": deployment.fp8_cache,
        "--listen ADDRESS": not here,
    }
    if refused := [option for option, given in others.items() if given]:
        raise BadInput(
            f"deploy docker starts vLLM by Carwright's own server, which takes no {' and no '.join(refused)}",
            remedy="leave it out, or run the script that `carwright render docker` writes",
        )
    started = time.monotonic()
    docker = settings.docker.model_copy(update={"image": deployment.image or settings.docker.image})
    serve = settings.resources.serve.model_copy(update={"gpus": deployment.gpus})
    resources = settings.resources.model_copy(update={"serve": serve})
    parameters = ServeParameters(
        reference=deployment.hub,
        served_model_name=deployment.name,
        max_model_len=deployment.max_model_len,
        tensor_parallel_size=max(1, deployment.gpus),
    )
    options = {"host": deployment.listen, "port": deployment.port, "ready_timeout": timeout}
    request = StepRequest(
        step=Step.SERVE, run=f"deploy-{deployment.name}", parameters=parameters.dump(), options=options
    )
    services = DockerServices(settings.model_copy(update={"docker": docker, "resources": resources}))
    lease = services.start(request, on_event, keep=True)
    try:
        endpoint = lease.endpoint
        url = endpoint.published or endpoint.url
        answer = ask(url, deployment.name, say)
    except BaseException:
        lease.end()
        raise
    lease.keep()
    return RolloutResult(name=deployment.name, url=url, answer=answer, changed=not lease.found, seconds=_since(started))


def deploy_podman(
    deployment: Deployment, say: Callable[[str], None], *, timeout: float, options: tuple[str, ...] = ()
) -> RolloutResult:
    """`podman run` in the background. One of that name that serves something else is stopped, and started again when the
    new one does not serve. `options` go to podman itself (`--runtime=runc`).
    """
    started = time.monotonic()
    engine = _Podman(options)
    image = podman.image_of(deployment)
    url = f"http://{_reached(deployment)}:{deployment.port}"
    arguments = [word for part in podman.run_arguments(deployment, image, deployment.hub) for word in part]
    mark = str(Digest.of("\0".join(arguments).encode()))
    before = engine.container(deployment.name)
    if before is not None and before["Config"]["Labels"].get(_LABEL) == mark and is_healthy(url):
        return RolloutResult(
            name=deployment.name, url=url, answer=ask(url, deployment.name, say), changed=False, seconds=0
        )
    for one in (deployment.hub, image):
        if engine("image", "exists", one, check=False).code != 0:
            say(f"pulling {one}")
            engine("pull", "--quiet", one, timeout=_PULL)
    old = f"{deployment.name}-before"
    if before is not None:
        engine("stop", deployment.name)
        engine("rename", deployment.name, old)
    try:
        engine("run", "--detach", "--label", f"{_LABEL}={mark}", *arguments)
        _wait(url, timeout, lambda: engine.alive(deployment.name), lambda: engine.log(deployment.name), say)
        answer = ask(url, deployment.name, say)
    except BaseException as error:
        with contextlib.suppress(Error):
            engine("rm", "--force", deployment.name)
        if before is not None:
            engine("rename", old, deployment.name)
            engine("start", deployment.name)
        _note(error, "the old one was started again" if before is not None else "nothing was left behind")
        raise
    if before is not None:
        engine("rm", "--force", old)
    return RolloutResult(name=deployment.name, url=url, answer=answer, changed=True, seconds=_since(started))


@dataclass(frozen=True)
class _Podman:
    """The program, with the variables that it is configured by."""

    options: tuple[str, ...]

    def __call__(self, *arguments: str, check: bool = True, timeout: float = 300) -> Completed:
        """Raises BadInput with podman's own words when it refuses."""
        environment = inherited(*_PODMAN_VARIABLES)
        try:
            return run(["podman", *self.options, *arguments], env=environment, check=check, timeout=timeout)
        except ProcessFailed as error:
            raise BadInput(f"podman {arguments[0]}: {error.output.strip()}") from error

    def container(self, name: str) -> dict[str, Any] | None:
        found = self("container", "inspect", name, check=False)
        return dict(json.loads(found.stdout)[0]) if found.code == 0 else None

    def alive(self, name: str) -> bool:
        found = self.container(name)
        return found is not None and found["State"]["Status"] not in {"exited", "stopped"}

    def log(self, name: str) -> str:
        found = self("logs", "--tail", str(_LAST_LINES), name, check=False)
        return found.stdout + found.stderr


def _note(error: BaseException, word: str) -> None:
    if isinstance(error, Error):
        error.message += f"\nrolled back: {word}"


def deploy_compose(deployment: Deployment, home: Path, say: Callable[[str], None], *, timeout: float) -> RolloutResult:
    """`docker compose up` of the rendered file, which stays at `<home>/deployments/<name>.compose.yaml`."""
    started = time.monotonic()
    file = compose.render(deployment).files[0]
    path = home.resolve() / "deployments" / file.name
    path.parent.mkdir(parents=True, exist_ok=True)
    engine = _Compose((*_compose_program(), "--project-name", deployment.name, "--file", str(path)))
    before = path.read_text() if path.exists() and engine.states() else None
    path.write_text(file.text)
    url = f"http://{_reached(deployment)}:{deployment.port}"
    try:
        engine.up()
        _wait(url, timeout, lambda: "running" in engine.states(), engine.log, say)
        answer = ask(url, deployment.name, say)
    except BaseException as error:
        _note(error, engine.back(path, before))
        raise
    return RolloutResult(
        name=deployment.name, url=url, answer=answer, changed=before != file.text, seconds=_since(started)
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
            self("up", "--detach", "--remove-orphans", timeout=_PULL)
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
        said = self._engine("logs", "--tail", str(_LAST_LINES))
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


def _compose_program() -> list[str]:
    """`docker compose`, or the program that came before it."""
    environment = inherited("DOCKER_")
    for command in (["docker", "compose"], ["docker-compose"]):
        with contextlib.suppress(BadInput):
            if run([*command, "version"], env=environment, check=False).code == 0:
                return command
    raise BadInput(
        "neither `docker compose` nor `docker-compose` is installed", remedy="install one, or use another target"
    )


def _wait(
    url: str, timeout: float, alive: Callable[[], bool], log: Callable[[], str], say: Callable[[str], None]
) -> None:
    """Until /health answers; raises, with the last lines, NotReady when the time is over and BadInput when it has ended."""
    deadline = time.monotonic() + timeout
    say(f"waiting for {health_url(url)}")
    while not is_healthy(url):
        if not alive():
            raise BadInput(f"vLLM ended before it was ready; its last lines:\n{_last(log())}")
        if time.monotonic() > deadline:
            raise NotReady(f"{url} was not ready after {timeout:.0f} s; the last lines:\n{_last(log())}")
        time.sleep(_POLL)


def _last(text: str) -> str:
    return "\n".join(text.splitlines()[-_LAST_LINES:])


def _reached(deployment: Deployment) -> str:
    return "127.0.0.1" if deployment.listen in ("0.0.0.0", "") else deployment.listen  # noqa: S104 -- compared, not bound


def _since(started: float) -> float:
    return round(time.monotonic() - started, 1)
