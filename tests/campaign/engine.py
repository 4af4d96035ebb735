"""Ships whose steps are containers of a real engine, reached through a proxy in front of its socket.

Containers are killed past the proxy; calls of the socket fail in it. Every case is a project of its own on the engine, by whose
label its containers are found.
"""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self
from urllib.parse import urlsplit

import docker
from docker.errors import APIError, DockerException

from flows.local.dry_run.site import Site
from tests.campaign.disturbance import Disturbance, Watch
from tests.support.docker_world import left
from tests.support.socket_proxy import SocketProxy

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.campaign.cases import Case

_LABEL: Final = "dev.carwright."
_SOCKET: Final = "/var/run/docker.sock"
IMAGES: Final = ("download", "quantize", "push", "evaluate", "serve-cpu")
_GRACE: Final = 5.0  # seconds for an engine to be done with what it was told to remove


@dataclass
class Seen:
    """A container: its step, or its part beside a server; when it started and ended, by this machine's clock."""

    id: str
    label: str
    started: float
    ended: float = 0.0
    volumes: tuple[str, ...] = ()


@dataclass
class Engine:
    """The engine behind a proxy, and what was seen on it of one project."""

    proxy: SocketProxy
    _ours: str = ""
    seen: list[Seen] = field(default_factory=list)
    images: set[str] = field(default_factory=set)
    _events: Any = None
    _thread: threading.Thread | None = None
    _killer: Any = None

    @classmethod
    def behind(cls, folder: Path) -> Self:
        """The one that DOCKER_HOST names, if that is a socket; else the local one."""
        given = urlsplit(os.environ.get("DOCKER_HOST", ""))
        return cls(SocketProxy(folder / "engine.sock", Path(given.path if given.scheme == "unix" else _SOCKET)))

    def client(self) -> Any:
        """Past the proxy."""
        return docker.APIClient(base_url=f"unix://{self.proxy.engine}", version="auto", timeout=60)

    def missing(self) -> str:
        """Why no ship can run its steps here; empty when it can."""
        site = Site.read()
        try:
            with closing(self.client()) as api:
                there = {tag for image in api.images() for tag in image.get("RepoTags") or ()}
        except (DockerException, OSError):
            return f"no container engine answers at {self.proxy.engine}"
        absent = [site.image(name) for name in IMAGES if site.image(name) not in there]
        return f"the engine has no {', '.join(absent)}" if absent else ""

    def environment(self, name: str) -> dict[str, str]:
        """What makes a command run its steps here, as the project of a case."""
        site = Site.read()
        return {
            "DOCKER_HOST": self.proxy.url,
            "CARWRIGHT_LAUNCHER": "docker",
            "CARWRIGHT_DOCKER__IMAGE": f"{site.images_}/{{target}}:{site.tag}",
            "CARWRIGHT_DOCKER__PROJECT": self.project(name),
        }

    @staticmethod
    def project(name: str) -> str:
        return f"camp-{os.getpid()}-{name}"  # 31 characters at most

    def follow(self, name: str) -> None:
        """From now on note the containers of this case; forget those of the last one."""
        self.stop()
        self.seen, self._ours = [], self.project(name)
        api, self._killer = self.client(), self.client()  # made now: a container may not live for as long as that takes
        wanted = {"type": "container", "label": f"{_LABEL}project={self._ours}", "event": ["start", "die"]}
        self._events = api.events(decode=True, filters=wanted)
        self._thread = threading.Thread(target=self._look, args=(api, self._events), daemon=True)
        self._thread.start()

    def stop(self) -> None:
        if self._events is not None and self._thread is not None:
            self._events.close()
            self._thread.join(10)
            self._killer.close()
            self._events = None

    def _look(self, api: Any, events: Iterator[dict[str, Any]]) -> None:
        with closing(api), suppress(DockerException, OSError, ValueError, AttributeError):  # closed at the end
            for event in events:
                now = time.monotonic()
                if event["Action"] == "die":
                    for one in self.seen:
                        one.ended = now if one.id == event["id"] else one.ended
                    continue
                labels = event["Actor"]["Attributes"]
                one = Seen(event["id"], labels.get(f"{_LABEL}part") or labels[f"{_LABEL}step"], now)
                self.seen.append(one)
                with suppress(APIError):  # gone already
                    about = api.inspect_container(event["id"])
                    one.volumes = tuple(mount["Name"] for mount in about["Mounts"] if mount["Type"] == "volume")
                    if one.label == "modelcar":
                        self.images.add(about["Config"]["Image"])

    def of(self, label: str) -> list[Seen]:
        return [one for one in self.seen if one.label == label]

    def left(self, seconds: float = _GRACE) -> list[str]:
        """Containers of the case, and the volumes that its containers had."""
        deadline = time.monotonic() + seconds
        with closing(self.client()) as api:
            while (found := self._left(api)) and time.monotonic() < deadline:
                time.sleep(0.2)
        return found

    def _left(self, api: Any) -> list[str]:
        volumes = {one["Name"] for one in api.volumes()["Volumes"] or ()}
        networks = [one["Name"] for one in api.networks() if self._ours in one["Name"]]
        return [
            *(f"container {name}" for name in left(api, self._ours)),
            *(f"volume {name} of {one.label}" for one in self.seen for name in one.volumes if name in volumes),
            *(f"network {name}" for name in networks),
        ]

    def clear(self) -> None:
        """Remove what a case that failed left there, and the modelcars that the engine pulled."""
        self.stop()
        with closing(self.client()) as api:
            for name in left(api, self._ours):
                with suppress(APIError):
                    api.remove_container(name, v=True, force=True)
            for image in self.images:
                with suppress(APIError):
                    api.remove_image(image, force=True)
        self.images = set()

    def kill(self, container: str) -> bool:
        """Whether it was alive."""
        try:
            self._killer.kill(container, "SIGKILL")
        except APIError:
            return False
        return True


@dataclass
class ContainerWatch(Watch):
    """Looks at a ship in containers that nobody disturbs; a step's name has its number: `evaluate 2`."""

    engine: Engine | None = None

    def __call__(self, root: int, elapsed: float) -> bool:
        if self.engine is not None:
            start = time.monotonic() - elapsed
            counts: dict[str, int] = {}
            for one in list(self.engine.seen):
                number = counts[one.label] = counts.get(one.label, 0) + 1
                self.seen[f"{one.label} {number}"] = (one.started - start, (one.ended or time.monotonic()) - start)
        return False

    def seconds(self) -> dict[str, float]:
        return {name: round(ended - began, 2) for name, (began, ended) in self.seen.items()}


@dataclass
class EngineDisturbance(Disturbance):
    """The kill of one container, or of the command that waits for it; a fault of the socket waits in its proxy."""

    _passed: int = 0

    def _kill(self, root: int, elapsed: float) -> bool:
        if self.case.victim == "flow":
            return self._kill_command(root, elapsed)
        usual = self.usual.steps
        label = random.Random(self.case.name).choice(sorted(one for one in usual if one.split()[0] == self.case.victim))
        found = self.world.engine.of(self.case.victim)
        number = int(label.rpartition(" ")[2]) + self._passed
        if len(found) < number:
            return False
        target = found[number - 1]
        lived = (target.ended or time.monotonic()) - target.started
        if not target.ended and lived < self.case.when * 0.9 * usual[label]:
            return False
        if not target.ended and self.world.engine.kill(target.id):
            self.done = f"{label}, {lived:.2f} s after its start"
            return True
        usual[label] = min(usual[label], lived)  # it ended sooner than usual: take the next one
        self._passed += 1
        return False

    def _kill_command(self, root: int, elapsed: float) -> bool:
        """While containers run: what was there at its end is for the next one to remove."""
        if elapsed < self.usual.first + self.case.when * self.usual.span:
            return False
        with suppress(ProcessLookupError):
            os.kill(root, signal.SIGKILL)
            alive = [one.label for one in self.world.engine.seen if not one.ended]
            self.done = f"{elapsed:.1f} s after the start; containers: {', '.join(alive) or 'none'}"
        return True


def disturbance(case: Case, *given: Any) -> Disturbance:
    return (EngineDisturbance if case.in_containers else Disturbance)(case, *given)
