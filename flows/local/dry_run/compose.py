"""Runs `docker` and Docker Compose for a dry run."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
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
# Labels of containers; their value is the project.
STEPS: Final = f"{LABEL}project"  # as infra.container_engine sets it
SERVICES: Final = ("objectstore", "registry", "hub", "prefect", "worker")
ONCE: Final = ("deployments",)  # ends when its work is done
DONE: Final = "exited with code 0"
_CLIENT: Final = ("DOCKER_", "COMPOSE_")  # prefixes of variables that configure the commands
_COMMAND_TIMEOUT: Final = 60.0  # seconds
_UP_TIMEOUT: Final = 300.0  # seconds to create the containers, with all images loaded
_POLL: Final = 1.0  # seconds between two checks


@dataclass(frozen=True)
class Stack:
    """The services of one dry run. `variables` are those of infra/compose.yaml; `files` are the Compose files."""

    project: str
    variables: Mapping[str, str]
    files: tuple[Path, ...] = (COMPOSE,)
    services: tuple[str, ...] = SERVICES
    once: tuple[str, ...] = ONCE

    @cached_property
    def _compose(self) -> list[str]:
        """The command of Compose v2 (a plugin) or v1 (a program); raises BadInput if neither is installed."""
        for argv in (["docker", "compose"], ["docker-compose"]):
            try:
                run([*argv, "version"], env=inherited(*_CLIENT), timeout=_COMMAND_TIMEOUT)
            except (ProcessFailed, BadInput):
                continue
            return argv
        raise BadInput(
            "Docker Compose is not installed",
            remedy="install Compose v2 (docker compose) or v1.29 (docker-compose); `make ship` works without Docker",
        )

    def compose(self, *arguments: str, timeout: float = _UP_TIMEOUT, stdin: str | None = None) -> str:
        """Run Compose on these services; returns its output. Raises BadInput if a port is in use, else Temporary."""
        argv = [*self._compose, "-p", self.project]
        for file in self.files:
            argv += ["-f", str(file)]
        environment = {**inherited(*_CLIENT), **self.variables, "CARWRIGHT_PROJECT": self.project}
        try:
            return run([*argv, *arguments], env=environment, timeout=timeout, stdin=stdin).stdout
        except ProcessFailed as error:
            raise _as_error(error) from error

    def wait(self, say: Callable[[str], None], deadline: float = 420.0) -> None:
        """Wait until every service is healthy, and those that run once have done so; reports each with `say`.

        Raises NotReady if a service ends or is unhealthy, with the end of its log, or after `deadline` seconds.
        """
        began, ready = time.monotonic(), set[str]()
        wanted = {**dict.fromkeys(self.services, "healthy"), **dict.fromkeys(self.once, DONE)}
        while ready != wanted.keys():
            states = self.states()
            for service, ending in wanted.items():
                state = states.get(service, "missing")
                if state == ending and service not in ready:
                    ready.add(service)
                    say(f"{service} is {'done' if ending == DONE else 'ready'}")
                elif state in {DONE, "exited", "dead", "unhealthy"} and state != ending:
                    raise NotReady(f"{service} is {state}:\n{self._log_end(service)}", remedy=self._remedy())
            if time.monotonic() - began > deadline:
                late = ", ".join(sorted(wanted.keys() - ready))
                raise NotReady(f"{late}: not ready after {deadline:.0f} seconds", remedy=self._remedy())
            time.sleep(_POLL)

    def states(self) -> dict[str, str]:
        """Service -> health, or state if it has no health check (starting, healthy, exited...); DONE for an exit with code 0."""
        identities = docker("ps", "-aq", "--filter", f"label=com.docker.compose.project={self.project}").split()
        found = {}
        for each in json.loads(docker("inspect", *identities)) if identities else []:
            state = each["State"]
            health = state.get("Health", {}).get("Status") if state["Running"] else None
            done = state["Status"] == "exited" and state["ExitCode"] == 0
            found[each["Config"]["Labels"]["com.docker.compose.service"]] = health or (
                DONE if done else state["Status"]
            )
        return found

    def login(self) -> str:
        """The login of the Prefect API, read from its volume. Access to the container engine is enough to read it."""
        script = f"print(open('/run/login/{LOGIN}').read())"  # the image has no cat
        return self.compose("exec", "-T", "prefect", "python", "-c", script).strip()

    def _log_end(self, service: str) -> str:
        return self.compose("logs", "--no-color", "--tail", "15", service).strip()

    def _remedy(self) -> str:
        return f"`{' '.join(self._compose)} -p {self.project} logs SERVICE` shows more; `make dry-run-down` removes everything"


def docker(*arguments: str, timeout: float = _COMMAND_TIMEOUT) -> str:
    """Run `docker`; returns its output. Raises BadInput if it is not installed or no engine answers, else Temporary."""
    try:
        return run(["docker", *arguments], env=inherited(*_CLIENT), timeout=timeout).stdout
    except ProcessFailed as error:
        raise _as_error(error) from error
    except BadInput as error:
        raise _engine_unreachable(error.message) from error


def _as_error(error: ProcessFailed) -> BadInput | Temporary:
    output = error.output.strip()
    if "Cannot connect to the Docker daemon" in output or "permission denied while trying to connect" in output:
        return _engine_unreachable(output.splitlines()[0])
    if "port is already allocated" in output or "address already in use" in output:
        return BadInput(
            f"a port is already in use:\n{_line(output, 'already')}",
            remedy="CARWRIGHT_PORT (4200), CARWRIGHT_REGISTRY_PORT (5000) and CARWRIGHT_STORE_PORT (9000) set other ports",
            doctor="ports",
        )
    return Temporary(f"Docker output:\n{output}", remedy="`make dry-run-down` removes everything")


def _line(text: str, word: str) -> str:
    return next((line.strip() for line in text.splitlines() if word in line), text)


def _engine_unreachable(output: str) -> BadInput:
    return BadInput(
        f"no Docker engine can be reached: {output}",
        remedy="install docker.io (Debian) or docker-ce, start it and join its group, or set DOCKER_HOST; "
        "`make ship` runs the chain without Docker",
        doctor="engine",
    )


def labelled(label: str, project: str) -> list[str]:
    """Ids of all containers, running or not, that have this label with the project as its value."""
    return docker("ps", "-aq", "--no-trunc", "--filter", f"label={label}={project}").split()


def missing(images: tuple[str, ...]) -> list[str]:
    """The images that the container engine does not have."""
    present = set(docker("image", "ls", "--format", "{{.Repository}}:{{.Tag}}").split())
    return [image for image in images if image not in present]
