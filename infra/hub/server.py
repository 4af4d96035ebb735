"""The server: two ports of one process, the hub's API and its "CDN".

The client keeps a redirect to another origin apart from one on the hub itself (huggingface_hub 2.4,
utils/_http.py, `_is_same_or_hub_host`), and a port is part of an origin: hence the second port.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Final, Self

from infra.hub.handler import Handler
from infra.hub.state import HubPort, HubState

if TYPE_CHECKING:
    from infra.hub.repositories import Repositories

HOST: Final = "127.0.0.1"


class Hub(HubState):
    """A context manager that serves repositories until it is left.

    It listens on the address `host`, and clients know it by `name`.
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
        super().__init__(repositories, page)
        self._servers = [
            HubPort(self, "hub", (host, port), Handler),
            HubPort(self, "cdn", (host, cdn_port), Handler),
        ]
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
