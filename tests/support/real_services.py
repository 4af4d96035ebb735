"""The services that a ship needs, real ones, each behind a proxy that keeps its address: they may be killed and come back.

A store (rclone or SeaweedFS over S3), a registry (docker-registry), the hub's API with its CDN, and a Prefect server. What
they keep is in one folder and survives their death.
"""

from __future__ import annotations

import os
import re
import signal
import threading
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self
from urllib.parse import urlsplit

from containers import private
from containers.process import Child, inherited
from flows.local import embedded
from infra.hub import Hub, Repositories
from infra.objectstore import embedded_program, serve_command
from infra.settings import Settings
from tests.support import s3_servers
from tests.support.fault_proxy import FaultProxy
from tests.support.local_registry import LocalRegistry
from tests.support.processes import descendants

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

_STARTED: Final = re.compile(r"Starting s3 server on \[(http://127\.0\.0\.1:\d+)/?\]")


@contextmanager
def rclone(folder: Path, prefix: tuple[str, ...] = ()) -> Iterator[int]:
    """rclone's S3 server with the keys of `s3_servers` at every start, run by the command `prefix`; yields its port."""
    (folder / "data").mkdir(parents=True, exist_ok=True)
    address: list[str] = []
    heard = threading.Event()

    def listen(line: str) -> None:
        if not address and (match := _STARTED.search(line)):
            address.append(match[1])
            heard.set()

    keys = {"RCLONE_AUTH_KEY": f'"{s3_servers.KEY},{s3_servers.SECRET}"', "RCLONE_CONFIG": ""}
    argv = [*prefix, *serve_command(embedded_program(), folder / "data")]
    with Child(argv, {**inherited(), **keys}, log_file=folder / "log", on_line=listen, umask=private.UMASK) as server:
        assert heard.wait(60), server.tail
        yield urlsplit(address[0]).port or 0


@contextmanager
def seaweedfs(folder: Path) -> Iterator[int]:
    with s3_servers.seaweedfs(folder) as settings:
        yield urlsplit(settings.endpoint or "").port or 0


STORES: Final[dict[str, Callable[[Path], AbstractContextManager[int]]]] = {"rclone": rclone, "seaweedfs": seaweedfs}


@contextmanager
def registry(folder: Path) -> Iterator[int]:
    with LocalRegistry(folder) as host:
        yield int(host.rpartition(":")[2])


@contextmanager
def prefect(folder: Path) -> Iterator[int]:
    """A Prefect server with the login in `folder`/prefect/login; yields when it answers."""
    with embedded.prefect_server(Settings(home=folder)) as server:
        server.wait()
        yield urlsplit(server.url).port or 0


@dataclass
class Service:
    """One program behind a proxy. `kill` ends it as nobody can catch it, `start` brings it back over what it had kept."""

    name: str
    folder: Path
    begin: Callable[[Path], AbstractContextManager[int]]
    proxy: FaultProxy = field(default_factory=FaultProxy)
    _stack: ExitStack = field(default_factory=ExitStack)
    _runs: bool = False

    def start(self) -> None:
        if not self._runs:
            self.proxy.upstream = self._stack.enter_context(self.begin(self.folder))
            self._runs = True
            self.proxy.listen()

    def pids(self) -> list[int]:
        """Its processes; their command lines name the folder."""
        return [
            pid
            for pid in descendants(os.getpid())
            if str(self.folder) in (line := words(pid)) and "supervisor.py" not in line
        ]

    def kill(self) -> None:
        for pid in self.pids():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.proxy.leave()
        self._stack.close()
        self._runs = False

    def __enter__(self) -> Self:
        self.proxy.__enter__()
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()
        self.proxy.__exit__()


def words(pid: int) -> str:
    """The command line of a process; empty when it has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


class HubBehindProxies:
    """The hub of `infra.hub` in this process; its API and its CDN each behind a proxy."""

    def __init__(self, folder: Path) -> None:
        self.repositories = Repositories(folder)
        self._hub = Hub(self.repositories)
        self.api = FaultProxy(urlsplit(self._hub.endpoint).port or 0)
        self.cdn = FaultProxy(urlsplit(self._hub.cdn).port or 0)
        self._hub.endpoint, self._hub.cdn = self.api.url, f"http://localhost:{self.cdn.port}"

    def __enter__(self) -> Self:
        for one in (self._hub, self.api, self.cdn):
            one.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        for one in (self.cdn, self.api, self._hub):
            one.__exit__()
