"""Workers of a work pool on this machine, each a process tree that a test may kill as a whole."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from flows.local import embedded
from tests.support.prefect_api import client_of
from tests.support.processes import descendants
from tests.support.waiting import until

if TYPE_CHECKING:
    from infra.settings import Settings

ROOT = Path(__file__).resolve().parents[2]


@dataclass
class Worker:
    """A worker with settings for its runs; ready when the pool knows it."""

    pool: str
    name: str
    settings: Settings
    api: str
    process: subprocess.Popen[bytes] = field(init=False)

    def __post_init__(self) -> None:
        home = self.settings.home.resolve() / self.name
        home.mkdir(parents=True)
        worker = "flows.orchestrator.prefect_worker"
        command = [worker, "--pool", self.pool, "--type", "process", "--name", self.name]
        with (home / "worker.log").open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", *command, "--limit", "1"],
                env={
                    **{name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")},
                    **_store(self.settings),
                    **embedded.prefect_environment(home),
                    **client_of(self.api),
                    "PREFECT_WORKER_QUERY_SECONDS": "1",
                    "CARWRIGHT_HOME": str(home),
                    "CARWRIGHT_PLACEMENT__SILENCE": "12",
                },
                cwd=home,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def log(self) -> str:
        return (self.settings.home / self.name / "worker.log").read_text()

    def working_on(self, module: bytes) -> bool:
        """Whether a process below this worker runs the step of that module."""
        return any(module in _words(pid) for pid in descendants(self.process.pid))

    def kill(self) -> None:
        """The end of a machine: the worker and whatever it has started, at once and without a word."""
        for pid in [self.process.pid, *descendants(self.process.pid)]:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        self.process.wait(30)

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.kill()


def _store(settings: Settings) -> dict[str, str]:
    """The variables that name the store."""
    store = settings.store
    assert store.access_key_id is not None
    assert store.secret_access_key is not None
    return {
        "CARWRIGHT_STORE__ENDPOINT": store.endpoint or "",
        "CARWRIGHT_STORE__BUCKET": store.bucket,
        "CARWRIGHT_STORE__ACCESS_KEY_ID": store.access_key_id.get_secret_value(),
        "CARWRIGHT_STORE__SECRET_ACCESS_KEY": store.secret_access_key.get_secret_value(),
    }


def _words(pid: int) -> list[bytes]:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return []


def deploy(pool: str, entrypoint: str, name: str) -> None:
    """A work pool of type process, and a deployment in it of a flow of this checkout."""
    from prefect import flow
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import WorkPoolCreate

    with get_client(sync_client=True) as client:
        client.create_work_pool(WorkPoolCreate(name=pool, type="process"), overwrite=True)
    found = flow.from_source(source=str(ROOT), entrypoint=entrypoint)
    found.deploy(name=name, work_pool_name=pool, build=False, push=False, print_next_steps=False)


def wait_online(pool: str, count: int) -> None:
    """Return when that many workers of the pool are live."""
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:

        def online() -> bool:
            workers = client.read_workers_for_work_pool(pool)
            return sum(worker.status.value == "ONLINE" for worker in workers) >= count

        until(online, f"{count} workers of {pool} are up")
