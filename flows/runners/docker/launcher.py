"""Runs a step in a container of its image: the request goes in, lines and the result come out, nothing stays."""

from __future__ import annotations

import contextlib
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from containers.contract import Step, StepRequest, StepResult
from containers.errors import BadInput, Error, Temporary
from containers.network import LOOPBACK_NAMES
from containers.oci.credentials import find_credentials
from containers.oci.reference import Reference
from containers.private import opener
from containers.process import inherited
from flows.runners.docker.container_spec import VOLUME, payload, refuse_folders, step_spec, with_identity
from flows.runners.process.launcher import run_folder
from flows.runners.step_container import WORK, has_registry, image_name, image_step
from flows.runners.step_protocol import LOG, RESULT, StepOutput, read_result
from infra.container_engine import Spec, connect
from infra.container_engine.ownership import ALIVE, ALIVE_INTERVAL

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from containers.events import OnEvent
    from infra.container_engine import Container, ContainerEngine, State
    from infra.settings import Settings


@dataclass(frozen=True)
class DockerLauncher:
    """Steps as containers of the engine that the settings name."""

    settings: Settings

    def prepare(self, request: StepRequest, on_event: OnEvent) -> None:
        """Have the image: pulled where its name has a registry, else it must have been built. Raises BadInput."""
        with connect(self.settings.docker) as engine:
            ensure_image(engine, image_of(self.settings, image_step(request)), self.settings, on_event)

    def run(self, request: StepRequest, on_event: OnEvent) -> StepResult:
        refuse_folders(request)
        folder = run_folder(self.settings, request)
        with connect(self.settings.docker) as engine:
            _remove_abandoned(engine)
            image = image_of(self.settings, image_step(request))
            ensure_image(engine, image, self.settings, on_event)
            settings = with_identity(self.settings, request)
            spec = step_spec(settings, request, image)
            try:
                container = engine.create(spec)
                container.put(VOLUME, payload(settings, request))
                follower = Follower(container, StepOutput(on_event), folder / LOG)
                container.start()
                state = follower.wait(self.settings.docker.step_timeout)
                result = container.read(f"{WORK}/{RESULT}") if state.code == 0 else None
            except BaseException:
                _abandoned.add(spec.name)
                with contextlib.suppress(Error):  # the first error counts
                    engine.end(spec.name)
                    _abandoned.discard(spec.name)
                raise
            _ended.add(spec.name)
            _remove_ended(engine)
        if state.code != 0:
            raise ended_badly(request.step, state, spec, follower.output, f"its log is {folder / LOG}")
        return read_result(result, request.step)


_abandoned: set[str] = set()  # by this process, on an engine that did not answer; a retry must not run beside them
_ended: set[str] = set()  # likewise, of steps that have ended: nothing runs in them


def _remove_abandoned(engine: ContainerEngine) -> None:
    for name in list(_abandoned):
        engine.remove(name)
        _abandoned.discard(name)
    _remove_ended(engine)


def _remove_ended(engine: ContainerEngine) -> None:
    """Each if it can be removed now, as one whose file system is busy cannot; else the run's next step or the sweeper does it."""
    for name in list(_ended):
        with contextlib.suppress(Error):
            engine.remove(name)
            _ended.discard(name)


class Follower:
    """Passes a container's lines on, in a thread of its own, and writes them to a log; made before the container starts."""

    def __init__(self, container: Container, output: StepOutput, log: Path) -> None:
        self.container = container
        self.output = output
        self.log = log
        self._thread = threading.Thread(target=self._read, args=(container.lines(), log), daemon=True)
        self._thread.start()
        self._said = time.monotonic()

    def wait(self, timeout: float | None = None) -> State:
        """How the container ended. Raises Temporary after `timeout` seconds and when the engine stops answering."""
        started, pause = time.monotonic(), 0.02
        while True:
            self._thread.join(0.5)
            if not self._thread.is_alive():
                if not self.container.state().running:
                    return self.container.end_state()
                time.sleep(pause)  # its outputs are closed and it works on, or the engine is not done with its end
                pause = min(2 * pause, 1.0)
            if timeout is not None and time.monotonic() - started > timeout:
                raise Temporary(
                    f"{self.container.name} did not end within {timeout:g} seconds and was stopped",
                    remedy="raise CARWRIGHT_DOCKER__STEP_TIMEOUT",
                )
            self.renew_alive()

    def renew_alive(self) -> None:
        """Renew the heartbeat that tells sweepers that the container is still needed."""
        if time.monotonic() - self._said > ALIVE_INTERVAL:
            self._said = time.monotonic()
            self.container.touch(ALIVE)

    @property
    def ended(self) -> bool:
        """Whether there will be no more lines."""
        return not self._thread.is_alive()

    def mute(self) -> None:
        """Pass nothing on any more."""
        self.output = StepOutput(lambda _: None)

    def _read(self, lines: Iterator[str], log: Path) -> None:
        with open(log, "a", encoding="utf-8", opener=opener) as file:
            for line in lines:
                file.write(line + "\n")
                file.flush()
                self.output.line(line)


def image_of(settings: Settings, step: Step) -> str:
    """The image of a step on this container engine."""
    return image_name(settings.docker.image, step, settings)


def ensure_images(settings: Settings, on_event: OnEvent) -> None:
    """See that the engine has, or gets, the image of every step; raises what `connect` and `ensure_image` raise."""
    with connect(settings.docker) as engine:
        for step in Step:
            ensure_image(engine, image_of(settings, step), settings, on_event)


def ensure_image(engine: ContainerEngine, name: str, settings: Settings, on_event: OnEvent) -> None:
    """Raises BadInput when the engine has no such image and cannot get it."""
    if engine.has_image(name):
        return
    if not has_registry(name):
        raise BadInput(
            f"the engine has no image {name}",
            remedy="build it with `carwright images load` (`make images`), or name a registry's in CARWRIGHT_DOCKER__IMAGE",
        )
    engine.pull(name, engine_login(Reference.parse(name), settings), on_event)


def engine_login(where: Reference, settings: Settings) -> dict[str, str] | None:
    """The login that the engine is to use for a pull, in the form of its API."""
    found = find_credentials(where.registry, where.repository, settings)
    if found is None:
        return None
    secret = found.secret.get_secret_value()
    return {"username": found.username, "password": secret} if found.username else {"identitytoken": secret}


def check_addresses(settings: Settings) -> None:
    """Raises BadInput where the steps' containers could not reach this machine's loopback interface, and have to."""
    docker, endpoint = settings.docker, settings.store.endpoint or ""
    if urlsplit(endpoint).hostname not in LOOPBACK_NAMES:
        return
    engine = urlsplit(docker.host or inherited("DOCKER_").get("DOCKER_HOST", ""))
    if docker.network != "host" or engine.scheme not in {"", "unix", "npipe"}:
        raise BadInput(
            f"the store is at {endpoint}, which containers {'elsewhere' if docker.network == 'host' else 'on a network of their own'} cannot reach",
            remedy="name a store that they reach (CARWRIGHT_STORE__ENDPOINT), or set CARWRIGHT_DOCKER__NETWORK=host "
            "with an engine on this machine",
        )


def ended_badly(step: Step, state: State, spec: Spec, output: StepOutput, where: str) -> Error:
    """The error for a container that ended with a code other than 0."""
    if state.oom:
        limit = f"its limit of {spec.memory / 2**30:g} GiB" if spec.memory else "what the engine's machine has"
        return output.out_of_memory(step, state.code, limit, where)
    return output.failure(step, state.code, where)
