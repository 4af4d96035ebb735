"""What the two ports of a hub share: its repositories, its faults, and the record of what was answered."""

from __future__ import annotations

import hmac
import secrets
import threading
from dataclasses import dataclass
from http.server import ThreadingHTTPServer
from typing import TYPE_CHECKING

from infra.hub.faults import Faults

if TYPE_CHECKING:
    from http.server import BaseHTTPRequestHandler

    from infra.hub.repositories import Repositories


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


class HubState:
    """Safe to use from several threads.

    `endpoint` and `cdn` are URLs without a slash at the end. `page` is the number of entries in one page of a listing
    (the hub's is 1000).
    """

    endpoint: str
    cdn: str

    def __init__(self, repositories: Repositories, page: int) -> None:
        self.repositories = repositories
        self.page = page
        self.faults = Faults()
        self._secret = secrets.token_bytes(32)
        self._lock = threading.Lock()
        self._served: list[AnsweredRequest] = []
        self._transfers = 0
        self._peak = 0

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


class HubPort(ThreadingHTTPServer):
    """One port of a hub; `handler` answers its requests."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(
        self, hub: HubState, origin: str, address: tuple[str, int], handler: type[BaseHTTPRequestHandler]
    ) -> None:
        self.hub = hub
        self.origin = origin
        super().__init__(address, handler)

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that hung up is no event worth a traceback."""
