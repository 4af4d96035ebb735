"""Steps in containers of a real engine, played by a shell script: what comes out, and that nothing stays."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import socket
import sys
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest
from pydantic import SecretStr

from containers.contract import Step, StepRequest, StepResult
from containers.errors import BadInput, Error, StepFailed, Temporary
from containers.process import Child, inherited
from flows.cli.housekeeping import sweep as swept
from flows.runners.docker.launcher import DockerLauncher
from flows.runners.docker.sweeper import sweep
from flows.runners.step_protocol import LOG
from infra.container_engine import ContainerEngine
from infra.settings import Resources, Settings
from tests.support.docker_world import left, played, played_images
from tests.support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from containers.events import Event

pytestmark = pytest.mark.integration
_DONE = """echo '{"step": "push", "metrics": {"n": 1}}' > $result"""


@pytest.fixture(scope="module")
def images() -> Iterator[tuple[str, Any]]:
    with played_images() as made:
        yield made


@dataclass
class World:
    settings: Settings
    api: Any
    heard: list[Event] = field(default_factory=list)

    def run(self, play: str, step: Step = Step.PUSH, **docker: Any) -> StepResult:
        return DockerLauncher(self.with_(**docker)).run(request(play, step), self.heard.append)

    def with_(self, **docker: Any) -> Settings:
        resources = self.settings.resources.model_copy(update=docker.pop("resources", {}))
        changed = self.settings.docker.model_copy(update=docker)
        return self.settings.model_copy(update={"docker": changed, "resources": resources})

    @property
    def project(self) -> str:
        return self.settings.docker.project

    def left(self) -> list[str]:
        return left(self.api, self.project)

    def messages(self) -> list[str]:
        return [event.message for event in self.heard]


def request(play: str, step: Step = Step.PUSH) -> StepRequest:
    return StepRequest(step=step, run="test", parameters=played(play))


@pytest.fixture
def world(images: tuple[str, Any], tmp_path: Path) -> Iterator[World]:
    pattern, api = images
    settings = Settings(
        home=tmp_path / "home",
        store={
            "endpoint": "http://127.0.0.1:1",
            "access_key_id": "storekey",
            "secret_access_key": "storesecret",
            "folder": tmp_path,
        },
        registry={"host": "registry.example.com", "username": "me", "password": SecretStr("registrysecret")},
        hub_token=SecretStr("hubsecret"),
        docker={"image": pattern, "project": f"test-{secrets.token_hex(4)}", "network": "none"},
    )
    world = World(settings, api)
    yield world
    remaining = world.left()
    for name in remaining:
        api.remove_container(name, v=True, force=True)
    assert remaining == []


def test_events_come_out_line_by_line_and_the_result_at_the_end(world: World) -> None:
    """Lines of both outputs, a broken one and one without an end, in the order in which they were written."""
    event = json.dumps({"event": "progress", "task": "t", "done": 1, "total": 2, "unit": "B"})
    result = world.run(f"echo {event!r}; echo to stderr >&2; sleep 0.3; echo {{not json; printf unfinished; {_DONE}")
    assert result == StepResult(step=Step.PUSH, metrics={"n": 1})
    assert [(event.task, event.done) for event in world.heard if event.event == "progress"] == [("t", 1)]
    assert {"to stderr", "{not json", "unfinished"} == set(world.messages()) - {""}


def test_settings_and_secrets_arrive_and_secrets_only_as_files(world: World) -> None:
    """Of user 1001, readable by that user alone; nothing of them in what `docker inspect` shows or in the log."""
    seen: list[str] = []
    look = "id -u; env; ls -ln /run/secrets; cat /run/secrets/CARWRIGHT_STORE__SECRET_ACCESS_KEY; echo; "
    look += "until [ -e /tmp/seen ]; do sleep 0.1; done; "

    def inspect() -> None:
        until(lambda: "storesecret" in world.messages(), "the step has looked")
        (name,) = world.left()
        seen.append(json.dumps(world.api.inspect_container(name)))
        world.api.exec_start(world.api.exec_create(name, ["touch", "/tmp/seen"]))

    thread = threading.Thread(target=inspect)
    thread.start()
    world.run(look + _DONE)
    thread.join()
    said = world.messages()
    assert said[0] == "1001"
    assert "CARWRIGHT_STORE__ENDPOINT=http://127.0.0.1:1" in said
    assert "CARWRIGHT_HOME=/run/carwright/home" in said
    assert "storesecret" in said
    assert not [line for line in said if line.startswith(("CARWRIGHT_DOCKER", "CARWRIGHT_STORE__FOLDER"))]
    files = {line.split()[-1]: line.split()[0] for line in said if line.startswith("-r--------")}
    assert set(files) == {
        "CARWRIGHT_STORE__ACCESS_KEY_ID",
        "CARWRIGHT_STORE__SECRET_ACCESS_KEY",
        "CARWRIGHT_REGISTRY__PASSWORD",
    }
    for secret in ("storekey", "storesecret", "registrysecret", "hubsecret"):
        assert secret not in seen[0]
        assert not any(secret in line for line in said if line != "storesecret")


def test_a_step_has_no_rights_and_writes_only_where_it_may(world: World) -> None:
    look = "touch /x || echo read only; touch /tmp/x && echo tmp; touch $TMPDIR/x && echo scratch; grep Cap /proc/self/status; "
    world.run(look + "grep NoNewPrivs /proc/self/status; " + _DONE)
    said = world.messages()
    assert {"read only", "tmp", "scratch"} <= set(said)
    assert any(line.split() == ["CapBnd:", "0000000000000000"] for line in said)
    assert any(line.split() == ["NoNewPrivs:", "1"] for line in said)


_SANDBOX = (
    "bwrap --unshare-all --unshare-user --uid 65534 --gid 65534 --cap-drop ALL --die-with-parent --new-session --clearenv "
    "--ro-bind /bin /bin --dev /dev --tmpfs /tmp --chdir /tmp --remount-ro / /bin/busybox echo from the sandbox"
)


def test_bubblewrap_works_in_the_one_step_that_needs_it(world: World) -> None:
    """Evaluate runs generated code; every other step keeps the engine's own profile, which forbids it."""
    asked = request(f"{_SANDBOX}; {_DONE}".replace("push", "evaluate"), Step.EVALUATE)
    asked = asked.model_copy(update={"parameters": {**asked.parameters, "action": "measure"}})
    DockerLauncher(world.settings).run(asked, world.heard.append)
    assert "from the sandbox" in world.messages()
    world.heard.clear()
    world.run(f"{_SANDBOX}; {_DONE}")
    assert any("namespace" in line for line in world.messages())


def test_a_step_s_own_words_and_exit_code_become_the_error(world: World) -> None:
    event = json.dumps({"event": "error", "message": "the registry is busy", "exit_code": 75})
    with pytest.raises(StepFailed, match="the registry is busy") as caught:
        world.run(f"echo {event!r} >&2; exit 75")
    assert caught.value.temporary
    with pytest.raises(StepFailed, match="no readable result"):
        world.run("true")
    with pytest.raises(StepFailed, match="SIGKILL"):
        world.run("kill -9 $$; sleep 1; exit 137")


def test_a_step_that_needs_more_memory_than_it_may_is_told_so(world: World) -> None:
    with pytest.raises(StepFailed, match=r"more memory than its limit of 0.03125 GiB") as caught:
        world.run(
            "dd if=/dev/zero of=/dev/null bs=200M count=1; exit 137", resources={"push": Resources(memory_gib=1 / 32)}
        )
    assert "CARWRIGHT_RESOURCES__PUSH__MEMORY_GIB" in caught.value.remedy


def test_a_deadline_ends_the_container(world: World) -> None:
    with pytest.raises(Temporary, match="did not end within 1 seconds"):
        world.run("trap 'exit 1' TERM; sleep 100 & wait", step_timeout=1)


def test_an_image_that_is_missing_is_named_with_the_command_that_builds_it(world: World) -> None:
    with pytest.raises(BadInput, match="no image nowhere/push:latest") as caught:
        world.run("true", image="nowhere/{target}:latest")
    assert "carwright images load" in caught.value.remedy


def test_a_registry_that_is_not_there_is_asked_for_an_image_that_names_it(world: World) -> None:
    with pytest.raises(Error, match=r"127\.0\.0\.1:1/push"):
        world.run("true", image="127.0.0.1:1/{target}:latest")


def test_gpus_that_the_engine_does_not_have(world: World) -> None:
    with pytest.raises(BadInput, match="GPUs were requested") as caught:
        world.run("true", resources={"push": Resources(gpus=1)})
    assert "CARWRIGHT_RESOURCES__<STEP>__GPUS" in caught.value.remedy
    with pytest.raises(BadInput, match="GPUs were requested"):
        world.run("true", resources={"all": Resources(gpus=1)}, gpu_kind="rocm")


def test_a_network_that_does_not_exist(world: World) -> None:
    with pytest.raises(BadInput, match="network"):
        world.run("true", network="no-such-network")


def test_no_engine(world: World, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no container engine") as caught:
        world.run("true", host=f"unix://{tmp_path}/none.sock")
    assert "CARWRIGHT_LAUNCHER=process" in caught.value.remedy


def test_a_folder_cannot_be_a_target(world: World) -> None:
    asked = StepRequest(step=Step.PUSH, run="test", parameters={"target": "oci:/somewhere"})
    with pytest.raises(BadInput, match="folder of this machine"):
        DockerLauncher(world.settings).run(asked, world.heard.append)


def test_a_checkpoint_in_a_folder_of_the_engine_s_machine_is_read(world: World, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("here it is")
    tmp_path.chmod(0o755)
    asked = request(f"cat {tmp_path}/config.json; {_DONE}")
    asked = asked.model_copy(update={"parameters": {**asked.parameters, "source": f"file://{tmp_path}"}})
    DockerLauncher(world.settings).run(asked, world.heard.append)
    assert "here it is" in world.messages()
    gone = asked.model_copy(update={"parameters": {**asked.parameters, "source": "file:///no/such/folder"}})
    with pytest.raises(BadInput, match="does not have the folder"):
        DockerLauncher(world.settings).run(gone, world.heard.append)


class Cut:
    """A way to the engine that can be cut."""

    def __init__(self, folder: Path, engine: str) -> None:
        self.path = folder / "engine.sock"
        self._engine = engine
        self._sockets: list[socket.socket] = []
        self._server = socket.socket(socket.AF_UNIX)
        self._server.bind(str(self.path))
        self._server.listen()
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                near, _ = self._server.accept()
            except OSError:
                return
            far = socket.socket(socket.AF_UNIX)
            far.connect(self._engine)
            self._sockets += [near, far]
            for pair in ((near, far), (far, near)):
                threading.Thread(target=self._pump, args=pair, daemon=True).start()

    @staticmethod
    def _pump(source: socket.socket, sink: socket.socket) -> None:
        try:
            while data := source.recv(65536):
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            pass

    def cut(self) -> None:
        self.path.unlink()
        self._server.close()
        for one in self._sockets:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()


def test_an_engine_that_dies_while_a_step_runs(world: World, tmp_path: Path) -> None:
    """Said at once, as something temporary; what it left goes when the run tries again, and is swept when it does not."""
    way = Cut(tmp_path, "/var/run/docker.sock")

    def cut() -> None:
        until(lambda: "working" in world.messages(), "the step works")
        way.cut()

    threading.Thread(target=cut).start()
    with pytest.raises(Temporary, match="engine stopped answering"):
        world.run("echo working; sleep 100", host=f"unix://{way.path}")
    assert [one.why for one in sweep(world.settings.docker)] == ["the process that made it lives"]
    world.run(_DONE)
    assert world.left() == []


def test_a_container_that_cannot_be_removed_costs_no_result(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next step of the run removes it. Nothing but its log stays in the folder of the run."""

    def away(*_: object) -> None:
        raise Temporary("the engine is away")

    with monkeypatch.context() as engine:
        engine.setattr(ContainerEngine, "remove", away)
        assert world.run(_DONE).metrics == {"n": 1}
    assert len(world.left()) == 1
    world.run(_DONE)
    assert world.left() == []
    assert {path.name for path in world.settings.home.glob("runs/*/*/*")} == {LOG}


def test_a_listener_s_trouble_does_not_stall_the_step(world: World) -> None:
    def trouble(event: Event) -> None:
        raise ValueError(event.message)

    result = DockerLauncher(world.settings).run(request(f"echo one; echo two; {_DONE}"), trouble)
    assert result.metrics == {"n": 1}


_ALONE = """
import sys
from containers.contract import StepRequest
from infra.settings import Settings
from flows.runners.docker.launcher import DockerLauncher
DockerLauncher(Settings()).run(StepRequest.model_validate_json(sys.argv[1]), lambda event: print(event.message, flush=True))
"""


def _alone(world: World, folder: Path, asked: StepRequest) -> Child:
    """A launcher in a process of its own."""
    return Child(
        [sys.executable, "-c", _ALONE, asked.model_dump_json()],
        inherited()
        | {
            "CARWRIGHT_HOME": str(folder / "home"),
            "CARWRIGHT_DOCKER__IMAGE": world.settings.docker.image,
            "CARWRIGHT_DOCKER__PROJECT": world.project,
            "CARWRIGHT_DOCKER__NETWORK": "none",
        },
        log_file=folder / "log",
    )


def _until_said(folder: Path, text: str) -> None:
    log = folder / "log"
    until(lambda: log.exists() and text in log.read_text(), log.read_text)


def _pid(world: World) -> int:
    (container,) = world.api.containers(all=True, filters={"label": f"dev.carwright.project={world.project}"})
    return int(container["Labels"]["dev.carwright.owner"].split("/")[-2])


def test_ctrl_c_ends_the_container(world: World, tmp_path: Path) -> None:
    with _alone(world, tmp_path, request("trap 'echo bye; exit 130' TERM; echo working; sleep 100 & wait")) as child:
        _until_said(tmp_path, "working")
        os.kill(_pid(world), signal.SIGINT)
        assert child.wait(60) != 0
    assert "bye" in (tmp_path / "log").read_text()
    assert world.left() == []


def test_what_a_killed_launcher_left_is_swept(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Not before: whoever made it lives. And nothing of another project."""
    with _alone(world, tmp_path, request("echo working; sleep 100")) as child:
        _until_said(tmp_path, "working")
        assert [one.removed for one in sweep(world.settings.docker)] == [False]
        os.kill(_pid(world), signal.SIGKILL)
        child.wait(30)
    assert sweep(world.with_(project="test-another").docker) == []
    monkeypatch.setenv("CARWRIGHT_DOCKER__PROJECT", world.project)
    for dry_run in (True, False):
        assert len(world.left()) == 1
        swept(dry_run=dry_run, json_=True)
        (said,) = json.loads(capsys.readouterr().out)
        assert (said["removed"], said["why"]) == (True, "the process that made it has ended")
    assert world.left() == []


@pytest.mark.parametrize(
    ("goes_on", "removed"), [(True, False), (False, True), (None, False)], ids=["lives", "ended", "unreachable"]
)
def test_the_flow_run_decides_where_its_process_cannot_be_seen(
    world: World, goes_on: bool | None, removed: bool
) -> None:
    run_id = "01234567-89ab-cdef-0123-456789abcdef"
    labels = {"project": world.project, "run": run_id, "flow-run": run_id, "owner": "elsewhere:pid:[1]/7/8"}
    made = world.api.create_container(
        world.settings.docker.image.format(target="push"),
        command=["sleep", "100"],
        labels={f"dev.carwright.{key}": value for key, value in labels.items()},
    )
    asked: list[str] = []

    def ask(flow_run: str) -> bool | None:
        asked.append(flow_run)
        return goes_on

    (swept,) = sweep(world.settings.docker, goes_on=ask)
    assert asked == [run_id]
    assert swept.removed is removed
    assert bool(world.left()) is not removed
    if not removed:
        world.api.remove_container(made["Id"])


def test_volumes_go_with_their_containers(world: World) -> None:
    before = {one["Name"] for one in world.api.volumes()["Volumes"] or []}
    world.run(_DONE)
    mine = {one["Name"] for one in world.api.volumes()["Volumes"] or []} - before
    assert not {name for name in mine if not world.api.containers(all=True, filters={"volume": name})}  # another test's
