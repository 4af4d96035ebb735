"""A server on loopback that does to a client what a test tells it to, byte by byte, and keeps what it was sent."""

from __future__ import annotations

import socket
import socketserver
import threading
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@dataclass(frozen=True)
class Asked:
    """One request; names of headers are in lower case."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def has_login(self) -> bool:
        return "authorization" in self.headers


@dataclass
class Hostile:
    """`behave` gets each request and a function that sends bytes, and may send what it likes."""

    behave: Callable[[Asked, Callable[[bytes], None]], None]
    asked: list[Asked] = field(default_factory=list)
    address: str = ""
    ended: threading.Event = field(default_factory=threading.Event)

    @property
    def url(self) -> str:
        return f"http://{self.address}"


def answer(status: int = 200, body: bytes = b"", **headers: str) -> bytes:
    """A well-formed answer; `_` in a header's name stands for `-`."""
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    lines = [f"HTTP/1.1 {status} Whatever"]
    lines += [f"{name}: {value}" for name, value in {"Content-Length": str(len(body)), **given}.items()]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


def endless(piece: bytes, pause: float = 0.0) -> Callable[[Asked, Callable[[bytes], None]], None]:
    """A body, or whatever follows the head that is sent first, that never ends."""
    return _Endless(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n", piece, pause)


@dataclass(frozen=True)
class _Endless:
    head: bytes
    piece: bytes
    pause: float

    def __call__(self, asked: Asked, send: Callable[[bytes], None]) -> None:
        send(self.head)
        waiting = threading.Event()
        while True:  # the client goes away, and the socket says so
            send(self.piece)
            waiting.wait(self.pause)


def dripping(head: bytes, piece: bytes = b"x", pause: float = 0.05) -> Callable[[Asked, Callable[[bytes], None]], None]:
    """First `head`, then `piece` again and again, with a pause that no silence timeout notices."""
    return _Endless(head, piece, pause)


class _Handler(socketserver.StreamRequestHandler):
    server: _Server

    def handle(self) -> None:
        with suppress(OSError, ValueError):
            while self._one():
                pass

    def _one(self) -> bool:
        line = self.rfile.readline(1 << 20)
        if not line.strip():
            return False
        method, path, _ = line.decode("latin-1").split(" ", 2)
        headers: dict[str, str] = {}
        while (field_ := self.rfile.readline(1 << 20).decode("latin-1").strip()) != "":
            name, _, value = field_.partition(":")
            headers[name.strip().lower()] = value.strip()
        body = self.rfile.read(int(headers.get("content-length", "0")))
        if headers.get("transfer-encoding") == "chunked":
            return False
        state = self.server.state
        asked = Asked(method, path, headers, body)
        state.asked.append(asked)
        state.behave(asked, self._send)
        return True

    def _send(self, content: bytes) -> None:
        if self.server.state.ended.is_set():
            raise ConnectionError
        self.request.sendall(content)


class _Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
    block_on_close = False
    state: Hostile

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is what is hoped for."""


@contextmanager
def hostile(behave: Callable[[Asked, Callable[[bytes], None]], None]) -> Iterator[Hostile]:
    """Serve until the block ends."""
    state = Hostile(behave)
    server = _Server(("127.0.0.1", 0), _Handler)
    server.state = state
    server.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    state.address = f"127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield state
    finally:
        state.ended.set()
        server.shutdown()
        thread.join()
        server.server_close()
