"""The record of each embedded run, in its folder under `runs/`; `carwright runs` reads it."""

from __future__ import annotations

import contextlib
import json
import shutil
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from containers import private
from containers.contract import Step
from containers.errors import BadInput, Error, Interrupted
from flows.release.summary import NotPromoted, Shipped
from flows.runners.process import run_folders
from flows.runners.process.launcher import SCRATCH

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from flows.ship_request import ShipRequest


@dataclass(frozen=True)
class RunRecord:
    """One run's record; `state` is running, shipped, killed, or failed with the error's message."""

    path: Path

    @classmethod
    def begin(cls, runs: Path, run: str, request: ShipRequest, command: str) -> RunRecord:
        """Create the record of a new run, with the command that asked for it, which also continues it.

        The caller holds the run lock, so any run still marked as running was killed.
        """
        for other, known in records(runs.parent):
            if known.get("state") == "running":
                with contextlib.suppress(FileNotFoundError):  # as in `records`
                    cls(other).update(state="killed")
                    _forget_scratch(other.parent)
        record = cls(run_folders.of_run(runs.parent, run) / run_folders.SUMMARY)
        started = datetime.now(UTC).isoformat()
        record.update(model=request.model, state="running", started=started, request=request.dump(), command=command)
        return record

    def fail(self, error: BaseException) -> None:
        """Record the failure and what to do about it; the details of a bug are in the log only."""
        state = error.message if isinstance(error, Error) else Interrupted.__name__.lower()
        remedy = error.remedy if isinstance(error, Error) else ""
        code = error.exit_code if isinstance(error, Error) else Interrupted.exit_code
        self.update(state=f"failed: {state}", remedy=remedy, exit_code=code)
        if isinstance(error, NotPromoted):
            self.update(shipped=error.shipped.model_dump(mode="json"))

    def complete(self, shipped: Shipped) -> None:
        self.update(state="shipped", shipped=shipped.model_dump(mode="json"))

    def update(self, **values: Any) -> None:
        known = json.loads(self.path.read_text()) if self.path.exists() else {}
        private.write(self.path, json.dumps(known | values, indent=2) + "\n")


def records(home: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Each record of a home folder, with its file, newest first. What cannot be read is passed over: another process may just have removed that run, as too old."""
    for path in run_folders.summaries(home):
        with contextlib.suppress(OSError, ValueError):
            known = json.loads(path.read_text())
            if isinstance(known, dict):
                yield path, known


def outcome_of(folder: Path) -> Shipped:
    """What the run with that folder came to; raises BadInput where it came to nothing."""
    try:
        return Shipped.model_validate(json.loads((folder / run_folders.SUMMARY).read_text())["shipped"])
    except (OSError, ValueError, KeyError) as error:
        raise BadInput(
            f"the run {folder.name} has no outcome", remedy="`carwright runs` lists the runs and their states"
        ) from error


def _forget_scratch(run: Path) -> None:
    """Remove the temporary files of a killed run's steps, which end with it; a service that was kept may still use its own."""
    kept = any((run.parents[1] / "services").glob("*.json"))
    for scratch in run.glob(f"*/{SCRATCH}"):
        if not (kept and scratch.parent.name.startswith(f"{Step.SERVE}-")):
            shutil.rmtree(scratch, ignore_errors=True)
