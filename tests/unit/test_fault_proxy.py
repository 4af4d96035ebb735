"""The proxy of the campaign does to the chosen call what it says, and to no other."""

from __future__ import annotations

import http.server
import threading
import time
from typing import TYPE_CHECKING

import httpx
import pytest

from tests.support.fault_proxy import KINDS, Fault, FaultProxy
from tests.support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator

CONTENT = b"0123456789" * 1000


class Server(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    got: list[bytes]

    def do_GET(self) -> None:
        self._answer(b"")

    def do_POST(self) -> None:
        self._answer(self.rfile.read(int(self.headers["Content-Length"])))

    def _answer(self, body: bytes) -> None:
        self.got.append(body)
        self.send_response(200)
        self.send_header("Content-Length", str(len(CONTENT)))
        self.end_headers()
        self.wfile.write(CONTENT)

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def proxy() -> Iterator[FaultProxy]:
    Server.got = []
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        with FaultProxy(server.server_port) as proxy:
            yield proxy
        server.shutdown()


def ask(proxy: FaultProxy) -> bytes | int | str:
    """The body, the status where it is no 200, or the name of what went wrong."""
    try:
        answer = httpx.post(proxy.url, content=b"x" * 100_000, timeout=20, trust_env=False)
    except httpx.HTTPError as error:
        return type(error).__name__
    return answer.content if answer.status_code == 200 else answer.status_code


def test_without_a_fault_everything_passes(proxy: FaultProxy) -> None:
    with httpx.Client(trust_env=False) as client:
        assert [client.post(proxy.url, content=b"abc").content for _ in range(3)] == [CONTENT] * 3
    assert Server.got == [b"abc"] * 3
    assert proxy.calls == ["POST /"] * 3


@pytest.mark.parametrize(
    ("kind", "expected", "carried_out"),
    [
        ("refused", {"ReadError", "WriteError", "RemoteProtocolError"}, False),
        ("reset", {"ReadError", "WriteError", "RemoteProtocolError"}, False),
        ("lost", {"ReadError", "RemoteProtocolError"}, True),
        ("slow", {CONTENT}, True),
        ("500", {500}, False),
        ("503", {503}, False),
        ("429", {429}, False),
        ("cut", {"RemoteProtocolError"}, True),
    ],
)
def test_the_chosen_call_alone_is_hit(
    proxy: FaultProxy, kind: str, expected: set[object], *, carried_out: bool
) -> None:
    proxy.arm(Fault(kind, nth=1, times=1, seconds=0.3))
    assert ask(proxy) == CONTENT
    began = time.monotonic()
    assert ask(proxy) in expected
    assert time.monotonic() - began > 0.3 or kind != "slow"
    assert len(Server.got) == 1 + carried_out
    until(lambda: ask(proxy) == CONTENT, "it listens again")
    assert proxy.hit == ["POST /"]


def test_wrong_bytes(proxy: FaultProxy) -> None:
    proxy.arm(Fault("flipped", 0, 1))
    flipped = ask(proxy)
    assert isinstance(flipped, bytes)
    assert [index for index, (a, b) in enumerate(zip(flipped, CONTENT, strict=True)) if a != b] == [len(CONTENT) // 2]
    proxy.arm(Fault("page", 0, 1))
    assert b"Please log in" in (ask(proxy) or b"")  # type: ignore[operator]


def test_a_server_that_is_away_and_comes_back(proxy: FaultProxy) -> None:
    proxy.leave()
    assert ask(proxy) == "ConnectError"
    proxy.listen()
    assert ask(proxy) == CONTENT


def test_every_kind_is_known() -> None:
    assert set(KINDS) == {"refused", "reset", "lost", "slow", "500", "503", "429", "cut", "flipped", "page"}
