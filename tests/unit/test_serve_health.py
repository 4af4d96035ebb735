"""The health check of a served model, against a server on loopback."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

import pytest

from containers.serve_health import health_url, is_healthy, startup_tries

if TYPE_CHECKING:
    from collections.abc import Iterator


class Handler(BaseHTTPRequestHandler):
    status = 200

    def do_GET(self) -> None:
        self.send_response(self.status if self.path == "/health" else 404)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


@pytest.fixture
def address() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


@pytest.mark.parametrize("below", ["", "/", "/v1", "/v1/"])
def test_health_is_beside_the_api(address: str, below: str) -> None:
    """An address and the base of an API lead to the same place."""
    assert health_url(address + below) == f"{address}/health"
    assert is_healthy(address + below)


def test_what_is_not_healthy(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that is loading (503), and none at all."""
    monkeypatch.setattr(Handler, "status", 503)
    assert not is_healthy(address)
    assert not is_healthy("http://127.0.0.1:9/v1")


@pytest.mark.parametrize(("seconds", "tries"), [(600, 60), (601, 61), (1, 1)])
def test_probes_cover_the_time_to_start(seconds: int, tries: int) -> None:
    """Rounded up, so that the last second counts, too."""
    assert startup_tries(seconds) == tries
