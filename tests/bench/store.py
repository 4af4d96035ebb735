"""Memory and throughput of the store against the embedded server: `python -m tests.bench.store [--gib 4]`.

One large file is stored (`put_file`, digest known) and fetched again (`get_file`). Memory is the resident set of this
process and of rclone, read at the same moment every 20 ms, and the highest sum counts. The floor is what the same
machine does with the same file at the same time of day: `cp`, and one pass of sha256 after it.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import tempfile
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from rich.console import Console
from rich.table import Table

from containers.contract import StoreLocation
from containers.digest import Digest
from containers.process import run
from containers.store import FileEntry, Store
from infra.objectstore import EmbeddedStore

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

MIB: Final = 1 << 20
TARGET_MB: Final = 600  # client and server together, at the worst moment
_BLOCK: Final = 64 * MIB
_EVERY: Final = 0.02  # seconds between two samples


@dataclass
class Peak:
    """Resident memory in bytes at the moment when the sum was highest."""

    client: int = 0
    server: int = 0

    @property
    def total(self) -> int:
        return self.client + self.server


def resident(pid: int) -> int:
    """VmRSS of a process in bytes (proc(5)); 0 when it has gone."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS:")), 0)


def below(pid: int) -> list[int]:
    """The processes that a process has started, and theirs."""
    found: list[int] = []
    for tasks in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in map(int, tasks.read_text().split()):
            found += [child, *below(child)]
    return found


@contextmanager
def watching(servers: list[int]) -> Iterator[Peak]:
    """Sample memory while the block runs."""
    peak, done = Peak(), threading.Event()

    def sample() -> None:
        while not done.wait(_EVERY):
            now = Peak(resident(os.getpid()), sum(map(resident, servers)))
            if now.total > peak.total:
                peak.client, peak.server = now.client, now.server

    thread = threading.Thread(target=sample, daemon=True)
    thread.start()
    try:
        yield peak
    finally:
        done.set()
        thread.join()


def seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def make_file(path: Path, size: int) -> Digest:
    """A file of random bytes (one 64 MiB block with a counter in front of each copy), not sparse."""
    block = random.Random(1).randbytes(_BLOCK - 8)  # the same bytes at every run, and no secret
    hashed = hashlib.sha256()
    with path.open("wb") as file:
        for number in range(size // _BLOCK):
            for piece in (number.to_bytes(8, "big"), block):
                file.write(piece)
                hashed.update(piece)
    return Digest(hashed.hexdigest())


def measure(folder: Path, size: int) -> list[dict[str, float | str]]:
    source, copy, fetched = folder / "source", folder / "copy", folder / "fetched"
    digest = make_file(source, size)
    rows: list[dict[str, float | str]] = []

    def note(what: str, took: float, floor: float, peak: Peak | None = None) -> None:
        row: dict[str, float | str] = {"what": what, "seconds": round(took, 2), "mb_per_s": round(size / took / 1e6)}
        row["times_floor"] = round(took / floor, 2)
        if peak is not None:
            row |= {"client_mb": round(peak.client / 1e6), "server_mb": round(peak.server / 1e6)}
            row["together_mb"] = round(peak.total / 1e6)
        rows.append(row)

    def hash_it() -> None:
        with source.open("rb") as file:
            hashlib.file_digest(file, "sha256")

    def copy_it() -> None:
        run(["cp", "--reflink=never", str(source), str(copy)])

    hash_it()  # the file is in the page cache from here on, as far as it fits
    floor = (hashing := seconds(hash_it)) + (copying := seconds(copy_it))
    copy.unlink()
    note("floor: cp", copying, floor)
    note("floor: sha256", hashing, floor)

    with EmbeddedStore(folder / "store", folder / "rclone.log") as settings:
        store = Store.open(StoreLocation(endpoint=settings.endpoint, bucket=settings.bucket), settings)
        servers = below(os.getpid())
        entry = FileEntry(path="fetched", size=size, sha256=digest)
        with watching(servers) as peak:
            took = seconds(lambda: store.put_file(source, digest=digest))
        note("put_file", took, floor, peak)
        with watching(servers) as peak:
            took = seconds(lambda: store.get_file(entry, fetched))
        note("get_file", took, floor, peak)
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description="Memory and throughput of the store.")
    parser.add_argument("--gib", type=float, default=4, help="size of the file in GiB (default: %(default)s)")
    parser.add_argument("--json", type=Path, default=Path(".benchmarks/store.json"), help="where the numbers go")
    arguments = parser.parse_args()
    size = int(arguments.gib * 1024) * MIB // _BLOCK * _BLOCK
    with tempfile.TemporaryDirectory(prefix="carwright-bench-", dir=Path.cwd()) as folder:
        rows = measure(Path(folder), size)

    columns = ["what", "seconds", "mb_per_s", "times_floor", "client_mb", "server_mb", "together_mb"]
    table = Table(title=f"One file of {size / 1e9:.2f} GB, {os.cpu_count()} cores")
    for column in columns:
        table.add_column(column.replace("_", " "), justify="left" if column == "what" else "right")
    for row in rows:
        table.add_row(*(str(row.get(column, "")) for column in columns))
    Console().print(table)
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    arguments.json.write_text(json.dumps({"bytes": size, "cores": os.cpu_count(), "rows": rows}, indent=1) + "\n")

    worst = max(float(row.get("together_mb", 0)) for row in rows)
    print(f"peak memory of client and server together: {worst:.0f} MB (target: below {TARGET_MB} MB)")
    return 0 if worst < TARGET_MB else 1


if __name__ == "__main__":
    raise SystemExit(main())
