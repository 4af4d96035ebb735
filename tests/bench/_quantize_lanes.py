"""Quantization on a GPU against the floor, by shards and lanes: `python tests/bench/_quantize_lanes.py FOLDER... [--gb 15]`.

The same bytes in 16 and in 4 shards, in each FOLDER (one in memory and one on a disk, say): is it one shard's digest on one
core that binds, or all of the cores? The floor is the larger of reading the source and writing as many bytes as the result
has, with as many threads. Each number is the median of `--runs` after one that warms up. Needs torch, compressed-tensors and
the packages of the quantize step, not llm-compressor; each FOLDER needs 1.6 times the size free. Prints one JSON object for
each measurement and, at the end, the lines of a table. It begins nothing new after `--seconds`, and shows what it has.

Without a GPU the CPU is measured; take `--gb 0.5` there.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch

from tests.bench._quantize_one import floor, make, ours

SHARDS: Final = {16: 2.0, 4: 3.0}  # and at most how many times the floor
_LAYER: Final = 436_240_384  # bytes of one layer of the shape below
_ENDS: Final = 2_101_354_496  # bytes of its embedding and its head
_SHAPE: Final = {"hidden": 4096, "inner": 14336, "vocabulary": 128256}
_SMALL: Final = {
    "hidden": 512,
    "inner": 1792,
    "vocabulary": 16032,
}  # an eighth in each direction: one 64th of the bytes
_RESULT: Final = 0.6  # of the source


class OutOfTime(Exception):
    """The time that was given is over."""


@dataclass
class Bench:
    """Measurements until `deadline` (monotonic seconds); `table` gets a row for each folder and number of shards."""

    device: str
    runs: int
    deadline: float
    table: list[tuple[str, ...]] = field(default_factory=list)
    digests: set[str] = field(default_factory=set)

    def measure(self, source: Path, target: Path, lanes: int, **more: Any) -> float:
        """Median of the seconds; 0 lanes are the step's own choice."""
        seconds: list[float] = []
        for _ in range(self.runs + 1):
            self.check_time()
            shutil.rmtree(target, ignore_errors=True)
            before = time.process_time()
            facts: dict[str, Any] = ours(source, target, self.device, lanes, "FP8_DYNAMIC", **more)
            say("ours", source=str(source), **more, **facts, core_seconds=time.process_time() - before)
            self.digests.add(facts["digest"])
            seconds.append(facts["seconds"])
        shutil.rmtree(target, ignore_errors=True)
        return statistics.median(seconds[1:])

    def floor(self, source: Path, target: Path) -> float:
        seconds: list[float] = []
        for _ in range(self.runs):
            self.check_time()
            shutil.rmtree(target, ignore_errors=True)
            facts = floor(source, target, 8)
            say("floor", source=str(source), **facts)
            seconds.append(facts["seconds"])
        shutil.rmtree(target, ignore_errors=True)
        return statistics.median(seconds)

    def checkpoint(self, folder: Path, shards: int, layers: int, shape: dict[str, int]) -> None:
        """All of one number of shards; the row that counts, and what shows why, as long as there is time."""
        self.check_time()
        source, target = folder / f"in-{shards}", folder / "out"
        row = {
            "floor": "",
            "default": "",
            "ratio": "",
            "aim": f"{SHARDS[shards]:g}",
            "4 lanes": "",
            "one pass": "",
            "unverified": "",
        }
        try:
            say("made", **make(source, **shape, layers=layers, shards=min(shards, layers)))
            bottom = self.floor(source, target)
            row["floor"] = f"{bottom:.2f} s"
            default = self.measure(source, target, 0)
            row |= {"default": f"{default:.2f} s", "ratio": f"{default / bottom:.2f}"}
            row["4 lanes"] = f"{self.measure(source, target, 4):.2f} s"
            row["one pass"] = f"{self.measure(source, target, 0, midstates=False):.2f} s"
            row["unverified"] = f"{self.measure(source, target, 0, verify=False):.2f} s"
        finally:
            self.table.append((str(folder.parent), str(shards), *row.values()))
            shutil.rmtree(folder, ignore_errors=True)

    def check_time(self) -> None:
        if time.monotonic() > self.deadline:
            raise OutOfTime


def say(what: str, **facts: Any) -> None:
    sys.stdout.write(json.dumps({"what": what, **facts}) + "\n")
    sys.stdout.flush()


def room(folder: Path, size: float) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free
    if free < size:
        raise SystemExit(
            f"{folder} has {free / 1e9:.1f} GB free, and {size / 1e9:.1f} GB are needed: take a smaller --gb"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="+", metavar="FOLDER")
    parser.add_argument("--gb", type=float, default=15.0, help="size of the checkpoint (15)")
    parser.add_argument("--runs", type=int, default=3, help="of each measurement, whose median counts (3)")
    parser.add_argument("--seconds", type=float, default=420.0, help="after which nothing new begins (420)")
    given = parser.parse_args()
    started = time.monotonic()
    small = given.gb < 5
    layer, ends = (_LAYER // 64, _ENDS // 64) if small else (_LAYER, _ENDS)
    layers = max(16, round((given.gb * 1e9 - ends) / layer))
    device = "cuda:0" if torch.cuda.is_available() else "cpu"
    name = torch.cuda.get_device_name(0) if torch.cuda.is_available() else "none"
    say("machine", torch=torch.__version__, gpu=name, cores=len(os.sched_getaffinity(0)))
    bench = Bench(device, given.runs, started + given.seconds)
    for folder in given.folders:
        room(folder, (1 + _RESULT) * given.gb * 1e9)
    try:
        for folder in given.folders:
            for shards in SHARDS:
                bench.checkpoint(folder / "lanes", shards, layers, _SMALL if small else _SHAPE)
    except OutOfTime:
        say("out of time", seconds=given.seconds)
    say("done", seconds=time.monotonic() - started, digests_by_shards=len(bench.digests))
    headings = (
        "where",
        "shards",
        "floor",
        "Carwright",
        "of the floor",
        "aim",
        "4 lanes",
        "source in one pass",
        "source not verified",
    )
    for line in (headings, ("---",) * len(headings), *bench.table):
        sys.stdout.write(f"| {' | '.join(line)} |\n")


if __name__ == "__main__":
    main()
