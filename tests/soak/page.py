"""Judge a soak and write its page: `python -m tests.soak.page soak.jsonl --page docs/measurements/soak.md --plot soak.svg`.

Exits with 1 if anything grows, a ship failed or a process was left behind, and with 3 if too little was seen to say so.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tests.soak import flatness
from tests.soak.curves import Panel, draw

if TYPE_CHECKING:
    from collections.abc import Sequence

_INTRODUCTION = """\
# A soak

Ships in a row by the watcher: a Prefect server on SQLite, a worker, `carwright watch`, an S3 server (rclone), a registry
(distribution 2.8) and a hub, each a process of its own on loopback. Round by round each of {lanes} small models gets new
weights; the watcher announces it, and the worker ships: download, quantize, push, two starts of vLLM {vllm}, evaluate, judge,
promote. Then the deployment `sweep-store/daily` runs with `older_days: 1`, a day passes for the store (its files are dated
back, since a sweep takes nothing younger), and everything is looked at while nothing runs.

    python -m tests.soak --out soak.jsonl --ships 200 --lanes {lanes}
    python -m tests.soak.page soak.jsonl --page docs/measurements/soak.md --plot docs/measurements/soak.svg

"""
_RULE = f"""
*Growth* is over the second half: Theil and Sen's slope times its ships, with the interval of 95 %. A line is flat if all of the
interval is within what is allowed: {flatness.MEMORY:.0%} of the median for memory and disk, {flatness.TIME:.0%} for times,
{flatness.COUNTED:.0%} or {flatness.FEW:g} for handles and threads. The registry keeps every image and Prefect's database every
run; there the growth for each ship must be flat. tests/soak/flatness.py has the rest.
"""

_BY_HAND = "## What it says\n"  # from here on a page is written by hand, and stays


def page(lines: Sequence[dict[str, Any]], plot: str) -> str:
    """The page in Markdown."""
    about = next(one for one in lines if one["kind"] == "about")
    ships = [one for one in lines if one["kind"] == "ship"]
    states = Counter(one["state"].lower() for one in ships)
    seconds = [one["seconds"] for one in ships]
    whole = _minutes(lines)
    swept = Counter(one["state"].lower() for one in lines if one["kind"] == "sweep")
    text = _INTRODUCTION.format(lanes=about["lanes"], vllm=about["vllm"])
    text += (
        f"{len(ships)} ships ({_counted(states)}) in {whole:.0f} minutes on {about['cores']} cores, "
        f"{about['lanes']} at once; sweeps: {_counted(swept)}. A ship took {np.median(seconds):.0f} s in the median, "
        f"{max(seconds):.0f} s at most{_unfinished(lines)}. Processes that were left behind: {len(left(lines))}.\n\n![The curves]({plot})\n\n"
    )
    text += "| | first half | second half | growth | 95 % | allowed | |\n|---|---|---|---|---|---|---|\n"
    for one in judged(lines):
        unit = f" {one.series.unit}" if one.series.unit else ""
        cells = (
            one.series.name,
            f"{one.first:.3g}{unit}",
            f"{one.second:.3g}{unit}",
            f"{one.growth:+.2g}",
            f"{one.low:+.2g} to {one.high:+.2g}",
            f"{one.allowed:.2g}",
            one.decision,
        )
        text += f"| {' | '.join(cells)} |\n"
    text += _RULE + "\n## Where a ship's time goes\n\n| task | seconds, median |\n|---|---|\n"
    for task, median in times(ships).items():
        text += f"| {task} | {median:.1f} |\n"
    return text


def judged(lines: Sequence[dict[str, Any]]) -> list[flatness.Judged]:
    return [flatness.judge(one) for one in flatness.all_series(lines)]


def left(lines: Sequence[dict[str, Any]]) -> list[str]:
    """Command lines of processes that were no services when nothing ran, or that outlived the soak."""
    found = [line for one in lines if one["kind"] == "sample" for line in one["strays"]]
    return found + [line for one in lines if one["kind"] == "end" for line in one["left"]]


def times(ships: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Median seconds of each kind of task, and of what is no task: until the run started, and beside its tasks."""
    found: dict[str, list[float]] = {"from the new commit to the start of the run": [one["waited"] for one in ships]}
    for one in ships:
        for name, seconds in one["tasks"].items():
            words = name.split()
            kind = " ".join(words[:3]) if words[0] in {"deploy", "evaluate"} else words[0]
            found.setdefault(kind, []).append(seconds)
    found["the run beside its tasks"] = [one["seconds"] - sum(one["tasks"].values()) for one in ships]
    return {name: float(np.median(seconds)) for name, seconds in found.items()}


def panels(lines: Sequence[dict[str, Any]]) -> list[Panel]:
    samples = [one for one in lines if one["kind"] == "sample"]
    ships = [one for one in lines if one["kind"] == "ship"]
    roles = samples[-1]["services"]

    def of(role: str, what: str, scale: float = 1) -> list[tuple[float, float]]:
        return [(one["ships"], one["services"][role][what] / scale) for one in samples if role in one["services"]]

    places = {
        place: [(one["ships"], one["disk"][place]["bytes"] / 1e6) for one in samples] for place in samples[-1]["disk"]
    }
    return [
        Panel("seconds of each ship", {"run": [(one["ship"], one["seconds"]) for one in ships]}, dots=True),
        Panel("resident memory, MB", {role: of(role, "rss", 1e6) for role in roles}),
        Panel("open handles", {role: of(role, "handles") for role in roles}),
        Panel("threads", {role: of(role, "threads") for role in roles}),
        Panel("processor time, s", {role: of(role, "cpu") for role in roles}),
        Panel("disk, MB", places),
    ]


def _unfinished(lines: Sequence[dict[str, Any]]) -> str:
    return "" if lines[-1]["kind"] == "end" else " (the soak was ended before its time)"


def _counted(words: Counter[str]) -> str:
    return ", ".join(f"{number} {word}" for word, number in sorted(words.items()))


def _minutes(lines: Sequence[dict[str, Any]]) -> float:
    from datetime import datetime

    times_ = [datetime.fromisoformat(one["at"]) for one in lines if one["kind"] in {"about", "sample"}]
    return (max(times_) - min(times_)).total_seconds() / 60


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.soak.page", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("seen", type=Path, help="what `python -m tests.soak --out` wrote")
    parser.add_argument("--page", type=Path, help="Markdown file to write; default: standard output")
    parser.add_argument("--plot", type=Path, default=Path("soak.svg"), help="SVG file to write")
    arguments = parser.parse_args()
    text = arguments.seen.read_text()
    lines = [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]  # one may be half written
    arguments.plot.write_text(draw(panels(lines), "what a soak used"))
    text = page(lines, arguments.plot.name)
    if arguments.page:
        before = arguments.page.read_text() if arguments.page.exists() else ""
        _, heading, said = before.partition(_BY_HAND)
        arguments.page.write_text(f"{text.rstrip()}\n\n{heading}{said}" if heading else text)
    else:
        print(text)
    decisions = {one.decision for one in judged(lines)}
    failed = any(one["kind"] == "ship" and one["state"] != "COMPLETED" for one in lines)
    sys.exit(1 if failed or left(lines) or "grows" in decisions else 3 if "unclear" in decisions else 0)


if __name__ == "__main__":
    main()
