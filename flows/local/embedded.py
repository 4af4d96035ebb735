"""The embedded profile: an object store and a Prefect server that run as long as a command does.

Both keep their data under the home folder and listen on loopback; the server requires the login in its folder (`login`).
Each is a supervised child process, so nothing keeps running, even if this process is killed.
"""

from __future__ import annotations

import fcntl
import os
import sys
import threading
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import httpx

from containers import private
from containers.errors import BadInput, DiskFull, Error, NotReady, is_disk_full
from containers.ports import LOOPBACK, claimed, served_by
from containers.process import Child, inherited
from infra.credentials import new_login
from infra.objectstore import EmbeddedStore

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from infra.settings import Settings

_LOOK = 1.0  # seconds between two looks whether the server lives
_RESTARTS = 3  # of a server in one run; one that ends of itself again and again needs a person
_PREFECT_DEADLINE = 120.0  # seconds; a first start migrates an empty database, 7-25 s on two busy cores


@contextmanager
def store(settings: Settings) -> Iterator[Settings]:
    """The settings with a running store: unchanged if they name an endpoint, else those of the embedded server."""
    if settings.store.endpoint is not None:
        yield settings
        return
    home = settings.home.resolve()
    with EmbeddedStore(private.folder(home, "store"), private.folder(home, "logs") / "store.log") as started:
        direct = settings.launcher == "process"  # containers do not see the folder, and a server sees it late
        yield settings.model_copy(update={"store": started.model_copy(update={"direct": direct})})


@dataclass(frozen=True)
class PrefectServer:
    """A Prefect server with its UI at `url`; its login is user:password. `endings` are the codes with which it ended and was started
    again.
    """

    child: Child
    url: str
    login: str = field(repr=False)
    endings: list[int] = field(default_factory=list)

    @property
    def api(self) -> str:
        return f"{self.url}/api"

    @property
    def client(self) -> dict[str, str]:
        """Environment variables that connect Prefect's client to this server."""
        return {"PREFECT_API_URL": self.api, "PREFECT_API_AUTH_STRING": self.login}

    def wait(self) -> None:
        """Wait until the server answers; raises NotReady with the end of its log, BadInput when another program answers."""
        deadline = time.monotonic() + _PREFECT_DEADLINE
        # One client for all looks: making it takes long, of what the server starts with.
        with httpx.Client(timeout=2) as client:
            while not self._answers(client):
                if self.child.poll() is not None:
                    raise NotReady(f"the embedded Prefect server ended during start-up:\n{self.child.tail}")
                if time.monotonic() > deadline:
                    raise NotReady(
                        f"the embedded Prefect server did not answer at {self.api} within {_PREFECT_DEADLINE:.0f} seconds",
                        remedy=f"see {self.child.log_file}",
                    )
                time.sleep(0.05)
        if not served_by(urlsplit(self.url).port or 0, self.child.pid):  # it would get the login
            raise BadInput(f"another program answers at {self.url} in the Prefect server's place", remedy="start again")

    @contextmanager
    def kept(self, say: Callable[[str], None]) -> Iterator[None]:
        """Start the server again where it ends before its time, at the same port and on the same data: Prefect's clients ask again,
        and a run goes on. After the third time it stays away, and the run ends of it.
        """
        over = threading.Event()

        def look() -> None:
            while not over.wait(_LOOK):
                if (code := self.child.poll()) is None:
                    continue
                self.endings.append(code)
                again = len(self.endings) <= _RESTARTS
                then = (
                    "it is started again"
                    if again
                    else "the run ends, too, in some minutes; start it again, and it continues"
                )
                say(f"the Prefect server of this run has ended (code {code}; its log is {self.child.log_file}): {then}")
                if not again:
                    return
                try:
                    self.child.start()
                except (OSError, Error) as error:  # no memory for another process, say, of which the first had ended
                    say(f"the Prefect server cannot be started again: {error}")
                    return

        thread = threading.Thread(target=look, daemon=True, name="prefect-server")
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def _answers(self, client: httpx.Client) -> bool:
        try:
            return client.get(f"{self.api}/health").status_code == httpx.codes.OK
        except httpx.HTTPError:
            return False


@contextmanager
def prefect_server(settings: Settings, port: int = 0) -> Iterator[PrefectServer]:
    """Start the server. It may not be ready yet, so that other things can start meanwhile; see `PrefectServer.wait`."""
    home = settings.home.resolve()
    file = login_file(settings)
    secret = login(file)
    with claimed(port) as held:
        child = Child(
            argv=[sys.executable, "-m", "flows.orchestrator.prefect_server", "--login", str(file), "--port", str(held)],
            env=inherited() | prefect_environment(home),
            log_file=private.folder(home, "logs") / "prefect.log",
            umask=private.UMASK,
        )
        with child:
            yield PrefectServer(child, f"http://{LOOPBACK}:{held}", secret)


def login_file(settings: Settings) -> Path:
    """The file with the login of the embedded server."""
    return settings.home.resolve() / "prefect" / "login"


def login(file: Path) -> str:
    """The login in the file. It is created on first use, readable by its owner only, and kept, so browsers stay logged in."""
    private.folder(file.parent.parent, file.parent.name)
    with suppress(FileExistsError), os.fdopen(os.open(file, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w") as new:
        new.write(new_login())
    return file.read_text().strip()


def prefect_environment(home: Path) -> dict[str, str]:
    """Environment variables of the embedded Prefect: its own database, no server started by a client, no telemetry, and
    none of the block types of installed packages, which nothing here uses and a server loads and compares at every start.
    """
    return {
        "PREFECT_HOME": str(home / "prefect"),
        "PREFECT_PROFILES_PATH": os.devnull,  # none, neither the user's nor one from the working directory
        "PREFECT_LOGGING_CONFIG_PATH": f"{os.devnull}/none",  # Prefect's default: such a file can run code
        "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE": "false",  # a server started by a client has no login
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_MEMOIZE_BLOCK_AUTO_REGISTRATION": "false",
        "PREFECT_SERVER_REGISTER_BLOCKS_ON_START": "false",
        "PREFECT_SERVER_SERVICES_DB_VACUUM_ENABLED": "events,flow_runs",  # runs go 90 days after their end
        "DO_NOT_TRACK": "1",
        "PREFECT_CLI_PROMPT": "false",
    }


@contextmanager
def run_lock(settings: Settings, say: Callable[[str], None]) -> Iterator[None]:
    """Allow one run at a time in a home folder; a second one waits and names the first.

    Raises BadInput for a folder that cannot be made or written, DiskFull.
    """
    home = settings.home.resolve()
    try:
        private.folder(home)
        file = open(home / "lock", "a+", encoding="utf-8", opener=private.opener)  # noqa: SIM115 - closed below
    except OSError as error:
        if is_disk_full(error):
            raise DiskFull(f"no space left under {home}", remedy="free some space, or set CARWRIGHT_HOME") from error
        raise BadInput(
            f"{home} cannot be written: {error.strerror}",
            remedy="make it writable, run in a folder of your own, or set CARWRIGHT_HOME to one",
        ) from error
    with file as lock:
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
