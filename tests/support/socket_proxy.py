"""The proxy of `fault_proxy` at a UNIX socket in front of another one: a container engine's.

A reset is the end of the connection here: a UNIX socket knows no RST, and its client learns of the end at once all the same.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from tests.support.fault_proxy import HEAD, FaultProxy

if TYPE_CHECKING:
    from pathlib import Path


class SocketProxy(FaultProxy):
    """Stands before the socket `engine`, at the socket `path`."""

    def __init__(self, path: Path, engine: Path) -> None:
        super().__init__()
        self.path, self.engine = path, engine

    @property
    def url(self) -> str:
        return f"unix://{self.path}"

    async def _begin(self) -> asyncio.Server:
        return await asyncio.start_unix_server(self._serve, self.path, limit=HEAD)  # over the file of an earlier one

    async def _leave(self) -> None:
        await super()._leave()
        self.path.unlink(missing_ok=True)  # as an engine that ends takes it along

    async def _reach(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_unix_connection(self.engine, limit=HEAD)
