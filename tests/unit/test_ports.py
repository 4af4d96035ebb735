"""A port is either held for its server or refused, never shared."""

import socket

import pytest

from containers.errors import BadInput
from containers.ports import claimed


def _server(port: int, *options: int) -> socket.socket:
    server = socket.socket()
    for option in options:
        server.setsockopt(socket.SOL_SOCKET, option, 1)
    server.bind(("127.0.0.1", port))
    server.listen()
    return server


@pytest.mark.parametrize("option", [socket.SO_REUSEADDR, socket.SO_REUSEPORT])
def test_a_server_that_reuses_addresses_can_listen_while_the_port_is_held(option: int) -> None:
    with claimed(0) as port, _server(port, option) as server:
        for _ in range(5):
            with socket.create_connection(("127.0.0.1", port), timeout=5):
                server.settimeout(5)
                server.accept()[0].close()


def test_two_claims_on_one_port_exclude_each_other() -> None:
    with claimed(0) as port, pytest.raises(BadInput, match=f"port {port} is in use"), claimed(port, patience=0):
        pass


def test_a_port_that_somebody_serves_is_refused_at_once() -> None:
    with (
        _server(0, socket.SO_REUSEADDR, socket.SO_REUSEPORT) as server,
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
