"""A port is either held for its server or refused, never shared; and whoever answers there in its place is found out."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from containers.errors import BadInput
from containers.ports import beside, claimed, listens_alone, served_by

if TYPE_CHECKING:
    from collections.abc import Iterator

_ADDRESS, _PORT = socket.SO_REUSEADDR, socket.SO_REUSEPORT
_NOBODY = 65534  # a user that is neither root nor ours


def _server(port: int, *options: int) -> socket.socket:
    server = socket.socket()
    for option in options:
        server.setsockopt(socket.SOL_SOCKET, option, 1)
    server.bind(("127.0.0.1", port))
    server.listen()
    return server


# What a hostile program may try that wants the port of a server which is still loading: (address, options of its socket).
ATTACKS = {
    "plain": ("127.0.0.1", []),
    "reused address": ("127.0.0.1", [_ADDRESS]),
    "reused port": ("127.0.0.1", [_PORT]),
    "both": ("127.0.0.1", [_ADDRESS, _PORT]),
    "any address": ("0.0.0.0", [_ADDRESS, _PORT]),
    "any address of IPv6, which takes IPv4 as well": ("::", [_ADDRESS, _PORT]),
    "an IPv4 address as IPv6": ("::ffff:127.0.0.1", [_ADDRESS, _PORT]),
}

_HOSTILE = """
import os, socket, sys
user, address, port, *options = sys.argv[1:]
if int(user):
    os.setgroups([]); os.setgid(int(user)); os.setuid(int(user))
thief = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
for option in options:
    thief.setsockopt(socket.SOL_SOCKET, int(option), 1)
try:
    thief.bind((address, int(port)))
    thief.listen()
except OSError as error:
    print("refused:", error.strerror, flush=True)
else:
    print("listening", flush=True)
sys.stdin.read()
"""


@contextlib.contextmanager
def _hostile(port: int, address: str, options: list[int], user: int = 0) -> Iterator[str]:
    """Another process that tries to listen there; gives what it says of it."""
    argv = [sys.executable, "-c", _HOSTILE, str(user), address, str(port), *map(str, options)]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield process.stdout.readline().strip()
        process.kill()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can start a process of another user")
@pytest.mark.parametrize("name", ATTACKS)
def test_another_user_cannot_take_a_port_that_is_held(name: str) -> None:
    """Before its server is bound, while it is, and when it listens."""
    address, options = ATTACKS[name]
    with claimed(0) as port:
        with _hostile(port, address, options, _NOBODY) as said:
            assert said.startswith("refused"), said
        with beside(port) as server:
            with _hostile(port, address, options, _NOBODY) as said:
                assert said.startswith("refused"), said
            server.listen()
            with _hostile(port, address, options, _NOBODY) as said:
                assert said.startswith("refused"), said


@pytest.mark.parametrize("name", [name for name, (_, options) in ATTACKS.items() if _PORT not in options])
def test_without_the_option_of_its_server_nobody_takes_it(name: str) -> None:
    """Not even a program of the same user."""
    address, options = ATTACKS[name]
    with claimed(0) as port, _hostile(port, address, options) as said:
        assert said.startswith("refused"), said


@pytest.mark.parametrize("name", [name for name, (_, options) in ATTACKS.items() if _PORT in options])
def test_a_thief_of_the_same_user_is_told_from_the_server(name: str) -> None:
    """The kernel lets it in, before ours listens or beside it: then it is not ours alone who answers."""
    address, options = ATTACKS[name]
    with claimed(0) as port, beside(port) as server:
        with _hostile(port, address, options) as said:
            let_in = said == "listening"
            assert let_in or ":" in address, said
            server.listen()
            assert listens_alone(server) is not let_in
        assert listens_alone(server)


def test_who_listens_is_the_process_or_one_below_it() -> None:
    with claimed(0) as port:
        assert not served_by(port, os.getpid())  # it is held, and nobody listens
        with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
            with _hostile(port, "127.0.0.1", [_PORT]) as said:
                assert said == "listening"
                assert served_by(port, os.getpid())  # the program is a child of this one
                assert not served_by(port, other.pid)
            with beside(port) as server:
                server.listen()
                assert not served_by(port, other.pid)
            other.kill()


def test_a_server_that_reuses_ports_can_listen_while_the_port_is_held() -> None:
    with claimed(0) as port, _server(port, _ADDRESS, _PORT) as server:
        for _ in range(5):
            with socket.create_connection(("127.0.0.1", port), timeout=5):
                server.settimeout(5)
                server.accept()[0].close()


def test_two_claims_on_one_port_exclude_each_other() -> None:
    with claimed(0) as port, pytest.raises(BadInput, match=f"port {port} is in use"), claimed(port, patience=0):
        pass


def test_a_port_that_somebody_serves_is_refused_at_once() -> None:
    with (
        _server(0, _ADDRESS, _PORT) as server,
        pytest.raises(BadInput, match="in use by another program"),
        claimed(server.getsockname()[1]),
    ):
        pass


def test_two_free_ports_differ() -> None:
    with claimed(0) as one, claimed(0) as other:
        assert one != other


def test_a_port_is_free_again_afterwards() -> None:
    with claimed(0) as port:
        pass
    with claimed(port, patience=0) as again:
        assert again == port
