"""What containers and a Prefect server of their own cost: the dry run against the embedded run, on this machine.

    python -m tests.bench.dry_run [--project NAME]

Both ship the demo model from nothing: a new folder here, a new project (new volumes) there; images, step environments and
the embedded demo model are made beforehand. Whole-process wall times. The dry run's is `carwright dry-run up`: services
brought up, deployments registered, the run followed to its end.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from containers.process import inherited, run
from tests.bench.ship import ship
from tests.support.ports import free_port

RATIO: Final = 1.15
_ROOT: Final = Path(__file__).resolve().parents[2]


def dry_run(folder: Path, project: str) -> tuple[float, dict[str, Any]]:
    """Wall seconds of a dry run on new volumes, and its summary; nothing of it is left."""
    ports = {f"CARWRIGHT_{name}": str(free_port()) for name in ("PORT", "REGISTRY_PORT", "STORE_PORT")}
    env = inherited("DOCKER_", "CARWRIGHT_") | ports | {"CARWRIGHT_PROJECT": project, "PYTHONPATH": str(_ROOT)}
    command = [sys.executable, "-m", "flows.cli.main", "dry-run"]
    started = time.monotonic()
    try:
        done = run([*command, "up", "--json"], env=env, cwd=folder)
        return time.monotonic() - started, json.loads(done.stdout)
    finally:
        run([*command, "down", "--volumes"], env=env, cwd=folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--project", default="carwright-bench", help="names what is made on the engine")
    project: str = parser.parse_args().project
    with tempfile.TemporaryDirectory(prefix="carwright-bench-") as scratch:
        cache = Path("~/.cache/carwright").expanduser()
        embedded, here = ship(Path(scratch), cache)
        contained, there = dry_run(Path(scratch), project)
    table = Table("what", "embedded", "dry run", title="ship the demo model from nothing")
    table.add_row("wall time", f"{embedded:.1f} s", f"{contained:.1f} s")
    table.add_row("the flow alone", f"{float(str(here['seconds'])):.1f} s", f"{float(there['seconds']):.1f} s")
    for ours, theirs in zip(here["steps"], there["steps"], strict=True):  # type: ignore[call-overload]
        table.add_row(f"  {ours['name']}", f"{ours['seconds']:.1f} s", f"{theirs['seconds']:.1f} s")
    table.add_row("same digest", "", "yes" if here["digest"] == there["digest"] else "NO")
    table.add_row("dry run / embedded", "", f"{contained / embedded:.2f} (target {RATIO})")
    Console().print(table)
    out = Path(".benchmarks")
    out.mkdir(exist_ok=True)
    record = {"embedded": embedded, "dry_run": contained, "steps": [here["steps"], there["steps"]]}
    (out / "dry_run.json").write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
