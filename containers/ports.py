"""A port that nobody else gets between the moment it is chosen and the moment its server listens on it."""

from __future__ import annotations

import errno
import socket
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from containers.errors import BadInput

if TYPE_CHECKING:
    from collections.abc import Iterator

LOOPBACK: Final = "127.0.0.1"
_CLOSING: Final = 75.0  # seconds: connections of an ended server block its port for 60 (TIME_WAIT in Linux)


@contextmanager
def claimed(port: int, *, option: str = "--port", host: str = LOOPBACK, patience: float = _CLOSING) -> Iterator[int]:
    """Hold a port of an address, 0 for any; raises BadInput when another program has it.

    `option` is what chooses another port, for the message.

    The port is bound without options, which fails beside any other socket, and only then opened to sockets that set
    SO_REUSEADDR or SO_REUSEPORT, as vLLM's and uvicorn's do (socket(7); both are looked at when the second socket
    binds). It is never listened on: every connection goes to the server.
    """
    deadline = time.monotonic() + patience
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as held:
        while True:
            try:
                held.bind((host, port))
                break
            except OSError as error:
                if error.errno == errno.EADDRINUSE and not _answers(port) and time.monotonic() < deadline:
                    time.sleep(0.5)
                    continue
                reason = "is in use by another program" if error.errno == errno.EADDRINUSE else error.strerror
                raise BadInput(
                    f"port {port} {reason}",
                    remedy=f"choose another port with {option}; 0 takes a free one",
                ) from error
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        yield int(held.getsockname()[1])


def _answers(port: int) -> bool:
    try:
        with socket.create_connection((LOOPBACK, port), timeout=1):
            return True
    except OSError:
        return False
