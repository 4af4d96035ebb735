"""The server: two ports of one process, the hub's API and its "CDN".

The client keeps a redirect to another origin apart from one on the hub itself (huggingface_hub 2.4,
utils/_http.py, `_is_same_or_hub_host`), and a port is part of an origin: hence the second port.
"""

from __future__ import annotations

import hmac
import secrets
import threading
from dataclasses import dataclass
from http.server import ThreadingHTTPServer
from typing import TYPE_CHECKING, Final, Self

from infra.hub.faults import Faults

if TYPE_CHECKING:
    from infra.hub.repositories import Repositories

HOST: Final = "127.0.0.1"


@dataclass(frozen=True)
class AnsweredRequest:
    """One answered request. `path` has the query; `sent` counts bytes of the body; `origin` is "hub" or "cdn"."""

    origin: str
    method: str
    path: str
    status: int
    range: str | None
    sent: int
    authorized: bool
    user_agent: str


class HubPort(ThreadingHTTPServer):
    """One port of a hub."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, hub: Hub, origin: str, host: str, port: int) -> None:
        from infra.hub.handler import Handler

        self.hub = hub
        self.origin = origin
        super().__init__((host, port), Handler)

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that hung up is no event worth a traceback."""


class Hub:
    """A context manager that serves repositories until it is left.

    `endpoint` and `cdn` are URLs without a slash at the end. It listens on the address `host`, and clients know it by
    `name`. `page` is the number of entries in one page of a listing (the hub's is 1000).
    """

    def __init__(
        self,
        repositories: Repositories,
        *,
        host: str = HOST,
        name: str = HOST,
        port: int = 0,
        cdn_port: int = 0,
        page: int = 1000,
    ) -> None:
        self.repositories = repositories
        self.page = page
        self.faults = Faults()
        self._secret = secrets.token_bytes(32)
        self._lock = threading.Lock()
        self._served: list[AnsweredRequest] = []
        self._transfers = 0
        self._peak = 0
        self._servers = [HubPort(self, "hub", host, port), HubPort(self, "cdn", host, cdn_port)]
        # Clients tell the two apart by their host names: a redirect to the same name is still the hub, which says more in
        # its headers (huggingface_hub 1.33, utils/_http.py, _is_same_or_hub_host).
        names = (name, "localhost" if name == HOST else name)
        self.endpoint, self.cdn = (
            f"http://{one}:{server.server_address[1]}" for one, server in zip(names, self._servers, strict=True)
        )

    def __enter__(self) -> Self:
        for server in self._servers:
            # A short poll: `shutdown` waits for it.
            threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        for server in self._servers:
            server.shutdown()
            server.server_close()

    @property
    def served(self) -> list[AnsweredRequest]:
        """Every request so far, in the order in which they ended."""
        with self._lock:
            return list(self._served)

    @property
    def peak(self) -> int:
        """The most bodies of files that were on their way from the CDN at once."""
        with self._lock:
            return self._peak

    def record(self, served: AnsweredRequest) -> None:
        with self._lock:
            self._served.append(served)

    def transfer(self, by: int) -> None:
        with self._lock:
            self._transfers += by
            self._peak = max(self._peak, self._transfers)

    def sign(self, sha256: str) -> str:
        """What lets whoever was redirected read one blob from the CDN."""
        return hmac.digest(self._secret, sha256.encode(), "sha256").hex()
