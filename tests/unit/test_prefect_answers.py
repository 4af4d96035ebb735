"""What commands make of a Prefect server in trouble, and of something that answers in its place."""

from __future__ import annotations

import asyncio
import http.server
import json
import os
import socket
import threading
from contextlib import contextmanager
from datetime import timedelta
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import httpx
import pytest
from prefect.exceptions import ObjectNotFound
from prefect.server.concurrency.lease_storage.filesystem import ConcurrencyLeaseStorage
from prefect.settings import PREFECT_API_URL, PREFECT_CLIENT_MAX_RETRIES, PREFECT_HOME, temporary_settings
from prefect.states import Failed

from containers.contract import Step, StepRequest
from containers.errors import BadInput, NotReady, StepFailed, Temporary
from flows.orchestrator import child_runs, follow, run_artifacts
from flows.orchestrator.child_runs import ChildRun, check_server, find_deployment
from flows.orchestrator.child_runs import api as client_of
from flows.orchestrator.failure import Failure
from flows.orchestrator.follow import FollowedRun, start
from flows.orchestrator.prefect_server import free_leases
from flows.orchestrator.run_artifacts import write_failure
from flows.orchestrator.single_flight import one_at_a_time
from infra.settings import Settings
from tests.support.ports import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PAGE = b"<html><body>Please log in.</body></html>"


@contextmanager
def answering(status: int, content: bytes) -> Iterator[None]:
    """A server that answers everything but the health check in one way."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            healthy = self.path.endswith("/health") and content != PAGE
            self.send_response(200 if healthy else status)
            self.end_headers()
            self.wfile.write(b"true" if healthy else content)

        def do_POST(self) -> None:
            self.do_GET()

        def log_message(self, *_: object) -> None: ...

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/api"
        with temporary_settings({PREFECT_API_URL: url, PREFECT_CLIENT_MAX_RETRIES: 0}):
            yield
        server.shutdown()


@pytest.mark.parametrize("status", [500, 502, 503, 429])
def test_a_server_in_trouble_is_no_bug_of_ours(status: int) -> None:
    with answering(status, b"not now"), pytest.raises(NotReady, match=f"answers {status}"), client_of() as client:
        find_deployment(client, "quantize-and-ship/local")


def test_a_page_in_the_server_s_place_is_told() -> None:
    """It was taken for a server that lacks the deployment."""
    with answering(200, PAGE):
        with pytest.raises(NotReady, match="is not the Prefect server"):
            check_server()
        with pytest.raises(NotReady, match="is not the Prefect server"), client_of() as client:
            find_deployment(client, "quantize-and-ship/local")
        with pytest.raises(NotReady, match="is not the Prefect server"):
            start("quantize-and-ship/local", {}, lambda name, event: None)


@pytest.mark.parametrize("name", ["local", "quantize-and-ship/local/now"])
def test_a_name_without_its_one_slash_is_no_deployment(name: str) -> None:
    with answering(200, b"{}"), client_of() as client, pytest.raises(BadInput, match=f"no deployment '{name}'"):
        find_deployment(client, name)


def test_a_run_that_was_deleted_is_told() -> None:
    with answering(404, b"{}"), pytest.raises(Temporary, match="the run was deleted"):
        FollowedRun(uuid4(), "pool", lambda name, event: None).wait()


def test_a_child_run_that_was_deleted_is_told_and_ended() -> None:
    sent: list[str] = []
    heartbeat: Any = SimpleNamespace(send=sent.append, stop=lambda: sent.append("stop"))
    nothing: Any = None
    child = ChildRun(uuid4(), "key", "quantize", "pool", nothing, nothing, heartbeat, lambda event: None)
    with answering(404, b"{}"), pytest.raises(StepFailed, match="was deleted") as caught:
        child.poll()
    assert (caught.value.exit_code, caught.value.temporary, sent) == (75, True, ["end", "stop"])


def test_a_child_run_is_not_started_while_the_server_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server goes away between the look at the pool and the start."""

    def away(*_: Any, **__: Any) -> None:
        raise httpx.ConnectError("refused")

    monkeypatch.setattr(child_runs, "_pool_of", lambda deployment: "pool")
    monkeypatch.setattr(child_runs, "check_pool", lambda *_: None)
    monkeypatch.setattr(child_runs, "Heartbeat", lambda *_: SimpleNamespace(start=lambda: None, stop=lambda: None))
    monkeypatch.setattr(child_runs, "run_deployment", away)
    request = StepRequest(step=Step.QUANTIZE, run="r", parameters={})
    nothing: Any = None
    with pytest.raises(NotReady, match="cannot be reached"):
        child_runs.Children(nothing, Settings()).start("run-step/gpu", request, "quantize", lambda event: None)


class LateTaskRuns:
    """A server whose first log line of a task comes before the task run itself."""

    def __init__(self) -> None:
        self.asked = 0

    def read_task_run(self, task_run: Any) -> Any:
        self.asked += 1
        if self.asked == 1:
            raise ObjectNotFound(http_exc=Exception(task_run))
        return type("TaskRun", (), {"name": "push to somewhere"})


def test_a_log_line_may_come_before_its_task_run() -> None:
    run, client, task_run = FollowedRun(uuid4(), "pool", lambda name, event: None), LateTaskRuns(), uuid4()
    assert [run._task(client, task_run) for _ in range(3)] == ["run", "push", "push"]
    assert client.asked == 2


def test_a_run_without_a_live_worker_is_missed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody may be left to say how it ends, and following it must not look as if all were well."""
    said: list[str] = []
    monkeypatch.setattr(follow, "pool_problem", lambda pool: f"the work pool {pool} has no live worker (1 registered)")
    run = FollowedRun(uuid4(), "gpu", lambda name, event: said.append(event.message))
    run._state = "Running"
    run._miss_worker()
    run._miss_worker()
    assert said == [
        "the work pool gpu has no live worker (1 registered): if the run died with its worker, its state here stays Running"
    ]


def test_an_artifact_is_not_made_while_the_server_is_away() -> None:
    with (
        temporary_settings({PREFECT_API_URL: f"http://127.0.0.1:{free_port()}/api", PREFECT_CLIENT_MAX_RETRIES: 0}),
        pytest.raises(NotReady, match="cannot be reached"),
        one_at_a_time("a", lambda text: None),
    ):
        pytest.fail("the block must not run")


@pytest.mark.parametrize("status", [503, None])
def test_an_artifact_is_not_made_while_its_slot_cannot_be_had(status: int | None) -> None:
    """The server goes away, or gets into trouble, between the limit and its slot: Prefect wraps what httpx says of that."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_error(404)  # it gives no tokens against forged requests

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if status is None and "increment" in self.path:
                self.connection.shutdown(socket.SHUT_RDWR)
                return
            content = b"not now" if "increment" in self.path else json.dumps({"id": str(uuid4())}).encode()
            self.send_response(status if status and "increment" in self.path else 201)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None: ...

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/api"
        with (
            temporary_settings({PREFECT_API_URL: url, PREFECT_CLIENT_MAX_RETRIES: 0}),
            pytest.raises(NotReady, match=f"answers {status}" if status else "cannot be reached"),
            one_at_a_time(f"slot-{status}", lambda text: None),
        ):
            pytest.fail("the block must not run")
        server.shutdown()


def test_a_lock_that_a_killed_server_left_does_not_stop_the_next_one(tmp_path: Path) -> None:
    """In a container both have the same process id, by which Prefect tells whether its owner is alive."""
    with temporary_settings({PREFECT_HOME: tmp_path}):
        free_leases()
        lock = tmp_path / "concurrency_leases" / "expirations.lock"
        lock.parent.mkdir()
        lock.write_text(str(os.getpid()))
        free_leases()
        lease = asyncio.run(
            asyncio.wait_for(ConcurrencyLeaseStorage().create_lease([uuid4()], timedelta(seconds=60)), 10)
        )
    assert (tmp_path / "concurrency_leases" / f"{lease.id}.json").exists()
    assert not lock.exists()


def test_a_run_that_loses_the_server_fails_for_a_while_and_not_by_a_bug(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Any] = []

    @contextmanager
    def client(**_: Any) -> Iterator[Any]:
        yield type("Client", (), {"create_artifact": staticmethod(made.append)})

    monkeypatch.setattr(run_artifacts, "get_client", client)
    run: Any = type("Run", (), {"id": uuid4()})
    state: Any = Failed(data=httpx.ConnectError("All connection attempts failed"))
    write_failure(None, run, state)  # type: ignore[arg-type]
    request = httpx.Request("POST", "http://127.0.0.1:9/api/artifacts/")
    busy, refused = (
        httpx.HTTPStatusError("told", request=request, response=httpx.Response(status, request=request))
        for status in (503, 422)
    )
    write_failure(None, run, Failed(data=busy))  # type: ignore[arg-type]
    failures = [Failure.model_validate_json(one.data) for one in made]
    assert [failure.exit_code for failure in failures] == [75, 75]
    assert failures[0].message == "the Prefect server cannot be reached: All connection attempts failed"
    assert failures[1].message.endswith(" answers 503")
    for bug in (RuntimeError("a bug"), refused):
        write_failure(None, run, Failed(data=bug))  # type: ignore[arg-type]
    assert len(made) == 2
