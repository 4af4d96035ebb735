"""The Prefect server as Carwright starts it, from outside: who has no login gets nothing, and no web page does either."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from prefect.client.orchestration import SyncPrefectClient
from prefect.exceptions import ObjectNotFound
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from containers.errors import BadInput
from flows.local import embedded
from flows.orchestrator.prefect_server import origins, read_login
from flows.orchestrator.work_pools import CPU, POOLS, Host, prepare
from infra.settings import Settings
from tests.support.ports import free_port
from tests.support.prefect_api import client_of, logged_in, prefect_api

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

pytestmark = pytest.mark.integration

EVIL = {
    "volumes": ["/:/host"],
    "user": "0",
    "image": "evil",
    "command": "sh",
    "privileged": True,
    "network_mode": "host",
    "networks": ["host"],
    "container_create_kwargs": {"user": "0", "pid_mode": "host", "devices": ["/dev/sda"]},
    "env": {"CARWRIGHT_DOCKER__NETWORK": "host", "LD_PRELOAD": "/evil.so"},
    "env.CARWRIGHT_DOCKER__HOST": "tcp://evil",
    "prefect.variables.carwright_cpu": {"LD_PRELOAD": "/evil.so"},
    "prefect": {"variables": {"carwright_cpu": {"LD_PRELOAD": "/evil.so"}}},
}


@dataclass(frozen=True)
class Served:
    api: str
    url: str
    home: Path
    login: str
    flow: str
    deployment: str


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server with the pools of `carwright pools` and a deployment in one of them."""
    home = tmp_path_factory.mktemp("home")
    before = os.umask(0o000)
    with prefect_api(Settings(home=home)) as api:
        os.umask(before)
        prepare(Host(project="p", socket_group=998, environment={"SITE": "here"}), lambda _: None)
        with logged_in(api) as client:
            flow = client.post("/flows/", json={"name": "any"}).raise_for_status().json()["id"]
            asked = {"name": "one", "flow_id": flow, "work_pool_name": CPU, "work_queue_name": "ship"}
            deployment = client.post("/deployments/", json=asked).raise_for_status().json()["id"]
        login = client_of(api)["PREFECT_API_AUTH_STRING"]
        yield Served(api, api.removesuffix("/api"), home, login, flow, deployment)


def test_a_pool_that_somebody_makes_meanwhile_becomes_ours(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that starts at the same time makes the pool that it needs; whoever looked before that saw none."""

    def nothing(*_: object, **__: object) -> None:
        raise ObjectNotFound(http_exc=Exception("404"))

    monkeypatch.setattr(SyncPrefectClient, "read_work_pool", nothing)
    with logged_in(served.api) as client:
        client.patch(f"/work_pools/{CPU}", json={"description": "a worker's"}).raise_for_status()
        prepare(Host(project="p", socket_group=998, environment={"SITE": "here"}), lambda _: None)
        pool = client.get(f"/work_pools/{CPU}").raise_for_status().json()
        queues = client.post(f"/work_pools/{CPU}/queues/filter", json={}).raise_for_status().json()
    expected = next(pool for pool in POOLS if pool.name == CPU)
    assert pool["description"] == expected.description
    assert {queue.name for queue in expected.queues} <= {queue["name"] for queue in queues}


def test_who_holds_a_slot_is_kept_on_disk(served: Served) -> None:
    """A server that only remembered it would never free the slot again once it had been started anew."""
    with logged_in(served.api) as client:
        client.post("/v2/concurrency_limits/", json={"name": "held", "limit": 1}).raise_for_status()
        asked = {"names": ["held"], "slots": 1, "mode": "concurrency", "lease_duration": 60}
        lease = client.post("/v2/concurrency_limits/increment-with-lease", json=asked).raise_for_status().json()
    assert (served.home / "prefect/concurrency_leases" / f"{lease['lease_id']}.json").is_file()


@pytest.mark.parametrize("auth", [None, ("carwright", "wrong"), ("", "")], ids=["none", "wrong", "empty"])
def test_without_the_login_nothing_is_told_and_nothing_is_done(served: Served, auth: tuple[str, str] | None) -> None:
    """Reading is refused for want of a login (401), changing already for want of the token that only a login gets (403)."""
    with httpx.Client(base_url=served.api, auth=auth, timeout=60) as client:
        for path in ("/admin/settings", "/admin/version", "/flow_runs/count", "/csrf-token?client=me", "/docs"):
            assert client.get(path).status_code == httpx.codes.UNAUTHORIZED, path
        runs = logged_in(served.api).post("/flow_runs/count", json={}).json()
        for forged in ({}, {"Prefect-Csrf-Client": "me", "Prefect-Csrf-Token": "0" * 64}):
            for path, body in (
                (f"/deployments/{served.deployment}/create_flow_run", {"job_variables": EVIL}),
                ("/flow_runs/", {"flow_id": served.flow, "work_pool_name": CPU, "state": {"type": "SCHEDULED"}}),
                (f"/work_pools/{CPU}/get_scheduled_flow_runs", {}),
            ):
                assert client.post(path, json=body, headers=forged).status_code == httpx.codes.FORBIDDEN, path
        assert logged_in(served.api).post("/flow_runs/count", json={}).json() == runs


def test_what_the_server_writes_is_its_owner_s_alone(served: Served) -> None:
    """The database, which holds every run's parameters, above all; the umask that it was started with let others read."""
    files = [path for path in served.home.rglob("*") if not path.is_symlink()]
    assert {"prefect.db", "login", "prefect.log"} <= {path.name for path in files}
    assert [str(path) for path in files if path.stat().st_mode & 0o077] == []


def test_a_token_without_the_login_is_not_enough(served: Served) -> None:
    with logged_in(served.api) as client:
        sent = client.post("/flow_runs/count", json={}).request.headers
    token = {name: value for name, value in sent.items() if name.startswith("prefect-csrf")}
    assert token
    answer = httpx.post(f"{served.api}/flow_runs/filter", json={}, headers=token)
    assert answer.status_code == httpx.codes.UNAUTHORIZED


def test_the_login_opens_the_api_and_the_ui_asks_for_it(served: Served) -> None:
    """The UI's files hold nothing; what they show comes from the API."""
    with logged_in(served.api) as client:
        assert client.post("/flow_runs/filter", json={}).status_code == httpx.codes.OK
    page = httpx.get(served.url, follow_redirects=True)
    assert page.status_code == httpx.codes.OK
    assert "<script" in page.text
    told = httpx.get(f"{served.url}/ui-settings").json()
    assert (told["auth"], told["csrf_enabled"], told["api_url"]) == ("BASIC", True, served.api)
    assert httpx.get(f"{served.api}/health").json() is True


@pytest.mark.parametrize("host", ["evil.example", "evil.example:4200", "prefect", "127.0.0.1.evil.example", ""])
def test_a_host_that_is_not_ours_is_refused(served: Served, host: str) -> None:
    """Login or not: a page whose name leads to loopback reaches neither the API nor the UI."""
    user, _, password = served.login.partition(":")
    for path in ("/api/admin/version", "/api/health", "/"):
        answer = httpx.get(served.url + path, headers={"Host": host}, auth=(user, password))
        assert answer.status_code == httpx.codes.BAD_REQUEST
    assert httpx.get(f"{served.api}/health", headers={"Host": "localhost:1"}).status_code == httpx.codes.OK


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://127.0.0.1:1", "https://localhost"])
def test_a_page_of_another_origin_is_told_nothing(served: Served, origin: str) -> None:
    asks = {
        "Origin": origin,
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization",
    }
    before = httpx.options(f"{served.api}/flow_runs/", headers=asks)
    assert before.status_code == httpx.codes.BAD_REQUEST
    for answer in (before, httpx.get(f"{served.api}/health", headers={"Origin": origin})):
        assert "access-control-allow-origin" not in answer.headers
    for own in origins(served.url):
        answer = httpx.get(f"{served.api}/health", headers={"Origin": own})
        assert answer.headers["access-control-allow-origin"] == own


@pytest.mark.parametrize("path", ["events/in", "events/out", "logs/out", "task_runs/subscriptions/scheduled"])
@pytest.mark.parametrize("token", [None, "carwright:wrong"])
def test_a_socket_wants_the_login_too(served: Served, path: str, token: str | None) -> None:
    address = f"{served.api}/{path}".replace("http", "ws", 1)
    with connect(address, subprotocols=["prefect"]) as socket:  # type: ignore[list-item]
        socket.send(json.dumps({"type": "auth", "token": token}))
        with pytest.raises(ConnectionClosed):
            socket.recv(timeout=30)


def test_prefects_own_command_needs_the_login(served: Served, tmp_path: Path) -> None:
    def prefect(added: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
        environment = embedded.inherited() | embedded.prefect_environment(tmp_path) | added
        argv = [sys.executable, "-m", "prefect", "work-pool", "inspect", CPU]
        return subprocess.run(argv, env=environment, capture_output=True, text=True, check=False)

    known = client_of(served.api)
    assert CPU in prefect(known).stdout
    refused = prefect({"PREFECT_API_URL": served.api})
    assert refused.returncode != 0
    assert CPU not in refused.stdout
    said = subprocess.run(
        [sys.executable, "-m", "flows.cli.main", "run", "any/one"],
        env=embedded.inherited() | embedded.prefect_environment(tmp_path) | {"PREFECT_API_URL": served.api},
        capture_output=True,
        text=True,
        check=False,
    )
    assert said.returncode == BadInput.exit_code, said.stderr
    assert "PREFECT_API_AUTH_STRING" in said.stderr
    assert "Traceback" not in said.stderr


def test_the_login_is_in_its_file_alone(served: Served) -> None:
    """Not in the database or the logs of the server, and on no command line; and only its owner may read the file."""
    file = served.home / "prefect" / "login"
    assert file.stat().st_mode & 0o777 == 0o600
    secret = served.login.partition(":")[2].encode()
    found = [path for path in served.home.rglob("*") if path.is_file() and secret in path.read_bytes()]
    assert found == [file]
    lines = [path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline") if path.exists()]
    assert any(b"flows.orchestrator.prefect_server" in line for line in lines)
    assert not [line for line in lines if secret in line]
    told = logged_in(served.api).get("/admin/settings").text
    assert secret.decode() not in told


@pytest.mark.parametrize("content", ["", "no-password", ":x", "user:"])
def test_no_server_starts_without_a_login(tmp_path: Path, content: str) -> None:
    file = tmp_path / "login"
    file.write_text(content)
    with pytest.raises(BadInput):
        read_login(file)
    argv = [
        sys.executable,
        "-m",
        "flows.orchestrator.prefect_server",
        "--login",
        str(file),
        "--port",
        str(free_port()),
    ]
    ended = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=60)
    assert ended.returncode == BadInput.exit_code


def test_a_run_with_job_variables_is_refused(served: Served) -> None:
    """By the server, when it is made and when it is changed."""
    with logged_in(served.api) as client:
        for name, value in EVIL.items():
            path = f"/deployments/{served.deployment}"
            asked = {"state": {"type": "SCHEDULED"}, "job_variables": {name: value}}
            assert client.post(f"{path}/create_flow_run", json=asked).status_code == 422, name
        run = client.post(f"/deployments/{served.deployment}/create_flow_run", json={}).raise_for_status().json()
        changed = client.patch(f"/flow_runs/{run['id']}", json={"job_variables": {"image": "evil"}})
        assert changed.status_code == 422


def test_a_worker_passes_over_job_variables(served: Served) -> None:
    """Also over those that the server does not look at: of a run without a deployment, and of a deployment's change."""
    with logged_in(served.api) as client:
        asked = {"flow_id": served.flow, "work_pool_name": CPU, "job_variables": EVIL, "state": {"type": "SCHEDULED"}}
        run = client.post("/flow_runs/", json=asked).raise_for_status().json()["id"]
        plain = (
            client.post(f"/deployments/{served.deployment}/create_flow_run", json={}).raise_for_status().json()["id"]
        )
        without = _container(plain)
        client.patch(f"/deployments/{served.deployment}", json={"job_variables": EVIL}).raise_for_status()
        changed = _container(plain)
        client.patch(f"/deployments/{served.deployment}", json={"job_variables": {}}).raise_for_status()
    for one in (changed, without):
        del one["labels"]["io.prefect.deployment-updated"]
    assert changed == without
    container = _container(run)
    assert container["image"] == "localhost/carwright/flow:latest"
    assert container["command"] == "python -m infra.with_login prefect flow-run execute"
    assert (
        container["volumes"] == Host(project="p", socket_group=998).template(POOLS[0])["job_configuration"]["volumes"]
    )
    assert (container["network"], container["network_mode"]) == ("p", None)
    assert (container["privileged"], container["group_add"]) == (False, ["998"])
    assert (container["user"], container["read_only"], container["cap_drop"]) == ("1001:0", True, ["ALL"])
    assert not {"pid_mode", "devices", "cap_add"} & set(container)
    own = {"PREFECT__FLOW_RUN_ID"}
    differs = {
        name for name in container["environment"] if container["environment"][name] != without["environment"].get(name)
    }
    assert differs <= own
    assert "evil" not in json.dumps(container["environment"])
    assert container["environment"]["SITE"] == "here"
    assert served.login not in json.dumps(container)
    assert "PREFECT_API_AUTH_STRING" not in container["environment"]


def _container(run: str) -> dict[str, Any]:
    """What Prefect's docker worker would ask the engine for."""
    import asyncio

    from prefect.client.orchestration import get_client
    from prefect_docker.worker import DockerWorker, DockerWorkerJobConfiguration

    async def resolve() -> DockerWorkerJobConfiguration:
        async with get_client() as client:
            pool = await client.read_work_pool(CPU)
            found = await client.read_flow_run(run)  # type: ignore[arg-type]
            return await DockerWorkerJobConfiguration.resolve_for_flow_run(
                found, client=client, work_pool=pool, worker_name="w"
            )

    configuration = asyncio.run(resolve())
    engine: Any = SimpleNamespace(version=lambda: {"Version": "20.10.24"})
    return DockerWorker(CPU, test_mode=True)._build_container_settings(engine, configuration)
