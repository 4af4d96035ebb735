"""Looks at every container that a Docker engine starts, as `docker inspect` and `docker logs` show it to its users."""

from __future__ import annotations

import contextlib
import json
import threading
from dataclasses import dataclass, field
from typing import Any, Self

import docker
from docker.errors import DockerException


@dataclass
class ContainerWatch:
    """What was seen between the start and the end of the block, by name of the container."""

    about: dict[str, dict[str, Any]] = field(default_factory=dict)
    logs: dict[str, bytes] = field(default_factory=dict)
    _threads: list[threading.Thread] = field(default_factory=list)

    def __enter__(self) -> Self:
        self._api = docker.APIClient(version="auto", timeout=60)
        self._events = self._api.events(decode=True, filters={"type": "container", "event": ["create", "start"]})
        self._follow(self._look)
        return self

    def __exit__(self, *_: object) -> None:
        self._events.close()
        for one in self._threads:
            one.join(30)
        self._api.close()

    def of(self, project: str) -> dict[str, dict[str, Any]]:
        """Those of one project: its flow runs and steps."""
        labels = ("dev.carwright.flow-runs", "dev.carwright.project")
        return {
            name: one
            for name, one in self.about.items()
            if project in [one["Config"]["Labels"].get(label) for label in labels]
        }

    def text(self, project: str) -> dict[str, bytes]:
        """All of it as bytes, by what shows it."""
        seen = self.of(project)
        told = {f"docker inspect {name}": json.dumps(one).encode() for name, one in seen.items()}
        return told | {f"docker logs {name}": content for name, content in self.logs.items() if name in seen}

    def _follow(self, work: Any, *arguments: object) -> None:
        thread = threading.Thread(target=work, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _look(self) -> None:
        with contextlib.suppress(DockerException, OSError, ValueError, AttributeError):  # closed at the end
            for event in self._events:
                with contextlib.suppress(DockerException):  # gone already
                    one = self._api.inspect_container(event["id"])
                    name = one["Name"].lstrip("/")
                    self.about[name] = one
                    if event["Action"] == "start":
                        self._follow(self._read, event["id"], name)

    def _read(self, identity: str, name: str) -> None:
        with contextlib.suppress(DockerException, OSError):
            self.logs[name] = b""
            for line in self._api.logs(identity, stream=True, follow=True):
                self.logs[name] += line
