"""What a run leaves behind: processes, ports, locks, leases, slots, temporary files, half-written objects."""

from __future__ import annotations

import fcntl
import os
import sqlite3
import time
from pathlib import Path
from typing import Final

_HALF_WRITTEN: Final = (
    ".rclone_temp_*",
    ".rclone_multipart_upload_*",
    ".carwright-*.part",
    "*.part",
    "*.incomplete",
    "*.tmp",
)
_PREFECT_S: Final = "runner_storage"  # Prefect's workers make an empty folder in it for every run, and leave it


def processes(folder: Path) -> dict[int, str]:
    """Living processes that belong to a folder: by a path of it among their arguments, variables, or as where they stand.

    A port that is listened on has such a process.
    """
    mark = str(folder).encode()
    found = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            arguments = (entry / "cmdline").read_bytes()
            where = os.fsencode((entry / "cwd").readlink())
            variables = (entry / "environ").read_bytes()
        except OSError:
            continue
        if arguments and mark in b"\n".join((arguments, where, variables)):
            found[int(entry.name)] = arguments.replace(b"\0", b" ").decode(errors="replace").strip()
    return found


def living(folder: Path, seconds: float = 20.0) -> list[str]:
    """The command lines of what still lives after a short while."""
    deadline = time.monotonic() + seconds
    while (left := processes(folder)) and time.monotonic() < deadline:
        time.sleep(0.1)
    return [f"process {pid}: {line[:300]}" for pid, line in left.items()]


def files(case: Path, homes: list[Path], *, goes_on: bool = False) -> list[str]:
    """Temporary files, folders of ended steps, records of services, and locks that somebody holds.

    A run that `goes_on` later keeps what it has downloaded of a file.
    """
    scratch = [path for path in sorted((case / "tmp").rglob("*")) if path.is_file() or _PREFECT_S not in path.parts]
    found = [f"temporary {path.relative_to(case)}" for path in scratch]
    for home in homes:
        here = home.relative_to(case)
        found += [f"scratch {here / path.relative_to(home)}" for path in home.glob("runs/*/*/scratch")]
        found += [f"record of a service {here / path.relative_to(home)}" for path in home.glob("services/*")]
        for pattern in _HALF_WRITTEN:
            half = [path for path in home.rglob(pattern) if not goes_on or path.relative_to(home).parts[0] != "partial"]
            found += [f"half-written {here / path.relative_to(home)}" for path in half]
        lock = home / "lock"
        if lock.exists():
            with lock.open("rb") as held:
                try:
                    fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    found.append(f"lock {here / 'lock'}")
    return found


def half_written(bucket: Path) -> list[str]:
    """What a server of a folder has left of uploads that never ended."""
    return [
        f"half-written object {path.relative_to(bucket)}" for pattern in _HALF_WRITTEN for path in bucket.rglob(pattern)
    ]


def slots(database: Path) -> list[str]:
    """Runs that Prefect believes to go on, and slots of concurrency limits that are taken."""
    if not database.exists():
        return []
    with sqlite3.connect(f"file:{database}?mode=ro", uri=True, timeout=30) as opened:
        final = "('COMPLETED', 'FAILED', 'CRASHED', 'CANCELLED')"
        runs = opened.execute(f"select name, state_type from flow_run where state_type not in {final}").fetchall()
        limits = opened.execute("select name, active_slots from concurrency_limit_v2 where active_slots > 0").fetchall()
    opened.close()
    return [f"flow run {name} is {state}" for name, state in runs] + [
        f"slot of {name}: {taken}" for name, taken in limits
    ]
