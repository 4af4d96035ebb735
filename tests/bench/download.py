"""Speed, memory and disk of a download: `python -m tests.bench.download [--shards 6] [--mib 256]`.

A checkpoint of random bytes goes from a local hub (a process of its own) into the embedded store. The yardstick is what
the hub's own client does with the same repository at the same time of day: `snapshot_download` to a folder and then
`put_file` of each file, one after the other, which is how a checkpoint gets into the store without this step.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import random
import sys
import tempfile
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

from huggingface_hub import snapshot_download
from huggingface_hub.utils import disable_progress_bars  # type: ignore[attr-defined]  # documented
from rich.console import Console
from rich.table import Table

from containers.contract import Step, StepRequest, StoreLocation
from containers.download.work import work
from containers.events import Reporter
from containers.parameters import DownloadOptions, DownloadParameters
from containers.process import Child, inherited, run
from containers.step import Context
from containers.store import Store
from infra.objectstore import EmbeddedStore
from infra.settings import Settings
from tests.bench.store import below, watching

if TYPE_CHECKING:
    from collections.abc import Iterator

    from containers.settings import StoreSettings

REPO: Final = "bench/model"
_PARALLEL: Final = 4


def make_checkpoint(folder: Path, shards: int, size: int) -> None:
    """Shards with one tensor of `size` random bytes each."""
    folder.mkdir()
    for number in range(shards):
        name = f"model-{number + 1:05}-of-{shards:05}.safetensors"
        header = json.dumps({f"w{number}": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}}).encode()
        block = random.Random(number).randbytes(1 << 20)  # the same bytes at every run, and no secret
        with (folder / name).open("wb") as file:
            file.write(len(header).to_bytes(8, "little") + header)
            for _ in range(size // len(block)):
                file.write(block)
    (folder / "config.json").write_text("{}")
    (folder / "tokenizer.json").write_text("{}")


@contextmanager
def serving(root: Path, model: Path, rate: int | None = None) -> Iterator[str]:
    """A hub in a process of its own, which publishes the files of `model` where they lie and sends `rate` bytes per second
    over each connection; yields its endpoint.
    """
    heard: list[str] = []
    said = threading.Event()

    def listen(line: str) -> None:
        heard.append(line)
        said.set()

    argv = [sys.executable, "-m", "infra.hub", "--root", str(root)]
    run([*argv, "--publish", f"{REPO}={model}", "--no-serve"], env=inherited(), timeout=600)  # links, and does not copy
    slow = [] if rate is None else ["--rate", str(rate)]
    with Child([*argv, *slow], inherited(), on_line=listen):
        if not said.wait(120):
            raise SystemExit("the hub did not start")
        yield heard[0]


class Disk:
    """The most bytes that lay below a folder while the block ran."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self.most = 0

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._done.wait(0.05):
            total = 0
            for path in self._folder.rglob("*"):
                try:
                    total += path.stat().st_size
                except FileNotFoundError:
                    continue
            self.most = max(self.most, total)


def step(endpoint: str, home: Path, settings: StoreSettings) -> None:
    """Resolve and download, as the step does it."""
    location = StoreLocation(endpoint=settings.endpoint, bucket=settings.bucket)
    context = Context(
        Settings().model_copy(update={"home": home, "store": settings, "hub_endpoint": endpoint}),
        Reporter(io.StringIO(), structured=True),
        home,
        home / "result.json",
    )

    def request(action: str, source: str) -> StepRequest:
        parameters = DownloadParameters.model_validate({"action": action, "source": source})
        options = DownloadOptions(parallel=_PARALLEL)
        return StepRequest(
            step=Step.DOWNLOAD, run="bench", parameters=parameters.dump(), options=options.dump(), store=location
        )

    pinned = work(request("resolve", f"hf://{REPO}"), context).values["pinned"]
    work(request("download", str(pinned)), context)


def client(endpoint: str, home: Path, settings: StoreSettings) -> None:
    """The hub's own client to a folder, then the folder into the store."""
    location = StoreLocation(endpoint=settings.endpoint, bucket=settings.bucket)
    store = Store.open(location, settings)
    snapshot_download(REPO, endpoint=endpoint, token=False, local_dir=home / "snapshot", max_workers=_PARALLEL)
    for path in sorted((home / "snapshot").iterdir()):
        if path.is_file():
            store.put_file(path)


def measure(folder: Path, shards: int, size: int) -> list[dict[str, float | str]]:
    make_checkpoint(folder / "model", shards, size)
    rows: list[dict[str, float | str]] = []
    with serving(folder / "hub", folder / "model") as endpoint:
        for what, way in (("the hub's client, then put_file", client), ("the step", step)):
            home = folder / way.__name__
            home.mkdir()
            with EmbeddedStore(folder / f"store-{way.__name__}", home / "store.log") as settings:
                servers = below(os.getpid())
                with watching(servers) as memory, Disk(home) as disk:
                    started = time.perf_counter()
                    way(endpoint, home, settings)
                    took = time.perf_counter() - started
            row: dict[str, float | str] = {"what": what, "seconds": round(took, 2)}
            row |= {"mb_per_s": round(shards * size / took / 1e6), "client_mb": round(memory.client / 1e6)}
            row |= {"disk_mb": round(disk.most / 1e6)}
            rows.append(row)
    rows[1]["times_client"] = round(float(rows[1]["seconds"]) / float(rows[0]["seconds"]), 2)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.download", description="Measure the download step.")
    parser.add_argument("--shards", type=int, default=6)
    parser.add_argument("--mib", type=int, default=256, help="MiB of each shard")
    parser.add_argument("--json", type=Path, default=Path(".benchmarks/download.json"), help="where the numbers go")
    arguments = parser.parse_args()
    disable_progress_bars()
    with tempfile.TemporaryDirectory(prefix="carwright-bench-", dir=Path.cwd()) as folder:
        rows = measure(Path(folder), arguments.shards, arguments.mib << 20)
    table = Table(title=f"download: {arguments.shards} shards of {arguments.mib} MiB, {_PARALLEL} at once")
    columns = ("what", "seconds", "mb_per_s", "client_mb", "disk_mb", "times_client")
    for column in columns:
        table.add_column(column, justify="left" if column == "what" else "right")
    for row in rows:
        table.add_row(*(str(row.get(column, "")) for column in columns))
    Console().print(table)
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    numbers = {"shards": arguments.shards, "mib": arguments.mib, "cores": os.cpu_count(), "rows": rows}
    arguments.json.write_text(json.dumps(numbers, indent=1) + "\n")


if __name__ == "__main__":
    main()
