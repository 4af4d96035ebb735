"""The flow run-step with a service that the test plays: an HTTP server with a health check, and no model."""

from __future__ import annotations

import http.server
import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from prefect import flow

from containers.parameters import Endpoint
from flows import runtime
from flows.run_step import run_step

if TYPE_CHECKING:
    from containers.contract import StepRequest
    from containers.events import OnEvent


class Healthy(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None: ...


class PlayedServices:
    """Serves as long as its process runs."""

    found = False
    serves = True

    def __init__(self) -> None:
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Healthy)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{self._server.server_port}/v1"
        self.endpoint = Endpoint(url=url, served_model_name="m", server="played")

    def start(self, request: StepRequest, on_event: OnEvent, *, keep: bool = False) -> PlayedServices:
        del request, on_event, keep
        return self

    def end(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def keep(self) -> None: ...

    def stop_all(self, *, kept: bool = False) -> list[str]:
        del kept
        return []


@flow(name="run-step", persist_result=False, validate_parameters=False)
def run_step_played(request: dict[str, Any], key: str, label: str = "step") -> None:
    with runtime.use(replace(runtime.current(), services=PlayedServices())):
        run_step.fn(request, key, label)
