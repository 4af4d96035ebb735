"""Disk of the embedded chain: `python -m tests.bench.disk [--gb 1.5] [--only ext4]`.

A checkpoint is shipped into an OCI layout by the steps of the flow (resolve, download, quantize, push, each as a process, under a
Prefect server), and both models are fetched for serving as the serving step does it. Each time everything lies on a file
system of its own in a file, ext4 (without reflinks) and xfs (with). What counts is the most that the file system held
beyond a `file://` source, and what was written to its device, journal included, both over the size of the source.
`before` is the same with the store reached through its server, as it always was until the store was used as a folder.

Run as root: file systems are made and mounted. A kind whose mkfs is missing is left out and said so.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import shutil
import tempfile
import threading
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from rich.console import Console
from rich.table import Table

from containers.contract import Step, StepRequest
from containers.events import Reporter
from containers.parameters import PushParameters, QuantizeParameters
from containers.process import export, run
from containers.serve.models import unpacked
from containers.step import Context
from flows.local import embedded
from flows.local.ship import drain_workers
from flows.orchestrator.prefect_import import import_prefect
from infra.environments.environment import prepare
from infra.objectstore import EmbeddedStore
from infra.settings import Settings
from tests.bench.download import REPO, serving
from tests.bench.pipeline import make

if TYPE_CHECKING:
    from collections.abc import Iterator

    from containers.contract import ArtifactRef

_AIMS: Final = {("file", "ext4"): 1.3, ("file", "xfs"): 1.3, ("hf", "ext4"): 2.2, ("hf", "xfs"): 1.7}
_MAKE: Final = {
    "ext4": ("mkfs.ext4", "-q", "-m", "0", "-E", "lazy_itable_init=0,lazy_journal_init=0"),
    "xfs": ("mkfs.xfs", "-q", "-m", "reflink=1"),
}
_EVERY: Final = 0.02  # seconds between two looks
_STEPS: Final = (Step.DOWNLOAD, Step.QUANTIZE, Step.PUSH)


@dataclass(frozen=True)
class Used:
    """Bytes."""

    source: int
    peak: int
    written: int
    at_end: int


class Volume:
    """A mounted file system with nothing else on it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        device = path.stat().st_dev
        self._counters = Path(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}/stat")

    def used(self) -> int:
        state = os.statvfs(self.path)
        return (state.f_blocks - state.f_bfree) * state.f_frsize

    def written(self) -> int:
        """Bytes that have reached the device (Documentation/block/stat.rst: field 7, sectors of 512)."""
        run(["sync", "-f", str(self.path)])
        return int(self._counters.read_text().split()[6]) * 512


@contextmanager
def volume(kind: str, image: Path, gigabytes: float) -> Iterator[Volume]:
    path = image.with_suffix("")
    path.mkdir()
    with image.open("wb") as file:
        file.truncate(int(gigabytes * 1e9))
    run([*_MAKE[kind], str(image)])
    run(["mount", "-o", "loop", str(image), str(path)])
    try:
        yield Volume(path)
    finally:
        run(["umount", str(path)])
        image.unlink()


@contextmanager
def most(disk: Volume, found: list[int]) -> Iterator[None]:
    """Add to `found` the most bytes in use while the block ran."""
    done, peak = threading.Event(), disk.used()

    def look() -> None:
        nonlocal peak
        while not done.wait(_EVERY):
            peak = max(peak, disk.used())

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        found.append(max(peak, disk.used()))


def chain(disk: Volume, source: str, settings: Settings, *, direct: bool) -> tuple[int, int, int]:
    """Ship, and fetch both models as if to serve them: the peak, what was written, and what is left."""
    from prefect import flow

    from flows.orchestrator.results import result_storage
    from flows.runtime import open_runtime, use
    from flows.steps import Steps

    home = disk.path / "home"
    home.mkdir()
    before, written, peaks = disk.used(), disk.written(), list[int]()
    with most(disk, peaks), ExitStack() as stack:
        store = stack.enter_context(EmbeddedStore(home / "store", home / "store.log"))
        changed = {"store": store.model_copy(update={"direct": direct}), "overlap_gb": 0.0, "home": home}
        settings = settings.model_copy(update=changed)
        runtime = stack.enter_context(use(open_runtime(settings, lambda task, event: None, disk.path.name)))

        @flow(result_storage=result_storage())
        def bring() -> tuple[ArtifactRef, str]:
            steps = Steps(runtime)
            found, resolved = steps.resolve(source, None)
            recipe, target = QuantizeParameters(), PushParameters(target=f"oci:{home / 'images' / 'car'}")
            with steps.pushing_layers(found, recipe, target) as layers:
                loaded = steps.download(found, recipe, after=[resolved], layers=layers)
                quantized = steps.quantize(loaded.output("checkpoint"), recipe, after=[loaded], layers=layers)
                image, _ = steps.push(quantized.output("checkpoint"), target, after=[quantized], layers=layers)
            return loaded.output("checkpoint"), image.reference

        baseline, candidate = bring()
        context = Context(settings, Reporter(io.StringIO(), structured=True), home / "scratch", home / "result.json")
        request = StepRequest(step=Step.SERVE, run="bench", inputs={"checkpoint": baseline}, store=runtime.location)
        with unpacked("", request, context), unpacked(candidate, request, context):
            pass
    return peaks[0] - before, disk.written() - written, disk.used() - before


def measure(kind: str, scheme: str, model: Path, top: Path, settings: Settings, *, direct: bool) -> Used:
    size = sum(path.stat().st_size for path in model.iterdir())
    with ExitStack() as stack:
        disk = stack.enter_context(volume(kind, top / f"{kind}-{scheme}-{direct}.img", 6 * size / 1e9 + 1))
        if scheme == "file":
            shutil.copytree(model, disk.path / "model")
            source = f"file://{disk.path / 'model'}"
        else:
            hub = stack.enter_context(serving(top / f"hub-{kind}-{direct}", model))
            settings = settings.model_copy(update={"hub_endpoint": hub})
            source = f"hf://{REPO}"
        peak, written, left = chain(disk, source, settings, direct=direct)
        shutil.rmtree(top / f"hub-{kind}-{direct}", ignore_errors=True)
    return Used(size, peak, written, left)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--gb", type=float, default=1.5)
    parser.add_argument("--only", choices=sorted(_MAKE))
    parser.add_argument("--after", action="store_true", help="leave out the rows of before")
    given = parser.parse_args()
    kinds = [kind for kind in _MAKE if given.only in (None, kind)]
    for kind in [kind for kind in kinds if os.geteuid() or not shutil.which(_MAKE[kind][0])]:
        print(f"{kind} is left out: it takes root and {_MAKE[kind][0]}")
        kinds.remove(kind)
    rows: dict[str, dict[str, float | str]] = {}
    table = Table(
        "source", "file system", "store", "peak", "aim", "written", "left at the end", title="over the source"
    )
    with tempfile.TemporaryDirectory(prefix="carwright-bench-") as scratch, ExitStack() as stack:
        top = Path(scratch)
        settings = Settings(home=top / "home")
        for step in _STEPS:
            prepare(step, settings, lambda _: None)
        make(top / "model", given.gb, settings)
        server = stack.enter_context(embedded.prefect_server(settings))
        export(embedded.prefect_environment(settings.home.resolve()) | server.client)
        import_prefect()
        server.wait()
        for kind in kinds:
            for scheme in ("file", "hf"):
                for direct in (True,) if given.after else (False, True):
                    used = measure(kind, scheme, top / "model", top, settings, direct=direct)
                    ratios = [one / used.source for one in (used.peak, used.written, used.at_end)]
                    store = "a folder" if direct else "a server (before)"
                    aim = f"{_AIMS[scheme, kind]}" if direct else ""
                    peak, written, left = (f"{one:.2f}" for one in ratios)
                    table.add_row(f"{scheme}://", kind, store, peak, aim, written, left)
                    rows[f"{scheme} {kind} {store}"] = {"peak": ratios[0], "written": ratios[1], "left": ratios[2]}
        drain_workers()
    Console(width=110).print(table)
    out = Path(".benchmarks")
    out.mkdir(exist_ok=True)
    (out / "disk.json").write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
