"""The services of the dry run, brought up from infra/compose.yaml by pytest-docker: what they offer, to whom, and as whom."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from pydantic import SecretStr

from containers.contract import StoreLocation
from containers.errors import Error
from containers.settings import StoreSettings
from containers.store import Store
from flows.local.dry_run.site import Site
from infra.credentials import KEY_ID, SECRET
from infra.hardening import PIDS
from tests.support.dry_run_world import docker, need_images, until
from tests.support.ports import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.integration

SERVICES = ("objectstore", "registry", "hub")
FLOW = Site.read().image("flow")  # now: the variables of this machine do not reach a test
PROJECT = f"compose-{secrets.token_hex(4)}"
PORTS = {f"CARWRIGHT_{name}": str(free_port()) for name in ("PORT", "REGISTRY_PORT", "STORE_PORT")}


@pytest.fixture(scope="session")
def docker_compose_command() -> str:
    v2 = subprocess.run(["docker", "compose", "version"], capture_output=True, check=False).returncode == 0
    return "docker compose" if v2 else "docker-compose"


@pytest.fixture(scope="session")
def docker_compose_project_name() -> str:
    return PROJECT


@pytest.fixture(scope="session")
def docker_compose_file(root: Path) -> str:
    return str(root / "infra" / "compose.yaml")


@pytest.fixture(scope="session")
def docker_setup() -> list[str]:
    """v1.29 knows no --wait: the tests wait themselves."""
    need_images("flow", *SERVICES)
    os.environ.update(PORTS | {"CARWRIGHT_PROJECT": PROJECT})
    return [f"up --no-build -d keys {' '.join(SERVICES)}"]


@pytest.fixture(scope="session")
def services(docker_services: Any) -> Iterator[dict[str, Any]]:
    """What the engine says about each service, once all are healthy."""

    def look() -> dict[str, Any]:
        found = docker("ps", "-aq", "--filter", f"label=com.docker.compose.project={PROJECT}").split()
        inspected = json.loads(docker("inspect", *found))
        return {each["Config"]["Labels"]["com.docker.compose.service"]: each for each in inspected}

    assert until(lambda: all(look()[name]["State"]["Health"]["Status"] == "healthy" for name in SERVICES), 120)
    yield look()
    os.environ.update(PORTS | {"CARWRIGHT_PROJECT": PROJECT})  # for the end, which pytest-docker brings about


def test_only_loopback_is_published_and_nobody_is_root(services: dict[str, Any]) -> None:
    for name in SERVICES:
        bindings = services[name]["HostConfig"]["PortBindings"] or {}
        assert {binding["HostIp"] for each in bindings.values() for binding in each} <= {"127.0.0.1"}
        assert services[name]["Config"]["User"].partition(":")[0] == "1001"
        host = services[name]["HostConfig"]
        assert (host["ReadonlyRootfs"], host["CapDrop"]) == (True, ["ALL"])
        assert (host["PidsLimit"], host["SecurityOpt"]) == (PIDS, ["no-new-privileges:true"])
        assert "docker.sock" not in json.dumps(services[name]["HostConfig"])
    assert not services["hub"]["HostConfig"]["PortBindings"]


def test_the_store_takes_the_generated_keys_and_no_others(services: dict[str, Any]) -> None:
    """They are in the volume alone: the engine's description of the containers does not show them."""
    keys = {name: _read(f"/keys/{name}") for name in (KEY_ID, SECRET)}
    assert not [key for key in keys.values() if key in json.dumps(services)]
    endpoint = f"http://127.0.0.1:{PORTS['CARWRIGHT_STORE_PORT']}"
    store = _open(endpoint, keys[KEY_ID], keys[SECRET])
    digest = store.put_bytes(b"a blob")
    assert store.read_bytes(digest) == b"a blob"
    with pytest.raises(Error):
        _open(endpoint, keys[KEY_ID], "0" * 40).put_bytes(b"another")


def _read(path: str) -> str:
    volume = ["--volume", f"{PROJECT}-secrets:/keys:ro", "--network=none"]
    program = ["--entrypoint=python", FLOW, "-c", f"print(open({path!r}).read())"]
    return docker("run", "--rm", *volume, *program).strip()


def _open(endpoint: str, key: str, secret: str) -> Store:
    settings = StoreSettings(endpoint=endpoint, access_key_id=SecretStr(key), secret_access_key=SecretStr(secret))
    return Store.open(StoreLocation(endpoint=endpoint), settings)


def test_the_registry_answers_on_loopback(services: dict[str, Any]) -> None:
    host = f"http://127.0.0.1:{PORTS['CARWRIGHT_REGISTRY_PORT']}"
    assert httpx.get(f"{host}/v2/").status_code == 200
    assert httpx.get(f"{host}/v2/_catalog").json() == {"repositories": []}


def test_the_hub_gives_the_demo_model_to_its_network(services: dict[str, Any]) -> None:
    """By its name and from its second port, to where it sends those who want a large file."""
    look = "import urllib.request as r; print(r.urlopen(r.Request(URL, headers={'Range': 'bytes=0-7'})).url)"
    url = "http://hub:8080/HuggingFaceTB/SmolLM2-135M-Instruct/resolve/main/model.safetensors"
    network = f"--network={PROJECT}"
    said = docker("run", "--rm", network, "--entrypoint=python", FLOW, "-c", look.replace("URL", repr(url)))
    assert said.startswith("http://hub:8081/")


def test_a_gpu_host_is_one_valid_override(root: Path, docker_compose_command: str) -> None:
    """Compose reads it with the three variables that it asks for, and names the first that is missing."""
    given = {
        "CARWRIGHT_API": "http://prefect.example:4200/api",
        "CARWRIGHT_GID": "999",
        "CARWRIGHT_SECRETS": "/etc/carwright/secrets",
    }
    command = [*docker_compose_command.split(), "-f", str(root / "infra" / "compose.gpu.yaml"), "config"]
    read = subprocess.run(command, env=os.environ | given, capture_output=True, text=True, check=False)
    assert read.returncode == 0, read.stderr
    assert "carwright-gpu" in read.stdout
    unset = subprocess.run(
        command, env=os.environ | given | {"CARWRIGHT_API": ""}, capture_output=True, text=True, check=False
    )
    assert unset.returncode != 0
    assert "URL of the Prefect API" in unset.stderr
