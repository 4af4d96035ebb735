"""The gate of benchmarks on real paired answers: 20 honest measurements of the demo model in FP8, and 20 damaged copies of it.

    python -m tests.bench._gate_campaign FOLDER [--jobs N] [--questions N] [--stop-after SECONDS] [--only TEXT ...]
    python -m tests.bench._gate_campaign --render FOLDER/results.jsonl

Four benchmarks ask which of four phrases continues a text of this project's documentation, by their log-probabilities. They are
drawn ten times: each draw has other questions, and every candidate is compared with the baseline on its own draw. The honest
measurements differ in the draw, the requests at once, and how many of them vLLM computes together; each damaged copy has one
thing wrong with it. Everything is measured through the step's harness, on servers side by side (`--jobs`).

FOLDER/results.jsonl gets a line for each measurement; what is in it is not measured again. After `--stop-after` seconds no
further server is started, and the exit code is 75 if something is left: run the same command again. `--render` judges what
is there and prints the section of docs/measurements/gate.md.

A vLLM and an llm-compressor of the user's own: CARWRIGHT_SERVE__PYTHON, CARWRIGHT_QUANTIZE__PYTHON; `--evaluate` names a Python
with lm-evaluation-harness, `--model` and `--fp8` the two checkpoints, where they are there already.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import threading
import time
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from containers import suites
from containers.contract import Step
from containers.evaluate.measurement import Scored
from containers.process import inherited, run
from infra.environments.environment import prepare
from infra.settings import Settings
from tests.support import sabotage
from tests.support.continuations import ROOT, write_suite
from tests.support.vllm_server import NAME, demo, quantized, served, vllm

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_DRAWS: Final = 10
_LEFT: Final = 75  # exit code: something is left to measure
_SHARE: Final = ("--gpu-memory-utilization", "0.1", "--kv-cache-memory-bytes", str(2 << 30))  # of a card for several
_FIRST, _MIDDLE, _LAST, _ALL = "model.layers.0.", sabotage.LAYER, "model.layers.29.", "model.layers."


@dataclass(frozen=True)
class Measurement:
    """One candidate, or the baseline, on the questions of one draw."""

    name: str
    role: str  # baseline, honest or damaged
    draw: int
    in_flight: int = 16


@dataclass(frozen=True)
class Server:
    """One vLLM and what is measured with it. `together` is how many sequences it computes at once."""

    measurements: tuple[Measurement, ...]
    together: int = 64
    of_baseline: bool = False
    damage: Callable[[Path, Path], Path] | None = None


def _scaled(factor: float, prefix: str) -> Callable[[Path, Path], Path]:
    return lambda source, to: sabotage.scaled(source, to, factor, prefix=prefix)


def _corrupted(share: float) -> Callable[[Path, Path], Path]:
    return lambda source, to: sabotage.corrupted(source, to, share=share)


_DAMAGES: Final[dict[str, Callable[[Path, Path], Path]]] = {
    "middle layer, scales 10 %": _scaled(1.1, _MIDDLE),
    "middle layer, scales 15 %": _scaled(1.15, _MIDDLE),
    "middle layer, scales 20 %": _scaled(1.2, _MIDDLE),
    "middle layer, scales 30 %": _scaled(1.3, _MIDDLE),
    "middle layer, scales 50 %": _scaled(1.5, _MIDDLE),
    "middle layer, scales doubled": _scaled(2.0, _MIDDLE),
    "last layer, scales 5 %": _scaled(1.05, _LAST),
    "last layer, scales 10 %": _scaled(1.1, _LAST),
    "last layer, scales 20 %": _scaled(1.2, _LAST),
    "last layer, scales 50 %": _scaled(1.5, _LAST),
    "last layer, scales doubled": _scaled(2.0, _LAST),
    "first layer, scales 10 %": _scaled(1.1, _FIRST),
    "first layer, scales doubled": _scaled(2.0, _FIRST),
    "all layers, scales 2 %": _scaled(1.02, _ALL),
    "all layers, scales 5 %": _scaled(1.05, _ALL),
    "all layers, scales 10 %": _scaled(1.1, _ALL),
    "middle layer, rows of a weight shuffled": sabotage.shuffled,
    "last layer, rows of a weight shuffled": lambda a, b: sabotage.shuffled(a, b, name=_LAST + "mlp.down_proj.weight"),
    "middle layer, 1 % of the bytes corrupted": _corrupted(0.01),
    "middle layer, 10 % of the bytes corrupted": _corrupted(0.1),
}
# How many sequences are computed at once, and requests in flight: what changes the arithmetic of an honest server.
_HONEST: Final = (
    (4, (4, 16, 3, 32)),
    (16, (16, 5, 64, 1)),
    (64, (64, 8, 24, 32)),
    (128, (128, 16, 48, 7)),
    (256, (256, 32, 2, 96)),
)


def servers() -> list[Server]:
    """All of the campaign; baselines come first, because nothing can be judged without them."""
    draws = range(_DRAWS)
    found = [
        Server(tuple(Measurement(f"baseline {draw}", "baseline", draw) for draw in some), of_baseline=True)
        for some in (draws[::2], draws[1::2])
    ]
    number = 0
    for together, in_flight in _HONEST:
        mine = []
        for many in in_flight:
            name = f"honest {number + 1}: {many} requests, {together} together"
            mine.append(Measurement(name, "honest", number % _DRAWS, many))
            number += 1
        found.append(Server(tuple(mine), together))
    found += [
        Server((Measurement(name, "damaged", at % _DRAWS),), damage=damage)
        for at, (name, damage) in enumerate(_DAMAGES.items())
    ]
    return found


@dataclass
class Campaign:
    """One run of it; `stop_at` is the time (of time.monotonic) after which no server is started."""

    folder: Path
    settings: Settings
    jobs: int
    questions: int
    evaluate: Path | None
    stop_at: float
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def results(self) -> Path:
        return self.folder / "results.jsonl"

    def known(self) -> set[str]:
        """What is measured already; raises SystemExit where it was measured on other questions."""
        rows = read(self.results) if self.results.exists() else []
        for draw, digest in {(row["draw"], row.get("suite", "")) for row in rows}:
            if digest != self._digest(draw):
                raise SystemExit(
                    f"{self.results} holds measurements of other questions: give another folder, or the commit and the number of "
                    "questions that it was measured with"
                )
        return {row["name"] for row in rows}

    def _digest(self, draw: int) -> str:
        """Of the questions of a draw, which are written if they were not."""
        folder = self._suite(draw)
        if not folder.exists():
            write_suite(folder, self.questions, draw)
        return suites.read(str(folder)).digest.hex

    def run(self, wanted: Sequence[Server], model: Path | None, fp8: Path | None) -> int:
        """Measure what is missing; gives the number of measurements that are left."""
        done = self.known()
        open_ = [(one, [each for each in one.measurements if each.name not in done]) for one in wanted]
        open_ = [(one, missing) for one, missing in open_ if missing]
        if not open_:
            return 0
        original = model or demo(self.settings)
        whole = fp8 or self.folder / "fp8"
        if not whole.exists():
            self._say("quantizing")
            quantized(self.settings, original, whole)
        python = self.evaluate or prepare(Step.EVALUATE, self.settings, print).python
        for draw in sorted({each.draw for _, missing in open_ for each in missing}):
            self._digest(draw)

        def one(item: tuple[int, tuple[Server, list[Measurement]]]) -> int:
            number, (server, missing) = item
            if time.monotonic() > self.stop_at:
                return len(missing)
            try:
                self._measure(number, server, missing, (original, whole), python)
            except Exception as error:  # noqa: BLE001 - the others go on; what failed is told and left
                self._say(f"{missing[0].name}: {type(error).__name__}: {str(error)[-1500:]}")
                return len(missing)
            return 0

        with ThreadPoolExecutor(self.jobs) as pool:
            return sum(pool.map(one, enumerate(open_)))

    def _suite(self, draw: int) -> Path:
        return self.folder / "suites" / f"continuations-{draw}"

    def _measure(
        self,
        number: int,
        server: Server,
        missing: list[Measurement],
        checkpoints: tuple[Path, Path],
        python: Path,
    ) -> None:
        """Serve one checkpoint and keep a line for each measurement."""
        original, whole = checkpoints
        checkpoint = original if server.of_baseline else whole
        if server.damage is not None:
            checkpoint = self.folder / f"damaged-{number}"
            shutil.rmtree(checkpoint, ignore_errors=True)
            server.damage(whole, checkpoint)
        _, installed = vllm(self.settings)
        arguments = ["--max-num-seqs", str(server.together)]
        threads = {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // self.jobs))} if installed.cpu else {}
        if not installed.cpu:
            arguments += ["--enforce-eager", "--max-num-batched-tokens", "2048", *_SHARE]
        variables = {
            **inherited(),
            "PYTHONPATH": str(ROOT),
            "HF_HOME": str(self.folder / f"hub-{number}"),
            "HF_HUB_OFFLINE": "1",
        }
        started = time.monotonic()
        with served(self.settings, checkpoint, self.folder / f"vllm-{number}.log", arguments, threads) as url:
            ready = time.monotonic() - started
            for each in missing:
                started = time.monotonic()
                scenario = {
                    "name": each.name,
                    "suite": str(self._suite(each.draw)),
                    "options": {"endpoint": url, "served_model_name": NAME, "concurrency": each.in_flight},
                    "tokenizer": str(original),
                }
                argv = [str(python), "-m", "tests.support.harness_client"]
                done = run(argv, env=variables, timeout=3600, stdin=json.dumps([scenario]), cwd=self.folder)
                found = json.loads(done.stdout)[each.name]
                if "scored" not in found:
                    raise RuntimeError(f"{each.name}: {found}")
                self._keep(each, server, str(installed), time.monotonic() - started, found["scored"])
                self._say(f"{each.name}: {time.monotonic() - started:.0f} s (server ready after {ready:.0f} s)")
        if server.damage is not None:
            shutil.rmtree(checkpoint)

    def _keep(self, each: Measurement, server: Server, vllm_name: str, seconds: float, scored: dict[str, Any]) -> None:
        """One line of results.jsonl: scores and margins of each benchmark in the order of its questions."""
        benchmarks = {}
        for key, value in scored.items():
            one = Scored.model_validate(value)
            names = sorted(one.scores, key=lambda name: int(name.rpartition("/")[2]))
            benchmarks[key] = {
                "title": one.title,
                "scores": [round(one.scores[name]) for name in names],
                "margins": [one.margins[name] for name in names] if one.margins else [],
            }
        row = {
            "name": each.name,
            "role": each.role,
            "draw": each.draw,
            "in_flight": each.in_flight,
            "together": server.together,
            "server": vllm_name,
            "questions": self.questions,
            "suite": self._digest(each.draw),
            "seconds": round(seconds, 1),
            "benchmarks": benchmarks,
        }
        with self._lock, self.results.open("a") as file:
            file.write(json.dumps(row, separators=(",", ":")) + "\n")

    def _say(self, text: str) -> None:
        with self._lock:
            sys.stderr.write(f"{time.strftime('%H:%M:%S')} {text}\n")


def read(path: Path) -> list[dict[str, Any]]:
    """The measurements of a result file; a last line that was cut off by a kill is left out."""
    rows = []
    for line in path.read_text().splitlines():
        try:
            rows.append(json.loads(line))
        except ValueError:
            continue
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path, nargs="?", help="where results, suites, checkpoints and logs lie")
    parser.add_argument("--jobs", type=int, default=2, help="servers side by side")
    parser.add_argument("--questions", type=int, default=250, help="of each of the four benchmarks")
    parser.add_argument("--stop-after", type=float, default=float("inf"), metavar="SECONDS")
    parser.add_argument("--only", nargs="*", default=[""], metavar="TEXT", help="measurements with this in their name")
    parser.add_argument("--model", type=Path, help="the BF16 checkpoint (default: the demo, made if need be)")
    parser.add_argument("--fp8", type=Path, help="its FP8_DYNAMIC copy (default: made by llm-compressor)")
    parser.add_argument("--evaluate", type=Path, metavar="PYTHON", help="one with lm-evaluation-harness")
    parser.add_argument("--render", type=Path, metavar="RESULTS", help="judge, print the section, measure nothing")
    arguments = parser.parse_args()
    if arguments.render is not None:
        from tests.support.campaign_section import section

        print("\n".join(section(read(arguments.render))))
        return 0
    if arguments.folder is None:
        parser.error("give a folder, or --render RESULTS")
    folder = arguments.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    evaluate = arguments.evaluate.absolute() if arguments.evaluate else None
    campaign = Campaign(
        folder, Settings(), arguments.jobs, arguments.questions, evaluate, time.monotonic() + arguments.stop_after
    )
    wanted = [
        Server(some, one.together, one.of_baseline, one.damage)
        for one in servers()
        if (some := tuple(each for each in one.measurements if any(text in each.name for text in arguments.only)))
    ]
    left = campaign.run(wanted, arguments.model, arguments.fp8)
    counts: dict[str, int] = defaultdict(int)
    for row in read(campaign.results) if campaign.results.exists() else []:
        counts[row["role"]] += 1
    print(f"{dict(counts)}; {left} measurements are left")
    return _LEFT if left else 0


if __name__ == "__main__":
    sys.exit(main())
