"""What the services use: from /proc (proc(5)) and the file system, without asking the services themselves."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Use:
    """Of one process: resident bytes, those that are no file's, open handles, threads, and seconds of processor time."""

    pid: int
    rss: int
    anonymous: int
    handles: int
    threads: int
    cpu: float


def use(pid: int) -> Use:
    """Raises OSError when the process has gone."""
    told = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":" in line)
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return Use(
        pid=pid,
        rss=int(told["VmRSS"].split()[0]) * 1024,
        anonymous=int(told.get("RssAnon", "0").split()[0]) * 1024,  # not every kernel says it
        handles=sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir()),
        threads=int(told["Threads"]),
        cpu=(int(fields[11]) + int(fields[12])) / _TICKS,
    )


def uses(services: Mapping[str, int]) -> dict[str, dict[str, Any]]:
    return {role: asdict(use(pid)) for role, pid in services.items()}


def command_line(pid: int) -> str:
    """Nothing for a process that has gone, and for a zombie."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return ""


def marked(mark: str) -> dict[int, str]:
    """The command lines of all processes with that text in their environment, but of this one and those above it."""
    found = {}
    above = set(ancestors(os.getpid()))
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) in above:
            continue
        try:
            variables = (entry / "environ").read_bytes()
        except OSError:
            continue
        if mark.encode() in variables and (line := command_line(int(entry.name))):
            found[int(entry.name)] = line
    return found


def ancestors(pid: int) -> list[int]:
    """A process and those above it."""
    found = []
    while pid:
        found.append(pid)
        pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    return found


def disk(folder: Path) -> dict[str, int]:
    """Bytes that the files below a folder take, and how many files there are."""
    taken = files = 0
    for path in [folder, *folder.rglob("*")]:
        try:
            status = path.lstat()
        except OSError:
            continue
        taken += status.st_blocks * 512
        files += path.is_file()
    return {"bytes": taken, "files": files}
