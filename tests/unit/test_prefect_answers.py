"""What commands make of a Prefect server in trouble, and of something that answers in its place."""

from __future__ import annotations

import http.server
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
from prefect.settings import PREFECT_API_URL, PREFECT_CLIENT_MAX_RETRIES, temporary_settings

from containers.errors import BadInput, NotReady
from flows.orchestrator.child_runs import api as client_of
from flows.orchestrator.child_runs import check_server, find_deployment
from flows.orchestrator.follow import start

if TYPE_CHECKING:
    from collections.abc import Iterator

PAGE = b"<html><body>Please log in.</body></html>"


@contextmanager
def answering(status: int, content: bytes) -> Iterator[None]:
    """A server that answers everything but the health check in one way."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            healthy = self.path.endswith("/health") and content != PAGE
            self.send_response(200 if healthy else status)
            self.end_headers()
            self.wfile.write(b"true" if healthy else content)

        def do_POST(self) -> None:
            self.do_GET()

        def log_message(self, *_: object) -> None: ...

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/api"
        with temporary_settings({PREFECT_API_URL: url, PREFECT_CLIENT_MAX_RETRIES: 0}):
            yield
        server.shutdown()


@pytest.mark.parametrize("status", [500, 502, 503, 429])
def test_a_server_in_trouble_is_no_bug_of_ours(status: int) -> None:
    with answering(status, b"not now"), pytest.raises(NotReady, match=f"answers {status}"), client_of() as client:
        find_deployment(client, "quantize-and-ship/local")


def test_a_page_in_the_server_s_place_is_told() -> None:
    """It was taken for a server that lacks the deployment."""
    with answering(200, PAGE):
        with pytest.raises(NotReady, match="is not the Prefect server"):
            check_server()
        with pytest.raises(NotReady, match="is not the Prefect server"), client_of() as client:
            find_deployment(client, "quantize-and-ship/local")
        with pytest.raises(NotReady, match="is not the Prefect server"):
            start("quantize-and-ship/local", {}, lambda name, event: None)


def test_a_name_of_one_part_or_three_is_no_deployment() -> None:
    for name in ("local", "quantize-and-ship/local/again"):
        with answering(200, b"{}"), client_of() as client, pytest.raises(BadInput, match=f"no deployment '{name}'"):
            find_deployment(client, name)
