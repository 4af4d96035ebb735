"""Servers in containers of a real engine: beside a real modelcar, with a lease, kept, found and swept.

vLLM is played by a shell script; the real one reads a modelcar in test_docker_vllm.py.
"""

from __future__ import annotations

import secrets
import signal
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import docker
import pytest

from containers.contract import Step, StepRequest
from containers.digest import Digest
from containers.errors import BadInput, Error, NotTrusted, StepFailed
from containers.heartbeat import LEASE_KEPT
from containers.parameters import ServeOptions, ServeParameters
from flows.cli.housekeeping import services as services_of
from flows.runners.docker import services as docker_services
from flows.runners.docker.services import DockerServices
from flows.runners.docker.sweeper import sweep
from infra.container_engine import connect
from infra.container_engine.ownership import LEASE
from infra.hardening import PIDS, PIDS_OF_A_MODELCAR
from infra.settings import Settings
from tests.support.container_watch import ContainerWatch
from tests.support.docker_world import left, played_images
from tests.support.local_registry import LocalRegistry
from tests.support.modelcar_commands import KSERVE_LOOKS, KUBEFLOW_WAITS, LINKS
from tests.support.modelcars import push_folder, write_checkpoint
from tests.support.ports import free_port
from tests.support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from containers.events import Event

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def images() -> Iterator[tuple[str, Any]]:
    with played_images() as made:
        yield made


@pytest.fixture(scope="module")
def modelcar(tmp_path_factory: pytest.TempPathFactory, images: tuple[str, Any]) -> Iterator[str]:
    """A modelcar by digest, in a registry that containers would know as `registry:5000`."""
    folder = tmp_path_factory.mktemp("modelcar")
    checkpoint = write_checkpoint(folder / "checkpoint")
    with LocalRegistry(folder / "registry") as registry:
        pushed = push_folder(checkpoint, f"{registry}/m", Settings(home=folder / "home"), base="minimal")
        yield f"{registry}/m@{pushed.digest}"
        images[1].remove_image(f"{registry}/m@{pushed.digest}", force=True)


@dataclass
class World:
    settings: Settings
    api: Any
    heard: list[Event] = field(default_factory=list)

    @property
    def services(self) -> DockerServices:
        return DockerServices(self.settings)

    def start(self, name: str = "m", **more: Any) -> docker_services.DockerLease:
        return self.services.start(request(name, **more), self.heard.append)

    def with_(self, **docker: Any) -> World:
        update = {"docker": self.settings.docker.model_copy(update=docker)}
        return World(self.settings.model_copy(update=update), self.api, self.heard)

    def left(self) -> list[str]:
        return left(self.api, self.settings.docker.project)


def request(name: str, **parameters: Any) -> StepRequest:
    return StepRequest(
        step=Step.SERVE, run="test", parameters=ServeParameters(served_model_name=name, **parameters).dump()
    )


@pytest.fixture
def world(images: tuple[str, Any], tmp_path: Path) -> Iterator[World]:
    pattern, api = images
    settings = Settings(
        home=tmp_path / "home", docker={"image": pattern, "project": f"test-{secrets.token_hex(4)}", "network": "host"}
    )
    world = World(settings, api)
    yield world
    remaining = world.left()
    for name in remaining:
        api.remove_container(name, v=True, force=True)
    assert remaining == []


def test_a_modelcar_runs_kserve_s_own_commands_and_is_read_in_place(world: World, modelcar: str) -> None:
    """The server, of the same user, sees through the link the very file of the modelcar's layer; nothing is copied."""
    registry, _, rest = modelcar.partition("/")
    lease = world.with_(registry_aliases={"registry:5000": registry}).start(reference=f"registry:5000/{rest}")
    said = [event.message for event in world.heard if event.event == "log"]
    assert said[0] == "1001"
    assert said[1].startswith("link: ")
    assert said[1].endswith("/mnt/models -> /proc/1/root/models")
    assert "model.safetensors.index.json" in said
    assert '"model_type": "llama"' in said[-1]
    with connect(world.settings.docker) as engine:
        (beside,) = engine.containers(part="modelcar")
        about = world.api.inspect_container(beside.id)
        assert about["Config"]["Cmd"] == ["sh", "-c", "ln -sf /proc/$$/root/models /mnt/models && sleep infinity"]
        assert about["Config"]["Entrypoint"] is None
        assert about["Config"]["User"] == "1001:0"
        for one in engine.containers():
            host = world.api.inspect_container(one.id)["HostConfig"]
            assert (host["ReadonlyRootfs"], host["CapDrop"], host["SecurityOpt"]) == (
                True,
                ["ALL"],
                ["no-new-privileges"],
            )
            assert host["PidsLimit"] == (PIDS_OF_A_MODELCAR if one.id == beside.id else PIDS)
        (server,) = engine.containers(part="server")
        assert world.api.inspect_container(server.id)["HostConfig"]["PidMode"] == f"container:{beside.id}"
    assert lease.serves
    lease.end()
    assert world.left() == []
    assert not lease.serves
    lease.end()


def test_the_layers_are_looked_at_where_this_process_reaches_the_registry(world: World, modelcar: str) -> None:
    """As in the dry run, whose flows run in a container: the engine's name for the registry is an address of another machine."""
    registry = modelcar.partition("/")[0]
    elsewhere = world.with_(registry_aliases={registry: f"127.0.0.1:{free_port()}"})
    with pytest.raises(Error):  # the engine does not reach it, either
        elsewhere.start(reference=modelcar)
    assert not [event.message for event in world.heard if "not looked at" in event.message]


@contextmanager
def running(api: Any, modelcar: str, *command: str) -> Iterator[str]:
    """The id of a container of the modelcar, started with nothing but this command, as another user than root."""
    api.pull(modelcar)
    container = api.create_container(
        modelcar, list(command), user="1001:0", host_config=api.create_host_config(network_mode="none")
    )["Id"]
    try:
        api.start(container)
        yield container
    finally:
        api.remove_container(container, force=True)


@pytest.mark.parametrize("line", KSERVE_LOOKS)
def test_the_look_of_an_init_container(images: tuple[str, Any], modelcar: str, line: str) -> None:
    api = images[1]
    with running(api, modelcar, "sh", "-c", line) as container:
        assert api.wait(container)["StatusCode"] == 0
        said = api.logs(container).decode().splitlines()
    assert said[1] == "OK ... Prefetched and valid (/models exists)"


@pytest.mark.parametrize("command", [*(("sh", "-c", one) for one in LINKS), ("sleep", "infinity")])
def test_a_sidecar_of_every_version_links_and_ends_when_asked(
    images: tuple[str, Any], modelcar: str, command: tuple[str, ...]
) -> None:
    """As process 1, to which the kernel sends no signal that it has not asked for: it ends by itself and is not killed."""
    api = images[1]
    with running(api, modelcar, *command) as container:
        if command[0] == "sh":
            until(lambda: b"config.json" in inside(api, container, "ls", "/mnt/models/"), "the link leads to the model")
        until(lambda: asked_to_end(api, container), "it ends")
        assert api.inspect_container(container)["State"]["ExitCode"] == 128 + signal.SIGTERM


def asked_to_end(api: Any, container: str) -> bool:
    """Whether it has ended, after one SIGTERM more: the first may come before the program runs, and is then lost."""
    with suppress(docker.errors.APIError):  # it has ended meanwhile
        api.kill(container, "SIGTERM")
    return not api.inspect_container(container)["State"]["Running"]


def inside(api: Any, container: str, *command: str) -> bytes:
    """The output of another command in a running container."""
    output: bytes = api.exec_start(api.exec_create(container, list(command))["Id"])
    return output


def test_what_vllm_leaves_behind_is_reaped(images: tuple[str, Any], modelcar: str) -> None:
    """The modelcar is process 1 of the pid namespace that both share, and inherits the orphans of the other container."""
    pattern, api = images
    with running(api, modelcar, *("sh", "-c", LINKS[1])) as parent:
        program = "(sleep 0 & sleep 0 &); sleep 1; cat /proc/[0-9]*/stat"
        other = api.create_container(
            pattern,
            entrypoint=["/bin/busybox", "sh", "-c", program],
            host_config=api.create_host_config(pid_mode=f"container:{parent}", network_mode="none"),
        )["Id"]
        try:
            api.start(other)
            assert api.wait(other)["StatusCode"] == 0
            states = {line.rpartition(") ")[2].split()[0] for line in api.logs(other).decode().splitlines()}
        finally:
            api.remove_container(other, force=True)
    assert "S" in states
    assert "Z" not in states


def test_kubeflows_sidecar_ends_with_its_launcher(images: tuple[str, Any], modelcar: str) -> None:
    api = images[1]
    with running(api, modelcar, "sh", "-c", KUBEFLOW_WAITS.replace("/oci", "/mnt")) as container:
        until(lambda: b"Running Modelcar container..." in api.logs(container), "it waits")
        assert api.inspect_container(container)["State"]["Running"]
        inside(api, container, "ln", "-s", "/models/config.json", "/mnt/launcher-complete")
        assert api.wait(container)["StatusCode"] == 0


def test_another_command_is_refused_with_words(images: tuple[str, Any], modelcar: str) -> None:
    api = images[1]
    with running(api, modelcar, "sh", "-c", "cat /models/config.json") as container:
        assert api.wait(container)["StatusCode"] == 2
        assert b"sh: refused: there is no command cat" in api.logs(container)


def test_neither_a_server_nor_what_is_beside_it_has_a_secret(world: World, modelcar: str) -> None:
    """The engine's word on both, and the folder of secrets as one of the same user sees it."""
    canaries = {
        "store": {"endpoint": "http://127.0.0.1:9", "secret_access_key": "canary-key", "access_key_id": "canary-id"}
    }
    given = Settings(
        home=world.settings.home, docker=world.settings.docker, hub_token="canary-token",
        registry={"username": "canary", "password": "canary-password"}, **canaries,
    )  # fmt: skip
    for asked in (request("m", reference=modelcar), request("m")):
        lease = DockerServices(given).start(asked, world.heard.append)
        with connect(given.docker) as engine:
            for container in engine.containers():
                assert "canary" not in str(world.api.inspect_container(container.id))
            (server,) = engine.containers(part="server")
            assert "canary" not in str(b"".join(world.api.get_archive(server.id, "/run")[0]))
        lease.end()
    (fetched,) = (event.message for event in world.heard if event.message.startswith("fetched with"))
    assert "CARWRIGHT_STORE__SECRET_ACCESS_KEY" in fetched
    assert "CARWRIGHT_HUB_TOKEN" not in fetched
    assert world.left() == []


def test_an_image_without_models_is_refused_as_kserve_refuses_it(
    world: World, images: tuple[str, Any], modelcar: str
) -> None:
    pattern, api = images
    name = f"{modelcar.partition('/')[0]}/empty"
    api.tag(pattern, name, "latest")
    pushed = [line["aux"]["Digest"] for line in api.push(name, "latest", stream=True, decode=True) if "aux" in line]
    try:
        with pytest.raises(BadInput, match="not a modelcar"):
            world.start(reference=f"{name}@{pushed[-1]}")
    finally:
        api.remove_image(f"{name}:latest")
    assert world.left() == []


def test_a_server_that_fails_says_why_and_leaves_nothing(world: World, modelcar: str) -> None:
    with pytest.raises(StepFailed, match="no such architecture") as caught:
        world.start("broken", reference=modelcar)
    assert caught.value.exit_code == 2
    assert world.left() == []


def test_a_lease_is_renewed_by_the_engine_s_clock(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(docker_services, "LEASE_INTERVAL", 0.2)
    lease = world.start()
    with connect(world.settings.docker) as engine:
        (server,) = engine.containers(part="server")
        first = server.modified(LEASE)
        assert first
        server.touch(LEASE, first - 1000)
        until(lambda: (server.modified(LEASE) or 0) >= first, "the lease is renewed")
        assert abs((server.modified(LEASE) or 0) - engine.now()) < 30
    lease.end()


def test_what_is_kept_is_found_by_other_runs_and_stopped_by_name(world: World) -> None:
    """And neither swept, nor ended by who found it."""
    lease = world.start()
    lease.keep()
    with connect(world.settings.docker) as engine:
        (server,) = engine.containers(part="server")
        assert server.modified(LEASE) == LEASE_KEPT
    found = world.start()
    assert (lease.found, found.found) == (False, True)
    assert found.endpoint == lease.endpoint
    found.end()
    assert found.serves
    assert [one.removed for one in sweep(world.settings.docker)] == [False]
    assert world.services.stop_all() == []
    assert len(services_of(world.settings)) == 2  # as `carwright clean` looks for them
    assert world.services.stop_all(kept=True) == [lease.endpoint.url]
    assert len(services_of(world.settings)) == 1
    assert world.left() == []


def test_what_is_found_is_compared_under_a_policy(world: World, modelcar: str, tmp_path: Path) -> None:
    """By a container beside it that reads the very files, has no network and no secret, and goes; what serves goes on."""
    lease = world.start(reference=modelcar)
    lease.keep()
    config = Digest.of((write_checkpoint(tmp_path / "checkpoint") / "config.json").read_bytes())

    def ask(digest: Digest) -> docker_services.DockerLease:
        options = ServeOptions(policy="{}", files={"config.json": digest})
        return world.services.start(
            request("m", reference=modelcar).model_copy(update={"options": options.dump()}), world.heard.append
        )

    with ContainerWatch() as watch:
        assert ask(config).found
    (compared,) = watch.of(world.settings.docker.project).values()
    assert compared["HostConfig"]["NetworkMode"] == "none"
    with pytest.raises(StepFailed, match=r"config\.json is not what was signed") as caught:
        ask(Digest("0" * 64))
    assert caught.value.exit_code == NotTrusted.exit_code
    assert lease.serves
    assert len(world.left()) == 2  # the server and its modelcar
    assert len(world.services.stop_all(kept=True)) == 1
    assert world.left() == []


def test_another_run_s_server_is_left_to_it(world: World) -> None:
    first, second = world.start(), world.start()
    assert not second.found
    assert len(world.left()) == 2
    second.end()
    assert first.serves
    first.end()


def test_what_a_dead_run_left_is_stopped(world: World, modelcar: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from flows.runners.docker import container_spec

    gone = f"{container_spec.owner().rpartition('/')[0]}/1"
    monkeypatch.setattr(container_spec, "owner", lambda: gone)
    world.start(reference=modelcar)
    assert len(world.services.stop_all()) == 1
    assert world.left() == []
    world.start(reference=modelcar)
    assert {one.why for one in sweep(world.settings.docker)} == {"the process that made it has ended"}
    assert world.left() == []


def test_on_a_network_of_its_own_a_server_has_a_name_and_a_port_on_loopback(world: World) -> None:
    network = f"carwright-test-{secrets.token_hex(4)}"
    world.api.create_network(network, internal=False)
    try:
        lease = world.with_(network=network).start()
        (name,) = world.left()
        assert lease.endpoint.url == f"http://{name}:8000/v1"
        assert lease.endpoint.published.startswith("http://127.0.0.1:")
        lease.end()
        asked = request("m").model_copy(update={"options": ServeOptions(host="0.0.0.0").dump()})
        lease = world.with_(network=network).services.start(asked, world.heard.append)
        assert lease.endpoint.url.startswith("http://127.0.0.1:")  # under which others know this machine, run-step says
        (name,) = world.left()
        (bound, *_) = world.api.inspect_container(name)["NetworkSettings"]["Ports"]["8000/tcp"]
        assert bound["HostIp"] == "0.0.0.0"
        lease.end()
    finally:
        world.api.remove_network(network)


def test_networks_without_names_are_refused(world: World) -> None:
    with pytest.raises(BadInput, match="do not find each other by name"):
        world.with_(network="bridge").start()


def test_an_engine_that_cannot_mount_images_is_told_apart(world: World, modelcar: str) -> None:
    with pytest.raises(BadInput, match="cannot mount an image"):
        world.with_(modelcar="mount").start(reference=modelcar)
