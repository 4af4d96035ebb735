"""A port that nobody else gets between the moment it is chosen and the moment its server listens on it, and who listens there."""

from __future__ import annotations

import errno
import os
import socket
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

from containers.errors import BadInput
from containers.supervisor import descendants

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

LOOPBACK: Final = "127.0.0.1"
_CLOSING: Final = 75.0  # seconds: connections of an ended server block its port for 60 (TIME_WAIT in Linux)


@contextmanager
def claimed(port: int, *, option: str = "--port", host: str = LOOPBACK, patience: float = _CLOSING) -> Iterator[int]:
    """Hold a port of an address, 0 for any; raises BadInput when another program has it.

    `option` is what chooses another port, for the message.

    The port is bound without options, which fails beside any other socket, and only then opened to sockets that set
    SO_REUSEPORT, as vLLM's does (socket(7)): the kernel lets those of the same user in and nobody else's. Not
    SO_REUSEADDR, which any user of the machine may set: such a socket could be the first to listen, and answer in the
    server's place. It is never listened on: every connection goes to the server.
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
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        yield int(held.getsockname()[1])


def beside(port: int, host: str = LOOPBACK) -> socket.socket:
    """A socket bound to a port that `claimed` holds, or a server of this user's: to listen on, or to hold the port, too.

    Raises BadInput when it is somebody else's.
    """
    own = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        own.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        own.bind((host, port))
    except OSError as error:
        own.close()
        raise BadInput(f"port {port} of {host} cannot be taken: {error.strerror}") from error
    return own


def served_by(port: int, pid: int) -> bool:
    """Whether the process `pid`, or one below it, and no other is who answers at a port of the loopback interface.

    That a server answers proves nothing: another one may be first to listen. From the moment that ours listens the
    kernel lets no other user listen beside it, so what is true once stays true for as long as ours lives.
    """
    listening = _listeners(port)
    return bool(listening) and listening <= _sockets((pid, *descendants(pid)))


def listens_alone(own: socket.socket) -> bool:
    """Whether nobody else, of the same user then, listens at its port of the loopback interface."""
    return _listeners(own.getsockname()[1]) == {os.fstat(own.fileno()).st_ino}


# As the kernel writes them (proc(5), /proc/net/tcp): words of four bytes in the machine's order, here x86's and ARM's.
_REACHED: Final = (
    "0100007F",  # 127.0.0.1
    "0" * 8,  # 0.0.0.0
    "0" * 32,  # ::, which takes IPv4 as well
    "0" * 16 + "FFFF0000" + "0100007F",  # ::ffff:127.0.0.1
)
_LISTEN: Final = "0A"


def _listeners(port: int) -> set[int]:
    """Inodes of the sockets that listen where a connection to this port of the loopback interface may end."""
    found = set()
    for table in ("tcp", "tcp6"):
        with suppress(OSError):  # without IPv6 there is no second one
            for line in Path("/proc/self/net", table).read_text().splitlines()[1:]:
                fields = line.split()
                address, _, number = fields[1].rpartition(":")
                if fields[3] == _LISTEN and int(number, 16) == port and address in _REACHED:
                    found.add(int(fields[9]))
    return found


def _sockets(pids: Iterable[int]) -> set[int]:
    """Inodes of the sockets that these processes have open."""
    found = set()
    for pid in pids:
        with suppress(OSError):  # it has ended since, or is none of ours
            for file in Path(f"/proc/{pid}/fd").iterdir():
                with suppress(OSError):
                    kind, _, inode = str(file.readlink()).partition(":")
                    if kind == "socket":
                        found.add(int(inode.strip("[]")))
    return found


def _answers(port: int) -> bool:
    try:
        with socket.create_connection((LOOPBACK, port), timeout=1):
            return True
    except OSError:
        return False
