"""A connection to the container engine: its images and its containers."""

from __future__ import annotations

import contextlib
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from docker.errors import DockerException, NotFound
from docker.types import DeviceRequest, Mount

from containers.errors import BadInput, Error, Temporary
from containers.events import Event
from containers.labels import LABEL
from containers.process import inherited
from infra.container_engine.container import Container, now, remove
from infra.container_engine.failures import refusal, translated_errors
from infra.container_engine.session import EngineApi, was_reached
from infra.hardening import DROPPED, NO_NEW_PRIVILEGES, PIDS, USER

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from containers.events import OnEvent
    from infra.settings import DockerSettings

_TIMEOUT: Final = 60  # seconds for one answer of the engine; streams wait for as long as it takes
_DOCS: Final = (
    "docs/how-to/run-steps-in-containers.md describes the setup of a container engine; "
    "CARWRIGHT_LAUNCHER=process works without one"
)


@dataclass(frozen=True)
class Spec:
    """A container to be made. `memory` is in bytes, `gpus` -1 means all; `volumes` are anonymous and go with it.

    `entrypoint` replaces the image's own, `command` is what follows.

    `readable` are folders of the engine's machine, mounted where they are; `volumes_by_name` are volumes of the engine, to
    where they are mounted, for reading; `publish` maps a port of the container to
    the engine's machine, at `publish_at`; 0 for any.
    """

    name: str
    image: str
    command: tuple[str, ...]
    labels: Mapping[str, str]
    entrypoint: str | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    network: str = ""
    extra_hosts: Mapping[str, str] = field(default_factory=dict)
    volumes: tuple[str, ...] = ()
    volumes_from: tuple[str, ...] = ()
    readable: tuple[str, ...] = ()
    volumes_by_name: Mapping[str, str] = field(default_factory=dict)
    image_mount: tuple[str, str] | None = None
    pid_of: str = ""
    publish: Mapping[int, int] = field(default_factory=dict)
    publish_at: str = "127.0.0.1"
    security: tuple[str, ...] = ()
    pids: int = PIDS
    memory: int | None = None
    cpus: float | None = None
    gpus: int = 0
    gpu_kind: str = "nvidia"
    shm: int | None = None


@dataclass(frozen=True)
class ContainerEngine:
    """A connection. Not for two threads at once: each makes its own."""

    api: Any
    project: str

    @property
    def version(self) -> tuple[int, ...]:
        """Of the API: (1, 41)."""
        return tuple(int(part) for part in str(self.api.api_version).split("."))

    def now(self) -> float:
        """The engine's clock, in seconds since the epoch."""
        return now(self.api)

    def has_image(self, name: str) -> bool:
        with translated_errors(f"look for the image {name}"):
            try:
                self.api.inspect_image(name)
            except NotFound:
                return False
            return True

    def pull(self, name: str, login: dict[str, str] | None, on_event: OnEvent) -> None:
        """Raises BadInput when the registry has no such image or refuses, Temporary when it cannot be reached."""
        parts: dict[str, tuple[int, int]] = {}
        repository, separator, digest = name.partition("@")
        tag: str | None = digest
        if not separator:
            repository, _, tag = name.rpartition(":") if ":" in name.rpartition("/")[2] else (name, "", "latest")
        with translated_errors(f"pull {name}"):
            for told in self.api.pull(repository, tag=tag, stream=True, decode=True, auth_config=login):
                if "error" in told:
                    raise refusal(str(told["error"]), f"pull {name}")
                detail = told.get("progressDetail") or {}
                if detail.get("total"):
                    parts[told.get("id", "")] = (detail.get("current", 0), detail["total"])
                    done, total = (sum(part[place] for part in parts.values()) for place in (0, 1))
                    on_event(Event(event="progress", task=f"pulling {name}", done=done, total=total, unit="B"))
        if not self.has_image(name):
            raise Temporary(
                f"the container engine did not finish pulling {name}", remedy="run the command again: it continues"
            )

    def create(self, spec: Spec) -> Container:
        """Make a container, not yet started; on any failure there is none."""
        host: dict[str, Any] = {
            "binds": None,
            "cap_drop": list(DROPPED),
            "extra_hosts": dict(spec.extra_hosts) or None,
            "mem_limit": spec.memory,
            "memswap_limit": spec.memory,
            "mounts": [
                *(Mount(folder, folder, type="bind", read_only=True) for folder in spec.readable),
                *(Mount(at, name, type="volume", read_only=True) for name, at in spec.volumes_by_name.items()),
            ]
            or None,
            "nano_cpus": int(spec.cpus * 1e9) if spec.cpus else None,
            "network_mode": spec.network or None,
            "pids_limit": spec.pids,
            "pid_mode": f"container:{spec.pid_of}" if spec.pid_of else None,
            "port_bindings": {port: (spec.publish_at, at or None) for port, at in spec.publish.items()} or None,
            "read_only": True,
            "security_opt": [NO_NEW_PRIVILEGES, *self._security(spec)],
            "shm_size": spec.shm,
            "tmpfs": {"/tmp": "mode=1777"},  # noqa: S108 - the container's own
            "volumes_from": list(spec.volumes_from) or None,
            **_devices(spec),
        }
        with translated_errors(f"make a container of {spec.image}"):
            try:
                host_config = self.api.create_host_config(**host)
                if spec.image_mount:
                    source, target = spec.image_mount
                    image = {"Type": "image", "Source": source, "Target": target, "ReadOnly": True}
                    host_config["Mounts"] = [*(host_config.get("Mounts") or []), image]
                made = self.api.create_container(
                    spec.image,
                    command=list(spec.command),
                    entrypoint=[spec.entrypoint] if spec.entrypoint else None,
                    environment=dict(spec.environment),
                    healthcheck={"test": ["NONE"]},  # an image's own would cost processor time and nobody asks it
                    host_config=host_config,
                    labels={LABEL + "project": self.project, **{LABEL + key: at for key, at in spec.labels.items()}},
                    name=spec.name,
                    ports=list(spec.publish) or None,
                    use_config_proxy=True,
                    user=f"{USER}:0",
                    volumes=list(spec.volumes),
                )
            except BaseException:
                with contextlib.suppress(Error):  # the first one counts
                    self.remove(spec.name)
                raise
        return Container(self.api, str(made["Id"]), spec.name, dict(spec.labels))

    def _security(self, spec: Spec) -> list[str]:
        """What the spec asks for, on podman without its seccomp profile.

        podman takes a profile as a file of its own machine only; its default one (containers-common, seccomp.json) allows the
        calls that Docker's does not and that a spec has a profile for.
        """
        own = [option for option in spec.security if not option.startswith("seccomp=")]
        if len(own) == len(spec.security):
            return own
        parts = self.api.version().get("Components") or []
        return own if any(part.get("Name") == "Podman Engine" for part in parts) else list(spec.security)

    def containers(self, **labels: str) -> list[Container]:
        """Those of this project that carry the labels, stopped ones included; the newest first."""
        wanted = {"project": self.project, **labels}
        with translated_errors("list containers"):
            found = self.api.containers(all=True, filters={"label": [f"{LABEL}{key}={wanted[key]}" for key in wanted]})
        return [
            Container(
                self.api,
                str(one["Id"]),
                str((one.get("Names") or ["/"])[0]).removeprefix("/"),
                {key.removeprefix(LABEL): value for key, value in one["Labels"].items() if key.startswith(LABEL)},
                float(one["Created"]),
            )
            for one in found
        ]

    def end(self, name: str, grace: int = 10) -> None:
        """SIGTERM, `grace` seconds, SIGKILL; then remove it with its volumes. Nothing happens where there is none."""
        with contextlib.suppress(Error), translated_errors(f"stop {name}"):  # removing ends what still runs
            self.api.stop(name, timeout=grace)
        self.remove(name)

    def remove(self, name: str) -> None:
        """Remove a container and its anonymous volumes, running or not; nothing happens where there is none."""
        remove(self.api, name)


@contextmanager
def connect(settings: DockerSettings) -> Iterator[ContainerEngine]:
    """Connect to the container engine; raises BadInput if there is none or access is denied, Temporary if it does not answer."""
    environment = inherited("DOCKER_") | ({"DOCKER_HOST": settings.host} if settings.host else {})
    where = environment.get("DOCKER_HOST") or "the local socket"
    try:
        api = EngineApi(where, environment, _TIMEOUT)
    except (DockerException, OSError, ValueError) as error:
        text = str(error)
        if "PermissionError" in text:
            raise BadInput(
                f"this user may not use the container engine at {where}",
                remedy="join the group of its socket, or use a rootless engine (CARWRIGHT_DOCKER__HOST)",
                doctor="engine",
            ) from error
        away = "FileNotFoundError" in text and not was_reached(where)
        if away or not isinstance(error, DockerException):
            raise BadInput(f"there is no container engine at {where}", remedy=_DOCS, doctor="engine") from error
        raise Temporary(
            f"the container engine at {where} does not answer: {text}", remedy=_DOCS, doctor="engine"
        ) from error
    try:
        yield ContainerEngine(api, settings.project)
    finally:
        api.close()


def _devices(spec: Spec) -> dict[str, Any]:
    if not spec.gpus:
        return {}
    if spec.gpu_kind == "rocm":
        return {"devices": ["/dev/kfd", "/dev/dri"], "group_add": ["video"]}
    return {"device_requests": [DeviceRequest(count=spec.gpus, capabilities=[["gpu"]])]}
