"""A folder in which somebody uses the `carwright` command, seen from outside as its user would."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

DEADLINE = 900.0  # seconds for one command: a cold chain takes 3-5 minutes on two free cores


@dataclass(frozen=True)
class Ended:
    code: int
    stdout: str
    stderr: str

    def json(self) -> dict[str, Any]:
        assert self.code == 0, self.stderr
        return json.loads(self.stdout)


@dataclass(frozen=True)
class Workspace:
    """`folder` is the working directory; state goes to `.carwright` in it, step environments to the shared cache. `variables`
    are what its user has set.
    """

    folder: Path
    command: tuple[str, ...] = (sys.executable, "-m", "flows.cli.main")
    variables: Mapping[str, str] = field(default_factory=dict)

    @property
    def home(self) -> Path:
        return self.folder / ".carwright"

    def environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("CARWRIGHT_", "PREFECT_"))}
        root = Path(__file__).resolve().parents[2]
        return kept | {"PYTHONPATH": str(root), "COLUMNS": "200"} | dict(self.variables)

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*self.command, *arguments],
            cwd=self.folder,
            env=self.environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *arguments: str) -> Ended:
        process = self.start(*arguments)
        try:
            stdout, stderr = process.communicate(timeout=DEADLINE)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
        return Ended(process.returncode, stdout, stderr)

    def run_watched(self, *arguments: str) -> tuple[Ended, set[str]]:
        """Run a command and look all the time at the command lines of its processes, as every user of the machine can."""
        seen: set[str] = set()
        ended = threading.Event()

        def look() -> None:
            while not ended.wait(0.5):
                seen.update(self.processes().values())

        watcher = threading.Thread(target=look, daemon=True)
        watcher.start()
        try:
            return self.run(*arguments), seen
        finally:
            ended.set()
            watcher.join()

    def processes(self) -> dict[int, str]:
        """Living processes that belong to this workspace: by a path of it in their arguments or environment."""
        found = {}
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit() or int(entry.name) == os.getpid():
                continue
            try:
                arguments = (entry / "cmdline").read_bytes()
                variables = (entry / "environ").read_bytes()
            except OSError:
                continue
            if arguments and str(self.folder).encode() in arguments + variables:
                found[int(entry.name)] = arguments.replace(b"\0", b" ").decode(errors="replace")
        return found

    def none_left(self, seconds: float = 15.0) -> dict[int, str]:
        """What still lives after a short while; empty is good."""
        deadline = time.monotonic() + seconds
        while (left := self.processes()) and time.monotonic() < deadline:
            time.sleep(0.2)
        return left

    def step_process(self, step: str) -> tuple[int, Path] | None:
        """Process id and run folder of a step that works at this moment."""
        for pid, arguments in self.processes().items():
            words = arguments.split()
            if "supervisor.py" not in arguments and f"containers.{step}" in words:
                return pid, Path(words[words.index("--request") + 1]).parent
        return None
