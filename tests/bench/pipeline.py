"""Download, quantize and push: one after the other and overlapped.

    python -m tests.bench.pipeline [--gb 1.5] [--runs 1] [--line 5]

A checkpoint of a Llama's shape in 8 shards comes from a local hub, is quantized in the embedded store and goes to an empty
local registry (Debian's docker-registry), by the steps of the flow under a Prefect server, each as a process. Both ways are
run in turn, each with a store and a registry of its own. The yardstick is the slowest of the three steps alone; on few
cores it cannot be reached, because all three compute digests.

`--model` and `--work` are folders: the checkpoint lies in the first (its size), store and registry in the second (twice the
size, one way at a time); without them both are where temporary files are. `--line` is how fast the hub sends, in Gbit/s;
without it, as fast as it can. What each way took is printed as soon as it is known.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Final

from containers.contract import Step
from containers.parameters import DownloadOptions, PushParameters, QuantizeParameters
from containers.process import export, inherited, run
from flows.local import embedded
from flows.local.ship import drain_workers
from flows.orchestrator.prefect_import import import_prefect
from infra.environments.environment import prepare
from infra.objectstore import EmbeddedStore
from infra.settings import Settings
from tests.bench.download import REPO, serving
from tests.support.local_registry import LocalRegistry

if TYPE_CHECKING:
    from collections.abc import Mapping

AIM: Final = 1.25  # times the slowest step alone
_CONNECTIONS: Final = DownloadOptions().parallel
_STEPS: Final = (Step.DOWNLOAD, Step.QUANTIZE, Step.PUSH)
_LAYER: Final = 134_000_000  # bytes of one layer of the shape below, about
_ENDS: Final = 262_000_000  # bytes of what is not in a layer
_NEEDED: Final = 2.1  # times the checkpoint: the store's source and result, and the registry's copy of that


def make(folder: Path, gigabytes: float, settings: Settings) -> None:
    """Write the checkpoint, by the program that the benchmark of quantization uses, in that step's environment."""
    layers = max(1, round((gigabytes * 1e9 - _ENDS) / _LAYER))
    environment = prepare(Step.QUANTIZE, settings, lambda _: None)
    shape = ("--layers", str(layers), "--hidden", "2048", "--inner", "8192", "--vocabulary", "32000", "--shards", "8")
    run(
        [str(environment.python), str(Path(__file__).with_name("_quantize_one.py")), "make", str(folder), *shape],
        env={**inherited(), **environment.environment(), "HF_HUB_OFFLINE": "1"},
        timeout=3600,
    )
    (folder / "tokenizer.json").write_text("{}")


def once(folder: Path, settings: Settings, *, overlap: bool) -> dict[str, float]:
    """Seconds of each of the three steps in one run; overlapped, most of the work is done in the first one's time."""
    from prefect import flow

    from flows.orchestrator.results import result_storage
    from flows.runtime import open_runtime, use
    from flows.steps import Steps

    with ExitStack() as stack:
        store = stack.enter_context(EmbeddedStore(folder / "store", folder / "store.log"))
        registry = stack.enter_context(LocalRegistry(folder / "registry"))
        changed = {"store": store.model_copy(update={"direct": True}), "overlap_gb": 0.0 if overlap else 1e6}
        settings = settings.model_copy(update={**changed, "home": folder / "home"})
        runtime = stack.enter_context(use(open_runtime(settings, lambda task, event: None, folder.name)))

        @flow(result_storage=result_storage())
        def bring() -> dict[str, float]:
            steps = Steps(runtime)
            source, resolved = steps.resolve(f"hf://{REPO}", None)
            recipe = QuantizeParameters()
            target = PushParameters(target=f"{registry}/bench/car")
            with steps.pushing_layers(source, recipe, target) as layers:
                loaded = steps.download(source, recipe, after=[resolved], layers=layers)
                quantized = steps.quantize(loaded.output("checkpoint"), recipe, after=[loaded], layers=layers)
                steps.push(quantized.output("checkpoint"), target, after=[quantized], layers=layers)
            return {step.name: step.seconds for step in steps.timeline.steps if step.name in set(_STEPS)}

        seconds: dict[str, float] = bring()
    shutil.rmtree(folder)
    return seconds


def show(gigabytes: float, alone: Mapping[str, float], overlapped: float) -> None:
    """The lines of a table, and the same as JSON in a file."""
    slowest, total = max(alone.values()), sum(alone.values())
    rows = [(name, seconds, "") for name, seconds in alone.items()]
    rows += [("one after the other", total, ""), ("overlapped", overlapped, f"{AIM}")]
    lines = [f"| {gigabytes:g} GB | seconds | to the slowest | aim |", "|---|---|---|---|"]
    lines += [f"| {name} | {seconds:.1f} | {seconds / slowest:.2f} | {aim} |" for name, seconds, aim in rows]
    sys.stdout.write("\n".join(lines) + "\n")
    out = Path(".benchmarks")
    out.mkdir(exist_ok=True)
    (out / "pipeline.json").write_text(json.dumps({"alone": dict(alone), "overlapped": overlapped}, indent=2) + "\n")


def room(folder: Path, size: float) -> None:
    """End here, and not in the middle, where a folder has less than `size` bytes free."""
    free = shutil.disk_usage(folder).free
    if free < size:
        raise SystemExit(f"{folder} has {free / 1e9:.1f} GB free, and {size / 1e9:.1f} GB are needed there")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--gb", type=float, default=1.5)
    parser.add_argument("--runs", type=int, default=1, help="runs of each way, in turn; medians are shown")
    parser.add_argument("--model", type=Path, help="an existing folder for the checkpoint")
    parser.add_argument("--work", type=Path, help="an existing folder for store and registry")
    parser.add_argument("--line", type=float, help="Gbit/s from the hub, over all connections")
    given = parser.parse_args()
    with ExitStack() as stack:
        model, top = (
            Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="carwright-bench-", dir=folder)))
            for folder in (given.model, given.work)
        )
        size = given.gb * 1e9
        room(top, size * (_NEEDED + (model.stat().st_dev == top.stat().st_dev)))
        room(model, size)
        settings = Settings(home=top / "home")
        for step in _STEPS:
            prepare(step, settings, lambda _: None)
        rate = None if given.line is None else round(given.line * 1e9 / 8 / _CONNECTIONS)
        started = time.monotonic()
        make(model / "model", given.gb, settings)
        say("made", time.monotonic() - started)
        hub = stack.enter_context(serving(model / "hub", model / "model", rate))
        settings = settings.model_copy(update={"hub_endpoint": hub})
        server = stack.enter_context(embedded.prefect_server(settings))
        export(embedded.prefect_environment(settings.home.resolve()) | server.client)
        import_prefect()
        server.wait()
        turns: list[tuple[dict[str, float], float]] = []
        for number in range(given.runs):
            alone = once(top / f"alone-{number}", settings, overlap=False)
            say("one after the other", **alone)
            overlapped = once(top / f"overlapped-{number}", settings, overlap=True)
            say("overlapped", **overlapped)
            turns.append((alone, sum(overlapped.values())))
        drain_workers()
        show(
            given.gb,
            {step: statistics.median(alone[step] for alone, _ in turns) for step in _STEPS},
            statistics.median(seconds for _, seconds in turns),
        )


def say(what: str, seconds: float = 0.0, **parts: float) -> None:
    facts = {"what": what, **({"seconds": seconds} if seconds else {}), **parts}
    sys.stdout.write(json.dumps(facts) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
