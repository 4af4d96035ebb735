"""An engine that restarts, or a proxy in front of it, loses calls: what is asked again, and what the others become."""

from __future__ import annotations

import base64
import http.server
import io
import json
import socketserver
import tarfile
import threading
import time
from typing import TYPE_CHECKING

import pytest
from urllib3 import HTTPConnectionPool, HTTPResponse
from urllib3.connection import HTTPConnection
from urllib3.exceptions import NewConnectionError, SSLError

from containers.errors import BadInput, Temporary
from infra.container_engine import Container, Spec, connect, session
from infra.settings import DockerSettings
from tests.support.fault_proxy import Fault
from tests.support.socket_proxy import SocketProxy

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from infra.container_engine import ContainerEngine

CONTENT = b"a result"


def _tar() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        info = tarfile.TarInfo("result.json")
        info.size = len(CONTENT)
        archive.addfile(info, io.BytesIO(CONTENT))
    return buffer.getvalue()


class Engine(http.server.BaseHTTPRequestHandler):
    """The few calls of Docker's API that the tests make; `got` are those that arrived."""

    got: list[str]

    def do_GET(self) -> None:
        if self.path.endswith("/version"):
            self._answer(200, json.dumps({"ApiVersion": "1.44", "Components": []}).encode())
        elif "/archive" in self.path:
            about = base64.b64encode(json.dumps({"mtime": "2026-01-01T00:00:00Z"}).encode()).decode()
            self._answer(200, _tar(), ("X-Docker-Container-Path-Stat", about))
        else:
            self._answer(200, b"[]")

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self._answer(201, b'{"Id": "1"}')

    def do_PUT(self) -> None:
        self.do_POST()

    def do_DELETE(self) -> None:
        self._answer(204, b"")

    def _answer(self, status: int, body: bytes, *headers: tuple[str, str]) -> None:
        self.got.append(f"{self.command} {self.path.partition('/v1.44')[2].partition('?')[0]}")
        self.send_response(status)
        for name, value in (*headers, ("Content-Type", "application/json"), ("Content-Length", str(len(body)))):
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def proxy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SocketProxy]:
    monkeypatch.setattr(session._RETRIES, "backoff_factor", 0)
    Engine.got = []
    with socketserver.ThreadingUnixStreamServer(str(tmp_path / "engine"), Engine) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        with SocketProxy(tmp_path / "proxy", tmp_path / "engine") as proxy:
            yield proxy
        server.shutdown()


@pytest.fixture
def engine(proxy: SocketProxy) -> Iterator[ContainerEngine]:
    with connect(DockerSettings(host=proxy.url)) as engine:
        yield engine


def container(engine: ContainerEngine) -> Container:
    return Container(engine.api, "1", "one", {})


@pytest.mark.parametrize("kind", ["reset", "lost", "cut", "500"])
def test_what_only_looks_or_removes_is_asked_again(proxy: SocketProxy, engine: ContainerEngine, kind: str) -> None:
    for ask in (engine.containers, lambda: engine.remove("one"), lambda: container(engine).touch("/run/x", 1.0)):
        proxy.arm(Fault(kind, 0, 1))
        ask()
        assert proxy.hit
    proxy.arm(Fault(kind, 0, 1))
    assert container(engine).read("/run/result.json") == CONTENT
    proxy.arm(Fault(kind, 0, 1))
    assert container(engine).modified("/run/result.json") == 1767225600


def test_a_web_page_is_no_answer(proxy: SocketProxy, engine: ContainerEngine) -> None:
    """Neither where the answer is read nor where its status alone would do: a container that never started is waited for."""
    for ask in (engine.containers, container(engine).start, lambda: container(engine).read("/run/x")):
        proxy.arm(Fault("page", 0, 9))
        with pytest.raises(Temporary, match="stopped answering"):
            ask()


def test_the_engine_s_own_trouble_is_temporary_and_leaves_no_container(
    proxy: SocketProxy, engine: ContainerEngine
) -> None:
    proxy.arm(Fault("500", 0, 1))
    with pytest.raises(Temporary, match="the container engine failed to make a container of image: not now"):
        engine.create(Spec("one", "image", (), {}))
    assert Engine.got[-1] == "DELETE /containers/one"


def test_a_container_that_could_not_be_stopped_is_removed(proxy: SocketProxy, engine: ContainerEngine) -> None:
    proxy.arm(Fault("lost", 0, 1))
    engine.end("one")
    assert Engine.got[-2:] == ["POST /containers/one/stop", "DELETE /containers/one"]


def test_an_engine_that_ends_takes_its_socket_along(proxy: SocketProxy, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which is no lack of an engine, unless none was ever there."""
    settings = DockerSettings(host=proxy.url)
    with connect(settings):
        pass
    proxy.leave()
    with pytest.raises(Temporary, match="does not answer"), connect(settings):
        pass
    elsewhere = DockerSettings(host=f"{proxy.url}-of-nobody")
    with pytest.raises(BadInput, match="there is no container engine"), connect(elsewhere):
        pass
    monkeypatch.setattr(session._Retries, "sleep", lambda *_: proxy.listen())  # it is back when it is asked again
    with connect(settings) as engine:
        assert engine.containers() == []


def test_what_may_not_be_done_twice_is_not_done_again_after_tls_broke_off() -> None:
    """The engine may have got it: urllib3 repeats any call after an error of TLS."""
    lost, pool = SSLError("EOF occurred in violation of protocol"), HTTPConnectionPool("engine")
    refused = NewConnectionError(HTTPConnection("engine"), "refused")
    assert session._RETRIES.increment("GET", "/containers/json", error=lost, _pool=pool).total == 3
    with pytest.raises(SSLError):
        session._RETRIES.increment("POST", "/containers/create", error=lost, _pool=pool)
    assert session._RETRIES.increment("POST", "/containers/create", error=refused, _pool=pool).total == 3


def test_a_proxy_does_not_say_when_to_ask_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Retry-After may be hours."""
    answer = HTTPResponse(status=503, headers={"Retry-After": "3600"})
    slept: list[float] = []
    monkeypatch.setattr(time, "sleep", slept.append)
    asked = session._RETRIES.increment("GET", "/", response=answer).increment("GET", "/", response=answer)
    asked.sleep(answer)
    assert slept == [0.4]
