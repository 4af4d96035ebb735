"""What a run leaves behind: processes, ports, locks, leases, slots, temporary files, half-written objects."""

from __future__ import annotations

import fcntl
import os
import re
import sqlite3
import time
from datetime import UTC, datetime
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
_EVER: Final = datetime(1, 1, 2, tzinfo=UTC)
# Prefect's workers make an empty folder for every run and leave it; one that is killed leaves its notes about its runs, too, and the
# folder that a run stood in.
_PREFECT_S: Final = re.compile(r"(runner_storage|prefect-workspace-attempt-).*|tmp.{8}prefect")


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

    A run that `goes_on` later keeps what it has downloaded of a file. A short program (`containers.process.run`) runs in
    an empty folder, which stays if the command is killed just then; nothing is in it, so it is not counted.
    """
    scratch = [
        path
        for path in sorted((case / "tmp").rglob("*"))
        if not (_PREFECT_S.fullmatch(path.relative_to(case / "tmp").parts[0]) or _is_empty_scratch(path))
    ]
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


def _is_empty_scratch(path: Path) -> bool:
    return path.name.startswith("carwright-") and path.is_dir() and not any(path.iterdir())


def half_written(bucket: Path) -> list[str]:
    """What a server of a folder has left of uploads that never ended."""
    return [
        f"half-written object {path.relative_to(bucket)}" for pattern in _HALF_WRITTEN for path in bucket.rglob(pattern)
    ]


def slots(database: Path, since: datetime = _EVER) -> list[str]:
    """Runs since then that Prefect believes to go on, and slots of concurrency limits that are taken."""
    if not database.exists():
        return []
    with sqlite3.connect(f"file:{database}?mode=ro", uri=True, timeout=30) as opened:
        final = "('COMPLETED', 'FAILED', 'CRASHED', 'CANCELLED')"
        asked = f"select name, state_type from flow_run where state_type not in {final} and created >= ?"
        runs = opened.execute(asked, (f"{since.astimezone(UTC):%Y-%m-%d %H:%M:%S}",)).fetchall()
        limits = opened.execute("select name, active_slots from concurrency_limit_v2 where active_slots > 0").fetchall()
    opened.close()
    return [f"flow run {name} is {state}" for name, state in runs] + [
        f"slot of {name}: {taken}" for name, taken in limits
    ]
