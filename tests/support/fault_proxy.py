"""A proxy on loopback in front of one HTTP server, which does to a chosen call what networks and servers do to calls.

Own code, because no packaged proxy does this: toxiproxy is a program that no package index has, works on connections and does
not know the n-th call; mitmproxy would bring some forty packages into the lock for one loop over a socket.

Every connection carries one call: the proxy asks both sides to close after it. So a call has a number, and an answer ends
where its connection does. The server may come back at another port; clients see the proxy's alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
import struct
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Self

from tests.support.ports import free_port

if TYPE_CHECKING:
    from collections.abc import Coroutine

KINDS: Final = {
    "refused": "nothing listens at the address for some seconds",
    "reset": "the connection is reset before the call is answered",
    "lost": "the call is carried out and its answer is lost",
    "slow": "the answer comes late and in small pieces",
    "500": "answered 500",
    "503": "answered 503, with Retry-After",
    "429": "answered 429, with Retry-After",
    "cut": "the answer ends in its middle",
    "flipped": "one byte of the answer is another",
    "page": "a web page instead of the answer, as a portal or proxy sends",
}
_WORDS: Final = {"500": "Internal Server Error", "503": "Service Unavailable", "429": "Too Many Requests"}
_PAGE: Final = b"<!DOCTYPE html><html><head><title>Welcome</title></head><body>Please log in.</body></html>\n"
HEAD: Final = 1 << 20  # bytes
_PIECE: Final = 1 << 16


@dataclass(frozen=True)
class Fault:
    """What happens to the calls from `nth` (from 0) on, `times` of them; `seconds` is how long it takes where that matters."""

    kind: str
    nth: int
    times: int
    seconds: float = 2.0


class FaultProxy:
    """Stands before `upstream`, a port of loopback, at `port`; counts calls and notes those that a fault hit."""

    def __init__(self, upstream: int = 0) -> None:
        self.upstream = upstream
        self.port = free_port()
        self.calls: list[str] = []
        self.hit: list[str] = []
        self.first = 0  # number of the first call that was hit
        self._fault: Fault | None = None
        self._loop = asyncio.new_event_loop()
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.StreamWriter] = set()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        self._thread.start()
        self.listen()
        return self

    def __exit__(self, *_: object) -> None:
        self.leave()
        self._do(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    def arm(self, fault: Fault | None) -> None:
        """From now on this fault, or none; the calls are counted from 0 again."""
        self._fault = fault
        self.calls, self.hit = [], []

    def listen(self) -> None:
        self._do(self._listen())

    def leave(self) -> None:
        """Nothing listens any more, and what was open is reset: as after the end of the server's process."""
        self._do(self._leave())

    def _do(self, what: Coroutine[None, None, None]) -> None:
        asyncio.run_coroutine_threadsafe(what, self._loop).result(30)

    async def _listen(self) -> None:
        if self._server is None:
            self._server = await self._begin()

    async def _begin(self) -> asyncio.Server:
        return await asyncio.start_server(self._serve, "127.0.0.1", self.port, limit=HEAD)

    async def _reach(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self.upstream, limit=HEAD)

    async def _leave(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        for writer in list(self._open):
            _reset(writer)

    async def _end(self) -> None:
        for task in asyncio.all_tasks():
            if task is not asyncio.current_task():
                task.cancel()

    def _due(self, call: str) -> Fault | None:
        number = len(self.calls)
        self.calls.append(call)
        fault = self._fault
        if fault is None or not fault.nth <= number < fault.nth + fault.times:
            return None
        self.first = number if not self.hit else self.first
        self.hit.append(call)
        return fault

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open.add(writer)
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            fault = self._due(head.partition(b"\r\n")[0].decode("latin-1").rpartition(" ")[0])
            await self._call(head, reader, writer, fault)
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, OSError):
            _reset(writer)
        finally:
            self._open.discard(writer)
            with contextlib.suppress(OSError):
                writer.close()

    async def _call(
        self, head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, fault: Fault | None
    ) -> None:
        kind = fault.kind if fault else ""
        if kind in {"reset", "refused"}:
            _reset(writer)
            if fault is not None and kind == "refused":
                await self._leave()
                await asyncio.sleep(fault.seconds)
                await self._listen()
            return
        if kind in _WORDS or kind == "page":
            await _read_body(head, reader)
            writer.write(_answer(kind))
            await writer.drain()
            return
        there, server = await self._reach()
        self._open.add(server)
        server.write(_closing(head))
        body = asyncio.create_task(_pass_on(reader, server))
        try:
            await _hand_back(kind, fault.seconds if fault else 0, there, writer)
        finally:
            body.cancel()
            self._open.discard(server)
            server.close()


async def _hand_back(kind: str, seconds: float, there: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    head = await there.readuntil(b"\r\n\r\n")
    while head.startswith((b"HTTP/1.1 100", b"HTTP/1.0 100")):
        writer.write(head)
        head = await there.readuntil(b"\r\n\r\n")
    head = _closing(head)  # no server has to say so, and a client that keeps the connection would find it closed
    if kind == "lost":
        _reset(writer)
        return
    if not kind:
        writer.write(head)
        await _pass_on(there, writer)
        return
    found = re.search(rb"(?im)^content-length:\s*(\d+)", head)
    length = int(found[1]) if found else 1000
    if kind == "slow":
        await asyncio.sleep(seconds)
        writer.write(head)
        while piece := await there.read(max(1, min(_PIECE, length // 8))):
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(seconds / 8 if length < 8 * _PIECE else 0.05)
        return
    if kind == "cut":
        if length < 2:
            writer.write(head[: len(head) // 2])
        else:
            writer.write(head)
            await _pass_on(there, writer, most=length // 2)
        await writer.drain()
        return
    writer.write(head)  # one byte of the body, in its middle, is another
    await _pass_on(there, writer, most=length // 2)
    if byte := await there.read(1):
        writer.write(bytes([byte[0] ^ 1]))
    await _pass_on(there, writer)


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, most: int | None = None) -> None:
    left = most
    while (left is None or left > 0) and (piece := await reader.read(_PIECE if left is None else min(_PIECE, left))):
        writer.write(piece)
        await writer.drain()
        left = None if left is None else left - len(piece)
    if most is None:
        with contextlib.suppress(OSError):
            writer.write_eof()


async def _read_body(head: bytes, reader: asyncio.StreamReader) -> None:
    """Take what the client sends, so that it reads the answer and sees no reset."""
    found = re.search(rb"(?im)^content-length:\s*(\d+)", head)
    if found and b"100-continue" not in head.lower():
        with contextlib.suppress(asyncio.IncompleteReadError, TimeoutError):
            await asyncio.wait_for(reader.readexactly(int(found[1])), 10)


def _answer(kind: str) -> bytes:
    status, content = ("200 OK", _PAGE) if kind == "page" else (f"{kind} {_WORDS[kind]}", b"not now\n")
    lines = [
        f"HTTP/1.1 {status}",
        f"Content-Type: {'text/html' if kind == 'page' else 'text/plain'}",
        f"Content-Length: {len(content)}",
        *(["Retry-After: 1"] if kind in {"429", "503"} else []),
        "Connection: close",
    ]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + content


def _closing(head: bytes) -> bytes:
    """The head of a request or an answer whose connection carries no other; an upgrade stays one."""
    if re.search(rb"(?im)^upgrade:", head):
        return head
    lines = [line for line in head[:-4].split(b"\r\n") if not line.lower().startswith((b"connection:", b"keep-alive:"))]
    return b"\r\n".join([*lines, b"Connection: close"]) + b"\r\n\r\n"


def _reset(writer: asyncio.StreamWriter) -> None:
    """Close with RST: what was sent and not read is lost, and the other side learns it at once."""
    sock = writer.get_extra_info("socket")
    if sock is not None:
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
