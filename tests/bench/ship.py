"""How long the chain takes: first run, second run, and what the flow itself costs.

    python -m tests.bench.ship [--cold]

`--cold` starts with an empty cache, so that the environments of the steps and the demo model are made, too: a fresh
machine. Whole-process wall times; the flow's cost is wall time minus the time in which a step worked.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from containers.process import inherited, run

TARGETS = {"first": 360.0, "second": 20.0, "overhead": 0.10}


def ship(folder: Path, cache: Path) -> tuple[float, dict[str, object]]:
    """Wall seconds of one `carwright ship` of the demo, and its summary."""
    env = inherited("PIP_", "XDG_CONFIG_") | {
        "CARWRIGHT_HOME": str(folder / ".carwright"),
        "CARWRIGHT_CACHE": str(cache),
        "PYTHONPATH": str(Path(__file__).resolve().parents[2]),
    }
    started = time.monotonic()
    done = run([sys.executable, "-m", "flows.cli.main", "ship", "--json"], env=env, cwd=folder)
    return time.monotonic() - started, json.loads(done.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--cold", action="store_true", help="with an empty cache: environments are made, too")
    cold: bool = parser.parse_args().cold
    with tempfile.TemporaryDirectory(prefix="carwright-bench-") as scratch:
        folder = Path(scratch)
        cache = folder / "cache" if cold else Path("~/.cache/carwright").expanduser()
        first, summary = ship(folder, cache)
        second, _ = ship(folder, cache)
    flow, worked = float(str(summary["seconds"])), float(str(summary["work_seconds"]))
    overhead = (flow - worked) / flow
    table = Table("what", "measured", "target", title="ship the demo model")
    table.add_row("first run" + (", empty cache" if cold else ""), f"{first:.1f} s", f"{TARGETS['first']:.0f} s")
    table.add_row("second run, nothing changed", f"{second:.1f} s", f"{TARGETS['second']:.0f} s")
    table.add_row("second / first", f"{second / first:.3f}", "")
    table.add_row("the flow's own share of the first run", f"{overhead:.1%}", f"{TARGETS['overhead']:.0%}")
    for step in summary["steps"]:  # type: ignore[attr-defined]
        table.add_row(f"  {step['name']}", f"{step['seconds']:.1f} s", "")
    Console().print(table)
    out = Path(".benchmarks")
    out.mkdir(exist_ok=True)
    record = {"cold": cold, "first": first, "second": second, "overhead": overhead, "steps": summary["steps"]}
    (out / "ship.json").write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
