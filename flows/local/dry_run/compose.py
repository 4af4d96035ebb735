"""The Docker engine and Compose by their commands, and what a dry run finds on them."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Final

import infra
from containers.errors import BadInput, NotReady, Temporary
from containers.labels import LABEL
from containers.process import ProcessFailed, inherited, run
from infra.credentials import LOGIN

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

COMPOSE: Final = Path(infra.__file__).parent / "compose.yaml"
FLOW_RUNS: Final = (
    f"{LABEL}flow-runs"  # labels of containers, with the project's name; those of flows.orchestrator.work_pools and
)
STEPS: Final = f"{LABEL}project"  # infra.container_engine
SERVICES: Final = ("objectstore", "registry", "hub", "prefect", "worker")
_CLIENT: Final = ("DOCKER_", "COMPOSE_")  # what the commands are configured by
_ANSWER: Final = 60.0  # seconds for an engine to answer a question
_UP: Final = 300.0  # seconds to make the containers; their images are there
_LOOK: Final = 1.0


@dataclass(frozen=True)
class Stack:
    """One dry run's services: `variables` are those of infra/compose.yaml, `files` what is laid over it."""

    project: str
    variables: Mapping[str, str]
    files: tuple[Path, ...] = (COMPOSE,)
    services: tuple[str, ...] = field(default=SERVICES)

    @cached_property
    def _compose(self) -> list[str]:
        """Compose v2, a plugin of the client, or v1, a program of its own; raises BadInput without either."""
        for argv in (["docker", "compose"], ["docker-compose"]):
            try:
                run([*argv, "version"], env=inherited(*_CLIENT), timeout=_ANSWER)
            except (ProcessFailed, BadInput):
                continue
            return argv
        raise BadInput(
            "there is no Docker Compose here",
            remedy="install Compose v2 (docker compose) or v1.29 (docker-compose); `make ship` works without Docker",
        )

    def compose(self, *arguments: str, timeout: float = _UP) -> str:
        """Run Compose on these services; raises what it says as Temporary, and BadInput for a port that is taken."""
        argv = [*self._compose, "-p", self.project]
        for file in self.files:
            argv += ["-f", str(file)]
        environment = {**inherited(*_CLIENT), **self.variables, "CARWRIGHT_PROJECT": self.project}
        try:
            return run([*argv, *arguments], env=environment, timeout=timeout).stdout
        except ProcessFailed as error:
            raise _told(error) from error

    def wait(self, say: Callable[[str], None], deadline: float = 420.0, *, but: str = "") -> None:
        """Return when every service, save `but`, is healthy; says which ones are as they become so.

        Raises NotReady with the last words of a service that ended, is ill, or takes longer than `deadline` seconds.
        """
        began, ready = time.monotonic(), set[str]()
        wanted = [service for service in self.services if service != but]
        while ready != set(wanted):
            states = self.states()
            for service in wanted:
                state = states.get(service, "missing")
                if state == "healthy" and service not in ready:
                    ready.add(service)
                    say(f"{service} is ready")
                if state in {"exited", "dead", "unhealthy"}:
                    raise NotReady(f"{service} is {state}:\n{self._words(service)}", remedy=self._advice())
            if time.monotonic() - began > deadline:
                late = ", ".join(sorted(set(wanted) - ready))
                raise NotReady(f"{late}: not ready after {deadline:.0f} seconds", remedy=self._advice())
            time.sleep(_LOOK)

    def states(self) -> dict[str, str]:
        """Service -> its health, or its state where it has no health check (starting, healthy, unhealthy, exited...)."""
        identities = docker("ps", "-aq", "--filter", f"label=com.docker.compose.project={self.project}").split()
        found = {}
        for each in json.loads(docker("inspect", *identities)) if identities else []:
            state = each["State"]
            health = state.get("Health", {}).get("Status") if state["Running"] else None
            found[each["Config"]["Labels"]["com.docker.compose.service"]] = health or state["Status"]
        return found

    def login(self) -> str:
        """The login of the Prefect API, out of its volume; whoever may read it there has the engine anyway."""
        look = f"print(open('/run/login/{LOGIN}').read())"  # the image has no cat
        return self.compose("exec", "-T", "prefect", "python", "-c", look).strip()

    def _words(self, service: str) -> str:
        return self.compose("logs", "--no-color", "--tail", "15", service).strip()

    def _advice(self) -> str:
        return f"{' '.join(self._compose)} -p {self.project} logs SERVICE shows more; `make dry-run-down` starts over"


def docker(*arguments: str, timeout: float = _ANSWER) -> str:
    """Run the client; raises BadInput when there is no client or no engine, Temporary for what else it says."""
    try:
        return run(["docker", *arguments], env=inherited(*_CLIENT), timeout=timeout).stdout
    except ProcessFailed as error:
        raise _told(error) from error
    except BadInput as error:
        raise _no_engine(error.message) from error


def _told(error: ProcessFailed) -> BadInput | Temporary:
    said = error.output.strip()
    if "Cannot connect to the Docker daemon" in said or "permission denied while trying to connect" in said:
        return _no_engine(said.splitlines()[0])
    if "port is already allocated" in said or "address already in use" in said:
        return BadInput(
            f"a port of this machine is taken:\n{_line(said, 'already')}",
            remedy="CARWRIGHT_PORT (4200), CARWRIGHT_REGISTRY_PORT (5000) and CARWRIGHT_STORE_PORT (9000) choose others",
        )
    return Temporary(f"Docker said:\n{said}", remedy="`make dry-run-down` starts over")


def _line(text: str, word: str) -> str:
    return next((line.strip() for line in text.splitlines() if word in line), text)


def _no_engine(said: str) -> BadInput:
    return BadInput(
        f"no Docker engine can be reached: {said}",
        remedy="install docker.io (Debian) or docker-ce and start it, be in its group, or set DOCKER_HOST; "
        "`make ship` runs the chain without Docker",
    )


def labelled(label: str, project: str) -> list[str]:
    """Ids of the containers, running or not, that carry the label with the project's name."""
    return docker("ps", "-aq", "--no-trunc", "--filter", f"label={label}={project}").split()


def socket_group(image: str, socket: str) -> int:
    """The group of the engine's socket on the engine's own machine, which may be another one than this."""
    look = "import os; print(os.stat('/socket').st_gid)"
    return int(
        docker(
            "run", "--rm", "--network=none", "--volume", f"{socket}:/socket", "--entrypoint=python", image, "-c", look
        )
    )


def missing(images: tuple[str, ...]) -> list[str]:
    """Those of the images that the engine does not have."""
    there = set(docker("image", "ls", "--format", "{{.Repository}}:{{.Tag}}").split())
    return [image for image in images if image not in there]
