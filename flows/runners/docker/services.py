"""Services as containers: vLLM from the serve image, over a checkpoint of the store or a modelcar beside it.

A modelcar is served as KServe does it (kserve, pkg/utils/storage.go): a container of the modelcar links its own
/proc/<pid>/root/models to /mnt/models, in a volume of both, and sleeps; vLLM's container is in its process namespace and
reads the weights through that link. Nothing is copied. The kernel lets it look there because both are of one user.

The server has no secret: what a checkpoint of the store is fetched with is in a container of its own, which writes to the
server's volume and is gone before the server starts.

A server ends by itself when nobody renews its lease, which is the time of a folder in its volume.
"""

from __future__ import annotations

import contextlib
import secrets
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from containers import private
from containers.contract import Step, StepRequest
from containers.errors import BadInput, Error, Temporary
from containers.events import Event
from containers.fingerprints import fingerprint_inputs
from containers.heartbeat import LEASE_INTERVAL, LEASE_KEPT, LEASE_SECONDS, Renewal
from containers.oci.answers import UnknownHost
from containers.oci.mounted import check_mounted
from containers.oci.reference import Reference
from containers.parameters import Endpoint, ServeOptions, ServeParameters
from containers.ports import LOOPBACK
from flows.runners.docker.container_spec import VOLUME, labels, payload, refuse_folders, step_spec
from flows.runners.docker.launcher import Follower, ended_badly, engine_login, ensure_image, image_of
from flows.runners.process.launcher import run_folder
from flows.runners.service import has_policy, stage
from flows.runners.step_container import SECRETS, WORK
from flows.runners.step_protocol import LOG, RESULT, StepOutput, read_result
from infra.container_engine import Spec, connect
from infra.container_engine.ownership import LEASE, is_alive, is_kept
from infra.hardening import PIDS_OF_A_MODELCAR

if TYPE_CHECKING:
    from pathlib import Path

    from containers.events import OnEvent
    from infra.container_engine import Container, ContainerEngine
    from infra.settings import Settings

_PORT: Final = 8000  # of vLLM, where its container has a network address of its own
_SHARED: Final = 8 << 30  # bytes, at most, for what vLLM's processes share in memory
_MODELS: Final = "/mnt/models"
_MOUNTED: Final = "/modelcar"
_CHECK: Final = ("sh", "-c", '[ -d /models ] && [ "$(ls -A /models)" ]')  # as KServe's init container
_LINK: Final = ("sh", "-c", f"ln -sf /proc/$$/root/models {_MODELS} && sleep infinity")  # as its sidecar
_GRACE: Final = 15  # seconds for vLLM to end
_NAMELESS: Final = ("", "bridge", "default", "none")


@dataclass
class DockerLease:
    """One server and the renewal of its lease. One that was kept before has none, and is left as it was found."""

    endpoint: Endpoint
    found: bool
    _settings: Settings
    _container: Container
    _renewal: Renewal | None = None
    _spec: Spec | None = None
    _follower: Follower | None = None

    @property
    def container(self) -> Container:
        """The server's."""
        return self._container

    @property
    def serves(self) -> bool:
        try:
            with connect(self._settings.docker) as engine:
                return any(one.id == self._container.id and one.state().running for one in _servers(engine))
        except Temporary:
            return True  # an engine that is away for a moment says nothing about the server

    def why_ended(self) -> Error | None:
        if self._spec is None or self._follower is None:
            return None
        with connect(self._settings.docker) as engine:
            state = replace(self._container, api=engine.api).state()
        if state.running:
            return None
        return ended_badly(Step.SERVE, state, self._spec, self._follower.output, f"its log is {self._follower.log}")

    def end(self) -> None:
        if self._renewal is not None:
            self._renewal.stop()
            with connect(self._settings.docker) as engine:
                _end(engine, self._container.name)

    def keep(self) -> None:
        if self._renewal is not None:
            self._renewal.stop(None)  # one that came later would take back what follows
        with connect(self._settings.docker) as engine:
            replace(self._container, api=engine.api).touch(LEASE, LEASE_KEPT)
        mark = kept_mark(self._settings)
        private.folder(self._settings.home.resolve(), "services")
        mark.touch(mode=0o600)
        self._renewal = None


@dataclass(frozen=True)
class DockerServices:
    """Reconciles what the project serves on one engine."""

    settings: Settings

    def start(self, request: StepRequest, on_event: OnEvent, *, keep: bool = False) -> DockerLease:
        """See Services. What another run serves for itself is left to it; what was kept is found by every run."""
        refuse_folders(request)
        key = request.fingerprint(fingerprint_inputs(request.step))[:12]
        with connect(self.settings.docker) as engine:
            found = self._find(engine, key)
            if found is not None:
                if has_policy(request):
                    self._compare(engine, request, found.container, on_event)
                return found
            server = f"{self.settings.docker.project}-serve-{key}-{secrets.token_hex(2)}"
            try:
                return self._start(engine, request, on_event, server, key)
            except BaseException:
                with contextlib.suppress(Error):  # the first error counts; what stays is for the sweeper
                    _end(engine, server)
                raise

    def stop_all(self, *, kept: bool = False) -> list[str]:
        """Of the project, on this engine; see Services."""
        stopped = []
        with connect(self.settings.docker) as engine:
            for container in _servers(engine):
                if not (kept if is_kept(container) else is_alive(container.labels.get("owner", "")) is False):
                    continue
                endpoint = self._endpoint(container)
                stopped.append((endpoint.published or endpoint.url) if endpoint else container.name)
                _end(engine, container.name)
        if kept:
            kept_mark(self.settings).unlink(missing_ok=True)
        return stopped

    def _find(self, engine: ContainerEngine, key: str) -> DockerLease | None:
        for container in _servers(engine, service=key):
            endpoint = self._endpoint(container) if is_kept(container) else None
            if endpoint is not None:
                return DockerLease(endpoint, found=True, _settings=self.settings, _container=container)
        return None

    def _start(
        self, engine: ContainerEngine, request: StepRequest, on_event: OnEvent, server: str, key: str
    ) -> DockerLease:
        folder, host = run_folder(self.settings, request), ServeOptions.read(request.options).host
        image = image_of(self.settings, request.step)
        ensure_image(engine, image, self.settings, on_event)
        asked = stage(request.model_copy(update={"options": self._options(request, server).dump()}), "serve")
        spec = replace(
            self._network(step_spec(self.settings, asked, image, server), request),
            labels={**labels(request), "service": key, "server": server, "part": "server", "host": host},
            shm=_SHARED,
        )
        reference = ServeParameters.read(request.parameters).reference
        if reference:
            spec = self._beside_modelcar(engine, request, spec, self._pulled(engine, reference, on_event))
            models = {"folder": f"{_MOUNTED}/models" if spec.image_mount else _MODELS}
            asked = asked.model_copy(update={"options": asked.options | models})
        container = engine.create(spec)
        if not reference:
            self._fetch(engine, request, container, folder / LOG, on_event)
        container.put(VOLUME, payload(self.settings, asked) | {"carwright/lease": None}, mtime=engine.now())
        follower = Follower(container, StepOutput(on_event), folder / LOG)
        container.start()
        renewal = self._renewal(container).start()
        try:
            self._wait(container, follower, request, spec, folder)
            follower.mute()
            endpoint = self._endpoint(container)
            assert endpoint is not None  # _wait has seen the result
        except BaseException:
            renewal.stop()
            raise
        return DockerLease(
            endpoint,
            found=False,
            _settings=self.settings,
            _container=container,
            _renewal=renewal,
            _spec=spec,
            _follower=follower,
        )

    def _fetch(
        self, engine: ContainerEngine, request: StepRequest, server: Container, log: Path, on_event: OnEvent
    ) -> None:
        """Have the model in the server's volume, by a container that takes its secrets along when it goes."""
        asked = stage(request, "fetch")
        spec = step_spec(self.settings, asked, image_of(self.settings, request.step), f"{server.name}-fetch")
        spec = replace(
            spec,
            command=(*spec.command[:-1], f"{WORK}/fetched.json"),  # not the result that the server is waited for by
            labels={**labels(request), "server": server.name, "part": "fetch"},
            volumes=(SECRETS,),
            volumes_from=(server.id,),
            gpus=0,
        )
        self._to_its_end(engine, asked, spec, log, on_event)

    def _compare(self, engine: ContainerEngine, request: StepRequest, server: Container, on_event: OnEvent) -> None:
        """Look at the files that a running server reads, by a container beside it; raises StepFailed with the code of
        NotTrusted where they are not what was signed.
        """
        asked = stage(request, "compare")
        name = f"{server.name}-compare-{secrets.token_hex(2)}"  # two runs may find one server, and one may have been killed
        spec = step_spec(self.settings, asked, image_of(self.settings, request.step), name)
        spec = replace(
            spec, labels={**labels(request), "server": server.name, "part": "compare"}, network="none", gpus=0
        )
        modelcar = next(iter(engine.containers(server=server.name, part="modelcar")), None)
        if modelcar is not None:
            spec, folder = replace(spec, pid_of=modelcar.id, volumes_from=(modelcar.id,)), _MODELS
        else:
            reference = ServeParameters.read(request.parameters).reference
            image = self._pulled(engine, reference, on_event)
            spec, folder = replace(spec, image_mount=(image, _MOUNTED)), f"{_MOUNTED}/models"
        asked = asked.model_copy(update={"options": asked.options | {"folder": folder}})
        self._to_its_end(engine, asked, spec, run_folder(self.settings, request) / LOG, on_event)

    def _to_its_end(
        self, engine: ContainerEngine, asked: StepRequest, spec: Spec, log: Path, on_event: OnEvent
    ) -> None:
        """A container beside a server that does its work and goes."""
        container = engine.create(spec)
        try:
            container.put(VOLUME, payload(self.settings, asked))
            follower = Follower(container, StepOutput(on_event), log)
            container.start()
            state = follower.wait()
        except BaseException:
            with contextlib.suppress(Error):  # the first error counts
                engine.remove(spec.name)
            raise
        engine.remove(spec.name)
        if state.code != 0:
            raise ended_badly(asked.step, state, spec, follower.output, f"its log is {log}")

    def _renewal(self, container: Container) -> Renewal:
        """Of its lease, through a connection of its own."""

        def renew() -> None:
            with connect(self.settings.docker) as engine:
                replace(container, api=engine.api).touch(LEASE)

        return Renewal(renew, LEASE_INTERVAL, f"lease-{container.name}")

    def _options(self, request: StepRequest, server: str) -> ServeOptions:
        options = ServeOptions.read(request.options).model_copy(
            update={"lease": LEASE, "lease_seconds": LEASE_SECONDS, "log_file": f"{WORK}/engine.log"}
        )
        if self.settings.docker.network == "host":
            return options
        return options.model_copy(
            update={"host": "0.0.0.0", "port": _PORT, "advertise": f"http://{server}:{_PORT}/v1"}  # noqa: S104 - the container's
        )

    def _network(self, spec: Spec, request: StepRequest) -> Spec:
        network = self.settings.docker.network
        if network in _NAMELESS:
            raise BadInput(
                f"on the network {network or 'bridge'!r} containers do not find each other by name",
                remedy="make one (`docker network create NAME`) and set CARWRIGHT_DOCKER__NETWORK, or use host",
            )
        if network == "host":
            return spec
        options = ServeOptions.read(request.options)
        return replace(spec, publish={_PORT: options.port}, publish_at=options.host)

    def _pulled(self, engine: ContainerEngine, reference: str, on_event: OnEvent) -> str:
        """Have the engine hold the modelcar, once its layers were looked at; its name there.

        They are looked at under the name that this process reaches, the steps' or the engine's: in a container on the engine's
        network the engine's 127.0.0.1 is nobody. One that the engine holds already, or whose registry only the engine reaches,
        is looked at by the server alone.
        """
        where = Reference.parse(reference)
        registry = self.settings.docker.registry_aliases.get(where.registry, where.registry)
        name = f"{registry}/{where.repository}@{where.digest}"
        if not engine.has_image(name):
            try:
                self._look_at(f"{where.registry}/{where.repository}@{where.digest}", name)
            except (Temporary, UnknownHost) as error:
                on_event(Event(event="log", message=f"the layers of {name} were not looked at: {error.message}"))
            engine.pull(name, engine_login(where, self.settings), on_event)
        return name

    def _look_at(self, name: str, other: str) -> None:
        """Check the modelcar under the first of its names that answers; raises what check_mounted raises of the last."""
        if name != other:
            once = self.settings.registry.model_copy(update={"attempts": 1})
            with contextlib.suppress(Temporary, UnknownHost):
                check_mounted(name, self.settings.model_copy(update={"registry": once}))
                return
        check_mounted(other, self.settings)

    def _beside_modelcar(self, engine: ContainerEngine, request: StepRequest, server: Spec, image: str) -> Spec:
        """Start the modelcar's container, unless the engine mounts images; the server's, changed so that it reads it."""
        if self.settings.docker.modelcar == "mount":
            if engine.version < (1, 48):
                raise BadInput(
                    f"this engine cannot mount an image (its API is {engine.api.api_version}, and 1.48 can)",
                    remedy="unset CARWRIGHT_DOCKER__MODELCAR",
                )
            return replace(server, image_mount=(image, _MOUNTED))
        mark = {**labels(request), "server": server.name, "part": "modelcar"}
        spec = Spec(f"{server.name}-check", image, _CHECK, mark, network="none", pids=PIDS_OF_A_MODELCAR)
        check = engine.create(spec)
        try:
            check.start()
            if check.wait().code != 0:
                raise BadInput(f"{image} is not a modelcar: /models is missing or empty", remedy="see `carwright lint`")
        finally:
            engine.remove(check.name)
        modelcar = engine.create(replace(spec, name=f"{server.name}-model", command=_LINK, volumes=("/mnt",)))
        modelcar.put("/mnt", {".": None})
        modelcar.start()
        return replace(server, pid_of=modelcar.id, volumes_from=(modelcar.id,))

    def _wait(self, container: Container, follower: Follower, request: StepRequest, spec: Spec, folder: Path) -> None:
        """Return when the server has written its result; raises when it ends first."""
        while container.read(f"{WORK}/{RESULT}") is None:
            if follower.ended and not (state := container.state()).running:
                if log := container.read(f"{WORK}/engine.log"):
                    (folder / "engine.log").write_bytes(log)
                raise ended_badly(request.step, state, spec, follower.output, f"its log is {folder / LOG}")
            time.sleep(0.5)

    def _endpoint(self, container: Container) -> Endpoint | None:
        """Where a server answers; None unless it has said so and runs."""
        content = container.read(f"{WORK}/{RESULT}")
        if content is None or not container.state().running:
            return None
        endpoint = Endpoint.read(read_result(content, Step.SERVE).values)
        port = container.published(_PORT)
        if not port:
            return endpoint
        here = f"http://{LOOPBACK}:{port}/v1"
        if container.labels.get("host") != LOOPBACK:  # for steps on other machines, which do not know its network
            return endpoint.model_copy(update={"url": here})
        return endpoint.model_copy(update={"published": here})


def kept_mark(settings: Settings) -> Path:
    """A file that says that a run of this folder left something serving on the engine."""
    return settings.home.resolve() / "services" / "docker"


def _servers(engine: ContainerEngine, **wanted: str) -> list[Container]:
    return engine.containers(part="server", **wanted)


def _end(engine: ContainerEngine, server: str) -> None:
    """Stop a server, then the modelcar beside it."""
    engine.end(server, _GRACE)
    for container in engine.containers(server=server):
        engine.remove(container.name)
