"""A port that nobody else gets between the moment it is chosen and the moment vLLM listens on it."""

from __future__ import annotations

import errno
import socket
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from containers.errors import BadInput
from containers.serve.vllm_command import LOOPBACK

if TYPE_CHECKING:
    from collections.abc import Iterator

_CLOSING: Final = 75.0  # seconds: connections of an ended server block its port for 60 (TIME_WAIT in Linux)


@contextmanager
def claimed(port: int, *, host: str = LOOPBACK, patience: float = _CLOSING) -> Iterator[int]:
    """Hold a port of an address, 0 for any; raises BadInput when another program has it.

    The port is bound without options, which fails beside any other socket, and only then opened to sockets that set
    SO_REUSEADDR or SO_REUSEPORT, as vLLM's does (socket(7); both are looked at when the second socket binds). It is
    never listened on: every connection goes to vLLM.
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
                    remedy="take another one (--port, or CARWRIGHT_SERVE__PORT); 0 takes a free port",
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
