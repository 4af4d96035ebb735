"""Quantization against llm-compressor's `model_free_ptq`, on a CPU: `python -m tests.bench.quantize [--runs 3] [--quick] [--only PART...]`.

The demo model and a checkpoint of 4 GB in 8 shards, folder to folder, each measurement in a process of its own, ours and
theirs in turn so that both meet the same machine. What is timed starts when everything is imported. The floor is reading
the source and writing as many bytes as the result has. Then the whole step against a store: cold, and again after it was
killed at 50 %. `--only` takes some of the three.

`tests/bench/_quantize_gpu.py` is the same for machines with a GPU.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from rich.console import Console

from containers.contract import Kind, Step, StepRequest, StoreLocation
from containers.digest import Digest
from containers.process import Child, inherited, run
from containers.store import FileEntry, Manifest, Store
from flows.runners.process.launcher import ProcessLauncher, run_folder, step_command, step_environment
from infra.demo import LOCK, ensure_demo
from infra.environments.environment import Environment, ensure, prepare
from infra.objectstore import EmbeddedStore
from infra.settings import Settings

if TYPE_CHECKING:
    from containers.contract import ArtifactRef
    from containers.events import Event

_ONE: Final = Path(__file__).with_name("_quantize_one.py")
_LARGE: Final = ("--layers", "32", "--hidden", "2048", "--inner", "8192", "--vocabulary", "32000", "--shards", "8")
_QUICK: Final = ("--layers", "6", "--hidden", "1024", "--inner", "2816", "--vocabulary", "8192", "--shards", "8")
_MOST_TIME: Final = 0.7  # of model_free_ptq's
_MOST_MEMORY: Final = 3.0  # shards
_MOST_RERUN: Final = 0.6  # of a cold run


@dataclass(frozen=True)
class Bench:
    environment: Environment
    top: Path
    console: Console

    def one(self, *arguments: str) -> dict[str, Any]:
        """Start one measurement and return what it printed."""
        done = run(
            [str(self.environment.python), str(_ONE), *arguments],
            env={**inherited(), **self.environment.environment(), "HF_HUB_OFFLINE": "1"},
            timeout=3600,
        )
        result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return result

    def compare(self, name: str, source: Path, runs: int) -> None:
        """Ours and theirs in turn; prints the row of medians."""
        taken: dict[str, list[dict[str, Any]]] = {"ours": [], "theirs": [], "floor": []}
        for _ in range(runs):
            for what, results in taken.items():
                with tempfile.TemporaryDirectory(dir=self.top) as target:
                    results.append(self.one(what, str(source), f"{target}/out"))
        ours, theirs, floor = (statistics.median(one["seconds"] for one in results) for results in taken.values())
        memory = max(one["peak_rss"] for one in taken["ours"])
        their_memory = max(one["peak_rss"] for one in taken["theirs"])
        shard = max(path.stat().st_size for path in source.glob("*.safetensors"))
        lines = [
            f"| {name}, medians of {runs} | seconds | of model_free_ptq | of the floor | peak RSS | in shards |",
            "|---" * 6 + "|",
        ]
        for what, seconds, peak in (("carwright", ours, memory), ("model_free_ptq", theirs, their_memory)):
            ratios = f"{seconds / theirs:.2f} | {seconds / floor:.1f}"
            lines.append(f"| {what} | {seconds:.2f} | {ratios} | {peak / 1e6:.0f} MB | {peak / shard:.1f} |")
        sys.stdout.write("\n".join((*lines, f"| floor | {floor:.2f} | | | | |", "")))
        good = ours / theirs <= _MOST_TIME
        self.console.print(f"at most {_MOST_TIME} of model_free_ptq's time: {'yes' if good else 'NO'}")
        good = memory / shard <= _MOST_MEMORY
        self.console.print(f"at most {_MOST_MEMORY:.0f} shards of memory: {'yes' if good else 'NO'}")

    def rerun(self, source: Path) -> None:
        """The step against a store, cold and after a kill at 50 %."""
        with EmbeddedStore(self.top / "store", self.top / "store.log") as reached:
            location = StoreLocation(endpoint=reached.endpoint, bucket=reached.bucket)
            store = Store.open(location, reached)
            request = StepRequest(
                step=Step.QUANTIZE, run="bench", inputs={"checkpoint": _put(store, source)}, store=location
            )
            settings = Settings(store=reached, home=self.top / "home")
            launcher = ProcessLauncher(settings)

            def timed() -> float:
                started = time.monotonic()
                result = launcher.run(request, lambda event: None)
                seconds = time.monotonic() - started
                store.forget(result.outputs["checkpoint"])
                return seconds

            cold = timed()
            for manifest in list(store.manifests(Kind.GROUP)):
                store.forget(manifest.ref)
                store.discard_blob(manifest.files[0].sha256)
            self._killed_half_way(request, settings, store)
            again = timed()
        self.console.print(
            f"the step against a store: cold {cold:.1f} s; after kill -9 when half of its groups were done {again:.1f} s, "
            f"{again / cold:.2f} of it (at most {_MOST_RERUN}: {'yes' if again / cold <= _MOST_RERUN else 'NO'})"
        )

    def _killed_half_way(self, request: StepRequest, settings: Settings, store: Store) -> None:
        """Start the step and kill it without a word as soon as half of its groups are in the store."""
        half = sum(entry.path.endswith(".safetensors") for entry in store.load(request.inputs["checkpoint"]).files) // 2
        folder = run_folder(settings, request)
        child = Child(
            argv=step_command(self.environment, request, folder),
            env=step_environment(settings, request, self.environment, folder),
        )
        with child:
            while child.poll() is None and sum(1 for _ in store.manifests(Kind.GROUP)) < half:
                time.sleep(0.05)
            if child.poll() is not None:
                raise RuntimeError("the step was done before it could be killed: take a larger checkpoint")
            os.kill(child.pid, signal.SIGKILL)  # its supervisor; the step dies with it


def _put(store: Store, folder: Path) -> ArtifactRef:
    files = tuple(
        FileEntry(path=path.name, size=path.stat().st_size, sha256=store.put_file(path))
        for path in sorted(folder.iterdir())
        if not path.name.startswith(".")
    )
    fingerprint = Digest.of(str(files).encode()).hex
    return store.commit(Manifest(kind=Kind.CHECKPOINT, fingerprint=fingerprint, files=files))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="a small checkpoint instead of the one of 4 GB")
    parts = ("demo", "large", "rerun")
    parser.add_argument("--only", choices=parts, nargs="+", default=parts)
    given = parser.parse_args()
    console = Console(width=120)
    settings = Settings()

    def say(event: Event) -> None:
        console.print(event.text())

    with tempfile.TemporaryDirectory(prefix="carwright-bench-") as top:
        bench = Bench(prepare(Step.QUANTIZE, settings, say), Path(top), console)
        if "demo" in given.only:
            demo = ensure_demo(
                settings.cache.expanduser(), lambda: ensure("demo", LOCK, settings.cache, on_event=say).python, say
            )
            bench.compare("SmolLM2-135M", demo, given.runs)
        if given.only == ["demo"]:
            return
        large = Path(top) / "large"
        bench.one("make", str(large), *(_QUICK if given.quick else _LARGE))
        if "large" in given.only:
            bench.compare("8 shards" if given.quick else "4 GB in 8 shards", large, given.runs)
        if "rerun" in given.only:
            bench.rerun(large)


if __name__ == "__main__":
    main()
