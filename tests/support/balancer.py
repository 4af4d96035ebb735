"""A balancer in front of servers: each connection goes to the next of them."""

from __future__ import annotations

import itertools
import socket
import threading
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def balancer(*urls: str) -> Iterator[str]:
    """The base URL of the balancer, in turn in front of the servers at `urls`, which have the path /v1."""
    targets = itertools.cycle([(urlsplit(url).hostname, urlsplit(url).port) for url in urls])
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            with suppress(OSError):
                while True:
                    client, _ = listening.accept()
                    server = socket.create_connection(next(targets))
                    for source, sink in ((client, server), (server, client)):
                        threading.Thread(target=_pump, args=(source, sink), daemon=True).start()

        threading.Thread(target=serve, daemon=True).start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/v1"
        listening.shutdown(socket.SHUT_RDWR)  # a close alone leaves the thread in `accept`


def _pump(source: socket.socket, sink: socket.socket) -> None:
    with suppress(OSError):
        while piece := source.recv(1 << 16):
            sink.sendall(piece)
    for end in (source, sink):
        with suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
