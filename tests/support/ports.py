"""Ports for servers that tests start: below those that Linux gives to clients, a block for each worker of pytest-xdist.

A port that the kernel picks (bind to 0) and the test lets go again is soon some client's own: on a busy machine a
server that starts seconds later finds it taken.
"""

from __future__ import annotations

import itertools
import os
import re
import socket
from typing import Final

from containers.ports import LOOPBACK

_FIRST: Final = 20_000
_BLOCK: Final = 1_000  # of these each process begins at a place of its own, for two test runs beside each other
_WORKER: Final = int(re.sub(r"\D", "", os.environ.get("PYTEST_XDIST_WORKER", "")) or 0) % 10
_numbers = itertools.count(os.getpid())


def free_port() -> int:
    """A port of loopback that nothing listens on; never the same one twice."""
    for number in itertools.islice(_numbers, _BLOCK):
        port = _FIRST + _WORKER * _BLOCK + number % _BLOCK
        with socket.socket() as probe:
            try:
                probe.bind((LOOPBACK, port))
            except OSError:
                continue
            return port
    raise RuntimeError("no port is free")
