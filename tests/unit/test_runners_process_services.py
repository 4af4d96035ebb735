"""Services as processes: found when they serve, ended when nobody owns them, kept when that was asked for."""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from containers.contract import Step, StepRequest
from containers.errors import StepFailed
from containers.parameters import ServeParameters
from containers.process import start_time
from flows.runners.process import services as process_services
from flows.runners.process.services import ProcessServices, _Followed
from flows.runners.step_protocol import LOG
from infra.environments.environment import Environment
from infra.settings import Settings
from tests.support.processes import descendants
from tests.support.waiting import until

# A stand-in for the serve step, with its contract: result when ready, health check, an end on SIGTERM or lease expiry. It is
# ready when its line has reached its log: what a step says when it has its result, nobody waits for.
_SERVE = f"""#!{sys.executable}
import http.server, json, os, sys, threading, time
request = json.load(open(sys.argv[sys.argv.index("--request") + 1]))
result = sys.argv[sys.argv.index("--result") + 1]
if request["parameters"]["served_model_name"] == "broken":
    print(json.dumps({{"event": "error", "message": "no such architecture", "exit_code": 2}}), file=sys.stderr)
    sys.exit(2)
if request["options"]["stage"] == "fetch":
    open(result, "w").write(json.dumps({{"step": "serve"}}))
    open(os.path.join(os.path.dirname(result), "environment"), "w").write(json.dumps(dict(os.environ)))
    sys.exit(0)
if request["options"]["stage"] == "compare":
    if "changed" in request["options"]["files"]:
        print(json.dumps({{"event": "error", "message": "changed is not what was signed", "exit_code": 5}}), file=sys.stderr)
        sys.exit(5)
    open(result, "w").write(json.dumps({{"step": "serve"}}))
    sys.exit(0)
class Health(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers()
    def log_message(self, *_): pass
http.server.HTTPServer.allow_reuse_port = True
server = http.server.HTTPServer(("127.0.0.1", 0), Health)
threading.Thread(target=server.serve_forever, daemon=True).start()
if request["parameters"]["served_model_name"] == "talks":
    for _ in range(17):
        print("x" * (1 << 20), flush=True)
print(json.dumps({{"event": "log", "message": "loading"}}), file=sys.stderr, flush=True)
while "loading" not in open(os.path.join(os.path.dirname(result), "{LOG}")).read():
    time.sleep(0.01)
values = {{"url": f"http://127.0.0.1:{{server.server_port}}/v1", "served_model_name": "m", "engine": "test"}}
open(result + ".part", "w").write(json.dumps({{"step": "serve", "values": values}}))
os.rename(result + ".part", result)
if request["parameters"]["served_model_name"] == "dies":
    while not os.path.exists(result + ".die"):
        time.sleep(0.01)
    print(json.dumps({{"event": "error", "message": "CUDA out of memory", "remedy": "less", "exit_code": 75}}), file=sys.stderr)
    sys.exit(75)
time.sleep(60)
"""


@pytest.fixture
def services(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ProcessServices:
    environment = Environment(folder=tmp_path / "env", modules=tmp_path)
    environment.python.parent.mkdir(parents=True)
    environment.python.write_text(_SERVE)
    environment.python.chmod(0o755)
    monkeypatch.setattr(process_services, "prepare", lambda *_: environment)
    return ProcessServices(Settings(home=tmp_path / "home", cache=tmp_path / "cache"))


def _request(name: str = "m") -> StepRequest:
    return StepRequest(step=Step.SERVE, run="r", parameters=ServeParameters(served_model_name=name).dump())


def _state(services: ProcessServices) -> dict[str, object]:
    (path,) = services.folder.glob("*.json")
    return json.loads(path.read_text())


def _until_gone(pid: int) -> None:
    until(lambda: start_time(pid) is None, "the service has ended")


def _scratch(services: ProcessServices) -> list[Path]:
    return list(services.settings.home.glob("runs/*/*/scratch"))


def test_started_found_and_ended(services: ProcessServices) -> None:
    heard: list[str] = []
    first = services.start(_request(), lambda event: heard.append(event.message))
    second = services.start(_request(), lambda _: None)
    pid = int(str(_state(services)["pid"]))
    assert (first.found, second.found) == (False, True)
    assert first.endpoint == second.endpoint
    assert "loading" in heard
    first.end()
    _until_gone(pid)
    assert not list(services.folder.iterdir())
    assert not _scratch(services)
    second.end()


def test_what_it_says_after_its_log_was_rotated_is_heard(services: ProcessServices) -> None:
    """Which begins a new file after 16 MiB, as those of vLLM reach while it loads for long."""
    heard: list[str] = []
    lease = services.start(_request("talks"), lambda event: heard.append(event.message))
    assert list(services.settings.home.glob(f"runs/*/*/{LOG}.1"))
    assert heard[-1] == "loading"
    lease.end()


def test_a_log_that_is_renamed_again_while_it_is_opened_is_read_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "log"
    log.write_text("one\n")

    def renamed_meanwhile(*_: object) -> bool:
        log.rename(tmp_path / "log.1")
        return False

    with _Followed(log) as followed:
        with monkeypatch.context() as patch:
            patch.setattr("os.path.samestat", renamed_meanwhile)
            assert followed.lines() == ["one"]
        with (tmp_path / "log.1").open("a") as file:
            file.write("two\n")
        log.write_text("three\n")
        assert followed.lines() == ["two", "three"]


def test_one_that_is_found_is_compared_under_a_policy(services: ProcessServices) -> None:
    """By a step of its own, without secrets; where its files are not what was signed it is not said to serve."""
    first = services.start(_request(), lambda _: None)

    def under_a_policy(**files: str) -> StepRequest:
        return _request().model_copy(update={"options": {"policy": "{}", "files": files}})

    found = services.start(under_a_policy(whole="sha256:" + "0" * 64), lambda _: None)
    assert found.found
    assert found.endpoint == first.endpoint
    found._renewal.stop()
    with pytest.raises(StepFailed, match="changed is not what was signed") as caught:
        services.start(under_a_policy(changed="sha256:" + "0" * 64), lambda _: None)
    assert caught.value.exit_code == 5
    assert first.serves
    first.end()


def test_what_serves_has_no_secret(services: ProcessServices) -> None:
    """Not in the environment of any of its processes, as the kernel shows it; what fetched the model had them."""
    store = {"endpoint": "http://127.0.0.1:1", "access_key_id": "canary-id", "secret_access_key": "canary-key"}
    registry = {"username": "canary-user", "password": "canary-password"}
    given = Settings(
        home=services.settings.home,
        cache=services.settings.cache,
        store=store,
        registry=registry,
        hub_token="canary-hub",
    )
    lease = ProcessServices(given).start(_request(), lambda _: None)
    supervisor = int(str(_state(services)["pid"]))
    started = [supervisor, *descendants(supervisor)]
    assert len(started) > 1
    for pid in started:
        assert b"canary" not in Path(f"/proc/{pid}/environ").read_bytes()
    lease.end()
    (fetched,) = services.settings.home.rglob("environment")
    assert "canary-key" in fetched.read_text()
    served = [path.parent for path in services.settings.home.rglob("request.json") if path.parent != fetched.parent]
    assert not [file for folder in served for file in folder.glob("*.json*") if "canary" in file.read_text()]


def test_nobody_else_gets_the_port_of_a_server_that_ended(services: ProcessServices) -> None:
    """Who measures may still ask there: an answer by somebody else's program would be a forgery."""
    lease = services.start(_request(), lambda _: None)
    pid = int(str(_state(services)["pid"]))
    os.kill(pid, signal.SIGTERM)
    _until_gone(pid)
    port = urlsplit(lease.endpoint.url).port
    with socket.socket() as thief:
        thief.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with pytest.raises(OSError, match="in use"):
            thief.bind(("127.0.0.1", port))
    lease.end()
    with socket.socket() as later:
        later.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        later.bind(("127.0.0.1", port))


def test_a_service_that_fails_says_why_and_leaves_nothing(services: ProcessServices) -> None:
    with pytest.raises(StepFailed, match="no such architecture") as caught:
        services.start(_request("broken"), lambda _: None)
    assert caught.value.exit_code == 2
    assert not list(services.folder.iterdir())
    assert not _scratch(services)


def test_what_is_kept_survives_until_it_is_stopped_by_name(services: ProcessServices) -> None:
    lease = services.start(_request(), lambda _: None, keep=True)
    lease.keep()
    assert services.stop_all() == []
    assert _state(services)["keep"]
    pid = int(str(_state(services)["pid"]))
    assert services.stop_all(kept=True) == [lease.endpoint.url]
    _until_gone(pid)


def test_what_a_dead_run_left_is_stopped(services: ProcessServices) -> None:
    lease = services.start(_request(), lambda _: None, keep=True)
    (path,) = services.folder.glob("*.json")
    path.write_text(json.dumps(_state(services) | {"owner_started": "long ago"}))
    assert services.stop_all() == [lease.endpoint.url]
    lease.end()


def test_a_lease_is_renewed_while_it_is_held(services: ProcessServices, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process_services, "LEASE_INTERVAL", 0.05)
    lease = services.start(_request(), lambda _: None)
    (path,) = services.folder.glob("*.lease")
    os.utime(path, (0, 0))
    until(lambda: path.stat().st_mtime > 0, "the lease is renewed")
    lease.end()


def test_a_service_that_ends_by_itself_says_why(services: ProcessServices) -> None:
    lease = services.start(_request("dies"), lambda _: None)
    assert (lease.serves, lease.why_ended()) == (True, None)
    for folder in (services.settings.home / "runs" / "r").glob("serve-*"):
        (folder / "result.json.die").touch()
    until(lambda: not lease.serves, "the service has ended")
    error = lease.why_ended()
    assert isinstance(error, StepFailed)
    assert (error.message, error.exit_code, error.temporary) == ("CUDA out of memory", 75, True)
    assert LOG in error.remedy
    lease.end()


def test_one_that_another_run_started_and_that_is_killed_says_nothing(services: ProcessServices) -> None:
    first = services.start(_request(), lambda _: None)
    second = services.start(_request(), lambda _: None)
    first.end()
    assert second.why_ended() is None
    second.end()
