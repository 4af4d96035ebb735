"""Kills, faults and crowds: hundreds of ships, each disturbed once, and what became of them.

    python -m tests.campaign --results FILE.jsonl [--lanes N] [--minutes M] [--seed S] [--only WORDS]
    python -m tests.campaign --results FILE.jsonl [FILE.jsonl ...] --render PAGE.md

Every case has its own home, bucket and repository, every lane its own services; the two vLLMs that measure are shared. A line
is appended to the results for each case that has ended; those that are there are not run again (`--again` runs those that
failed). Needs docker-registry on the PATH, the packages of tests/requirements.lock, and the steps' environments in the cache
(they are made where they are missing). Ships in containers need Docker, too, and the images of `make images`; without them
these are skipped.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from contextlib import suppress
from pathlib import Path
from typing import Any

from tests.campaign import page
from tests.campaign.cases import GROUPS, Case, every
from tests.campaign.runner import Runner
from tests.campaign.world import ROOT, World, engines, toys, write_model, write_suite
from tests.support.real_services import STORES

RESERVE = 100.0  # seconds before the limit in which no case is begun that may take that long


def read(paths: list[Path]) -> list[dict[str, Any]]:
    """The newest record of each case, in the order of their names."""
    found: dict[str, dict[str, Any]] = {}
    for path in paths:
        for line in path.read_text().splitlines() if path.exists() else []:
            record = json.loads(line)
            found[f"{record['seed']}:{record['name']}"] = record
    return [found[name] for name in sorted(found)]


def chosen(arguments: argparse.Namespace) -> list[Case]:
    """The cases that are still to be run."""
    numbers = {group: getattr(arguments, group) for group in GROUPS if group in arguments.group}
    ended = {
        record["name"]
        for record in read(arguments.results)
        if record["seed"] == arguments.seed
        and record["outcome"] != "error"
        and not (arguments.again and record["outcome"] in {"failed", "missed"})
    }
    wanted = re.compile(arguments.only)
    return [
        case
        for case in every(arguments.seed, numbers)
        if case.name not in ended and wanted.search(f"{case.name} {case.victim} {case.what}")
    ]


def lane(arguments: argparse.Namespace) -> None:
    """One lane: takes cases that no other lane has taken until the time is over."""
    folder = Path(arguments.folder) / f"lane-{arguments.lane}"
    folder.mkdir(parents=True)
    ports = tuple(map(int, arguments.ports.split(",")))
    kind = arguments.store if arguments.store != "both" else list(STORES)[arguments.lane % 2]
    cases = chosen(arguments)
    # A lane begins with one way to ship, since each way costs a ship that nobody disturbs.
    favourite = ("plain", "pool", "plain", "own")[arguments.lane % 4]
    cases.sort(key=lambda case: case.way != favourite)
    longest: dict[str, float] = {}
    with World(folder, Path(arguments.folder) / "shared", (ports[0], ports[1]), kind) as world:
        runner = Runner(world)
        for case in cases:
            needed = longest.get(case.way, RESERVE / 2) * 1.2
            if time.time() + needed > arguments.until:
                continue
            try:
                (Path(arguments.folder) / "taken" / case.name).touch(exist_ok=False)
            except FileExistsError:
                continue
            try:
                record = runner.run(case)
            except Exception as error:  # noqa: BLE001 - the campaign's own trouble is a result, too, and the lane goes on
                traceback.print_exc()
                record = {
                    **case.dump(),
                    "outcome": "error",
                    "problems": [f"the campaign: {error!r:.600}"],
                    "seconds": 0,
                }
            longest[case.way] = max(longest.get(case.way, 0.0), record["seconds"])
            record |= {"seed": arguments.seed, "store": kind, "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}
            with arguments.results[0].open("a") as results:
                results.write(json.dumps(record) + "\n")
            print(f"{case.name} {case.victim} {case.what}: {record['outcome']} {record['problems'] or ''}", flush=True)


def campaign(arguments: argparse.Namespace) -> int:
    """Start the lanes and wait for them; 1 where a case of theirs failed."""
    arguments.until = time.time() + 60 * arguments.minutes - 20
    before = {record["name"] for record in read(arguments.results)}
    if not chosen(arguments):
        print("every case has been run")
        return 0
    arguments.results[0].parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(
        prefix="campaign-", dir=arguments.folder or None, ignore_cleanup_errors=True
    ) as scratch:
        folder = Path(scratch)
        (folder / "taken").mkdir()
        (folder / "shared").mkdir()
        write_model(folder / "shared" / "model")
        write_suite(folder / "shared" / "tiny")
        with toys() if arguments.toys else engines(folder / "shared") as ports:
            lanes = [_start_lane(arguments, folder, ports, number) for number in range(arguments.lanes)]
            try:
                for one in lanes:
                    with suppress(subprocess.TimeoutExpired):
                        one.wait(max(1.0, arguments.until + 15 - time.time()))
            finally:
                for one in lanes:
                    if one.poll() is None:
                        one.send_signal(signal.SIGTERM)
                for one in lanes:
                    with suppress(subprocess.TimeoutExpired):
                        one.wait(10)
                    if one.poll() is None:
                        one.kill()
        if arguments.keep:
            _keep(folder, Path(arguments.keep))
    done = [record for record in read(arguments.results) if record["name"] not in before]
    print(page.counts(done))
    return int(any(record["outcome"] in {"failed", "error"} for record in done))


def _keep(folder: Path, place: Path) -> None:
    """Copy the logs of the cases that failed, and those of the services."""
    for path in folder.rglob("*"):
        wanted = path.suffix in {".err", ".out", ".log", ".jsonl"} or path.name in {
            "log",
            "summary.json",
            "request.json",
        }
        if wanted and path.is_file() and path.stat().st_size < 4_000_000:
            (place / path.relative_to(folder)).parent.mkdir(parents=True, exist_ok=True)
            with suppress(OSError):
                shutil.copyfile(path, place / path.relative_to(folder))


def _start_lane(
    arguments: argparse.Namespace, folder: Path, ports: tuple[int, int], number: int
) -> subprocess.Popen[bytes]:
    argv = [sys.executable, "-m", "tests.campaign", *sys.argv[1:], "--lane", str(number), "--folder", str(folder)]
    argv += ["--ports", f"{ports[0]},{ports[1]}", "--until", str(arguments.until)]
    # The tests' ports are dealt out by the number of a worker of pytest-xdist.
    return subprocess.Popen(argv, cwd=ROOT, env={**os.environ, "PYTEST_XDIST_WORKER": f"gw{number % 10}"})


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--results", type=Path, nargs="+", required=True, help="JSON lines; appended to the first")
    parser.add_argument("--lanes", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=17)
    meant = "container (kills of containers) and engine (faults of its socket) need Docker and our images"
    parser.add_argument("--group", nargs="+", choices=[*GROUPS], default=[*GROUPS], help=f"only these; {meant}")
    for group, plural in zip(GROUPS, ("kills", "faults", "beside", "containers", "calls"), strict=True):
        parser.add_argument(f"--{plural}", dest=group, type=int, default=GROUPS[group], help="number of cases")
    parser.add_argument("--only", default="", help="expression that a case's name, victim and kind must match")
    parser.add_argument("--again", action="store_true", help="run those again that failed or missed")
    parser.add_argument("--store", choices=(*STORES, "both"), default="rclone")
    parser.add_argument("--folder", default="", help="where the temporary folder is made")
    parser.add_argument("--keep", default="", help="copy the logs of what failed there at the end")
    parser.add_argument(
        "--toys", action="store_true", help="toys in place of the two vLLMs: for work on the campaign itself"
    )
    parser.add_argument("--list", action="store_true", help="print the cases and stop")
    parser.add_argument("--render", type=Path, help="write the page from the results and stop")
    parser.add_argument("--lane", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--ports", default="", help=argparse.SUPPRESS)
    parser.add_argument("--until", type=float, default=0.0, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    arguments.results = [path.absolute() for path in arguments.results]
    if arguments.render:
        before = arguments.render.read_text() if arguments.render.exists() else ""
        arguments.render.write_text(page.render(read(arguments.results), before))
        return 0
    if arguments.list:
        for case in chosen(arguments):
            print(json.dumps(case.dump()))
        return 0
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(130))  # what was started is ended, too
    if arguments.lane is not None:
        lane(arguments)
        return 0
    return campaign(arguments)


if __name__ == "__main__":
    sys.exit(main())
