"""The files under tests/golden/targets, read by the tools that they are for: Compose's parser and Docker's client.

podman's generator reads the Quadlet units in test_quadlet.py, and podman itself runs what is rendered in test_podman.py.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from containers.process import ProcessFailed, inherited, run
from tests.support.deployments import DEMO, GOLDEN, LARGE

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.integration

SMALL = GOLDEN / "demo" / "smollm2-135m-fp8"  # without the endings of its files
EIGHT = GOLDEN / "llama-3.3-70b" / "llama-3-3-70b-instruct-fp8-dynamic"
BOTH = pytest.mark.parametrize(
    ("path", "model", "gpus", "shared"),
    [(SMALL, f"{DEMO}@sha256:{'4' * 64}", 0, 2 << 30), (EIGHT, f"{LARGE}@sha256:{'7' * 64}", 8, 16 << 30)],
    ids=["demo", "70b"],
)


def compose(file: Path) -> dict[str, Any]:
    """The services as Compose, v2 or v1, understands them."""
    v2 = subprocess.run(["docker", "compose", "version"], capture_output=True, check=False).returncode == 0
    command = ["docker", "compose"] if v2 else ["docker-compose"]
    said = run([*command, "--file", str(file), "config"], env=inherited("DOCKER_"), cwd=file.parent).stdout
    return yaml.safe_load(said)["services"]


def size(value: str | int) -> int:
    """Bytes, as v1 (16g) and v2 (a number) write them."""
    text = str(value)
    return int(text[:-1]) << 30 if text.endswith("g") else int(text)


@BOTH
def test_compose_reads_the_services_as_they_were_meant(path: Path, model: str, gpus: int, shared: int) -> None:
    services = compose(path.with_suffix(".compose.yaml"))
    assert services.keys() == {"model", "vllm"}
    assert services["model"]["image"] == model
    assert services["model"]["network_mode"] == "none"
    vllm = services["vllm"]
    assert vllm["pid"] == "service:model"
    assert vllm["command"][0] == "--model=/proc/1/root/models"
    assert size(vllm["shm_size"]) == shared
    devices = vllm.get("deploy", {}).get("resources", {}).get("reservations", {}).get("devices", [])
    assert sum(one["count"] for one in devices) == gpus
    assert "127.0.0.1" in str(vllm["ports"])


def test_a_field_that_compose_does_not_know_is_noticed(tmp_path: Path) -> None:
    """The check can fail."""
    file = tmp_path / "x.compose.yaml"
    file.write_text(EIGHT.with_suffix(".compose.yaml").read_text().replace("shm_size", "shm_sice"))
    with pytest.raises(ProcessFailed, match="shm_sice"):
        compose(file)


@dataclass
class Engine:
    """As much of an engine's API as `docker run --detach` asks of it; `asked` has each container by its name."""

    asked: dict[str, dict[str, Any]] = field(default_factory=dict)
    started: list[str] = field(default_factory=list)
    port: int = 0


@pytest.fixture
def engine() -> Iterator[Engine]:
    there = Engine()

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self._answer(200, b"")

        def do_GET(self) -> None:
            self._answer(200, b"OK" if self.path.endswith("/_ping") else b"{}")

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if "/containers/create" in self.path:
                name = self.path.partition("name=")[2].partition("&")[0]
                there.asked[name] = json.loads(body)
                self._answer(201, json.dumps({"Id": name, "Warnings": []}).encode())
                return
            if self.path.endswith("/start"):
                there.started.append(self.path.split("/")[-2])
            self._answer(204, b"")

        def _answer(self, status: int, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Api-Version", "1.41")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        there.port = server.server_port
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield there
        server.shutdown()


def play(script: Path, engine: Engine) -> subprocess.CompletedProcess[str]:
    assert shutil.which("docker"), "install Docker's client"
    environment = {"PATH": os.environ["PATH"], "DOCKER_HOST": f"tcp://127.0.0.1:{engine.port}"}
    return subprocess.run(["sh", str(script)], env=environment, capture_output=True, text=True, check=False)


@BOTH
def test_docker_asks_the_engine_for_what_was_meant(
    engine: Engine, path: Path, model: str, gpus: int, shared: int
) -> None:
    """What its client makes of the script's options."""
    done = play(path.with_suffix(".docker.sh"), engine)
    assert done.returncode == 0, done.stderr
    assert engine.started == list(engine.asked) == [f"{path.name}-model", path.name]
    beside, vllm = engine.asked.values()
    assert (beside["Image"], beside["Cmd"]) == (model, ["sleep", "infinity"])
    assert beside["HostConfig"]["NetworkMode"] == "none"
    assert beside["User"] == vllm["User"] == "1001:0"
    assert vllm["HostConfig"]["PidMode"] == f"container:{path.name}-model"
    assert vllm["HostConfig"]["ShmSize"] == shared
    assert sum(one["Count"] for one in vllm["HostConfig"]["DeviceRequests"] or []) == gpus
    assert vllm["HostConfig"]["PortBindings"] == {"8000/tcp": [{"HostIp": "127.0.0.1", "HostPort": "8000"}]}
    assert vllm["HostConfig"]["RestartPolicy"]["Name"] == "unless-stopped"
    assert vllm["Entrypoint"] == ["python3"]
    assert vllm["Cmd"][:3] == ["-m", "vllm.entrypoints.openai.api_server", "--model=/proc/1/root/models"]
    assert "HF_HUB_OFFLINE=1" in vllm["Env"]


def test_an_option_that_docker_does_not_know_is_noticed(engine: Engine, tmp_path: Path) -> None:
    """The check can fail."""
    script = tmp_path / "x.sh"
    script.write_text(EIGHT.with_suffix(".docker.sh").read_text().replace("--shm-size", "--shm-sice"))
    done = play(script, engine)
    assert done.returncode != 0
    assert "unknown flag: --shm-sice" in done.stderr
