"""The embedded profile: an object store and a Prefect server of one's own, for as long as a command runs.

Both live under the home folder and listen on loopback; the server wants the login that its folder holds (`login`). Nothing is left running afterwards, even when this process is
killed: each is a supervised child.
"""

from __future__ import annotations

import fcntl
import os
import sys
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import httpx

from containers.errors import NotReady
from containers.ports import LOOPBACK, claimed
from containers.process import Child, inherited
from infra.credentials import new_login
from infra.objectstore import EmbeddedStore

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from infra.settings import Settings

_PREFECT_DEADLINE = 120.0  # seconds; a first start migrates an empty database, 7-25 s on two busy cores


@contextmanager
def store(settings: Settings) -> Iterator[Settings]:
    """Settings whose store is up: as they are when they name an endpoint, else with the embedded server's."""
    if settings.store.endpoint is not None:
        yield settings
        return
    home = settings.home.resolve()
    with EmbeddedStore(home / "store", home / "logs" / "store.log") as started:
        yield settings.model_copy(update={"store": started})


@dataclass(frozen=True)
class PrefectServer:
    """A Prefect server with its UI; `url` is where a person looks, `api` where the client does, `login` who may."""

    child: Child
    url: str
    login: str = field(repr=False)

    @property
    def api(self) -> str:
        return f"{self.url}/api"

    @property
    def client(self) -> dict[str, str]:
        """Settings of Prefect's client that lead here."""
        return {"PREFECT_API_URL": self.api, "PREFECT_API_AUTH_STRING": self.login}

    def wait(self) -> None:
        """Return when it answers; raises NotReady with the server's last words."""
        deadline = time.monotonic() + _PREFECT_DEADLINE
        while time.monotonic() < deadline:
            if self.child.poll() is not None:
                raise NotReady(f"the embedded Prefect server ended at its start:\n{self.child.tail}")
            try:
                if httpx.get(f"{self.api}/health", timeout=2).status_code == httpx.codes.OK:
                    return
            except httpx.HTTPError:
                pass
            time.sleep(0.05)
        raise NotReady(
            f"the embedded Prefect server did not answer at {self.api} within {_PREFECT_DEADLINE:.0f} seconds",
            remedy=f"see {self.child.log_file}",
        )


@contextmanager
def prefect_server(settings: Settings, port: int = 0) -> Iterator[PrefectServer]:
    """Start the server and return before it is ready, so that other things can start beside it."""
    home = settings.home.resolve()
    file = login_file(settings)
    secret = login(file)
    with claimed(port) as held:
        child = Child(
            argv=[sys.executable, "-m", "flows.orchestrator.prefect_server", "--login", str(file), "--port", str(held)],
            env=inherited() | prefect_environment(home),
            log_file=home / "logs" / "prefect.log",
        )
        with child:
            yield PrefectServer(child, f"http://{LOOPBACK}:{held}", secret)


def login_file(settings: Settings) -> Path:
    """Where the login of this home's server is."""
    return settings.home.resolve() / "prefect" / "login"


def login(file: Path) -> str:
    """The login in the file, which is made on first use, for its owner alone: a browser that logged in stays so."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with suppress(FileExistsError), os.fdopen(os.open(file, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w") as new:
        new.write(new_login())
    return file.read_text().strip()


def prefect_environment(home: Path) -> dict[str, str]:
    """Settings of the embedded Prefect: its own database, no server that its client starts, and not a packet elsewhere."""
    return {
        "PREFECT_HOME": str(home / "prefect"),
        "PREFECT_PROFILES_PATH": os.devnull,  # none: not the user's, and none that lies in a folder with a model
        "PREFECT_LOGGING_CONFIG_PATH": f"{os.devnull}/none",  # as Prefect ships it: such a file can run code
        "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE": "false",  # one that Prefect's client starts has no login
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
        "PREFECT_CLI_PROMPT": "false",
    }


@contextmanager
def exclusive(settings: Settings, say: Callable[[str], None]) -> Iterator[None]:
    """One run at a time in one home folder: a second one waits, and says for whom."""
    home = settings.home.resolve()
    home.mkdir(parents=True, exist_ok=True)
    with (home / "lock").open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            say(f"waiting for another run in {home} (process {lock.read().strip() or 'unknown'}) to end")
            fcntl.flock(lock, fcntl.LOCK_EX)
        lock.seek(0)
        lock.truncate()
        lock.write(str(os.getpid()))
        lock.flush()
        yield
