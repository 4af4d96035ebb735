"""The worker of a case whose ship is a run of a deployment."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import suppress
from typing import TYPE_CHECKING

from flows.local import embedded
from tests.campaign.world import POOL
from tests.support.processes import descendants

if TYPE_CHECKING:
    from tests.campaign.world import Bench


class Pool:
    """The worker of a case's deployment: its runs write to the case's bucket."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        bench = self._bench
        home = bench.folder / "home-worker"
        home.mkdir(exist_ok=True)
        worker = "flows.orchestrator.prefect_worker"
        words = (worker, "--pool", POOL, "--type", "process", "--name", bench.name, "--limit", "1")
        environment = bench.environment(
            home,
            PREFECT_WORKER_QUERY_SECONDS="1",
            PREFECT_WORKER_HEARTBEAT_SECONDS="5",
            PREFECT_FLOWS_HEARTBEAT_FREQUENCY="30",  # as in the runs of `carwright pools`
        )
        environment |= embedded.prefect_environment(home) | bench.world.prefect_client
        with (bench.folder / "worker.log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", *words],
                env=environment, cwd=home, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip

    def pid(self) -> int:
        return self.process.pid if self.process else 0

    def keep(self) -> None:
        """Start it again if it has ended by itself, as the restart policy of its container would."""
        if self.process is not None and self.process.poll() is not None:
            self.start()

    def restart(self) -> None:
        if self.process is not None:
            self.process.wait(30)
        self.start()

    def stop(self) -> None:
        if self.process is None:
            return
        self.process.terminate()
        try:
            self.process.wait(40)
        except subprocess.TimeoutExpired:
            end_tree(self.process.pid)
            self.process.wait(30)


def end_tree(pid: int) -> None:
    """SIGKILL to a process and all below it."""
    for one in [pid, *descendants(pid)]:
        with suppress(ProcessLookupError):
            os.kill(one, signal.SIGKILL)
