"""The report of a suite of speed as one self-contained HTML page."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING, Any

from containers.evaluate import plots
from containers.evaluate.load.measures import KINDS, shown, title
from containers.evaluate.page import environment

if TYPE_CHECKING:
    from containers.evaluate.load.judge import SpeedReport
    from containers.evaluate.load.measurement import LoadMeasured, SpeedMeasurement
    from containers.verdict import SpeedRow

_DRAWN = ("ttft", "tpot", "e2e")  # not itl, which is near zero wherever tokens arrive together
_SMALLEST = 1e-3  # ms: what is drawn on a logarithmic scale is above zero


def render(report: SpeedReport) -> str:
    """The page; what others wrote (names of servers and hardware) is escaped."""
    speed = report.verdict.speed
    assert speed is not None
    loads = report.candidate.loads
    return (
        environment()
        .get_template("load.html.j2")
        .render(
            verdict=report.verdict.model_dump(mode="json"),
            speed=speed.model_dump(mode="json"),
            plots=[(KINDS[kind], _latency(report, kind, KINDS[kind])) for kind in _DRAWN],
            throughput=_throughput(report),
            loads=[
                {
                    "name": load.name,
                    "how": _how(load),
                    "rows": [_told(row) for row in speed.rows if row.load == load.name],
                }
                for load in loads
            ],
            slos=[_told(row) for row in speed.rows if row.slo],
        )
    )


def _how(load: LoadMeasured) -> str:
    how = f"{load.in_flight} in flight at once" if load.rate is None else f"{load.rate:g} a second, at random moments"
    return f"{load.requests} requests in a round, {how}"


def _latency(report: SpeedReport, kind: str, words: str) -> str:
    """p50 and p99 of both against the load."""
    rows = []
    for name, colour, one in (("baseline", "base", report.baseline), ("candidate", "plain", report.candidate)):
        rows += [_line(f"{name}, p50", colour, one, f"{kind}_p50"), _line(f"{name}, p99", colour, one, f"{kind}_p99")]
    places = [load.name for load in report.candidate.loads]
    return plots.lines(rows, places, title=f"{words} against load", axis="requests a second", unit="ms")


def _line(name: str, colour: str, one: SpeedMeasurement, measure: str) -> plots.Curve:
    values = [[max(round_[measure], _SMALLEST) for round_ in load.rounds] for load in one.loads]
    return plots.Curve(
        name,
        [statistics.median(found) for found in values],
        [min(found) for found in values],
        [max(found) for found in values],
        colour,
        dashed=measure.endswith("p99"),
    )


def _throughput(report: SpeedReport) -> str:
    assert report.verdict.speed is not None
    rows = [
        plots.Bar(f"Output at {row.load}", row.baseline, row.candidate, "tokens/s")
        for row in report.verdict.speed.rows
        if row.measure == "output_tokens_per_second"
    ]
    return plots.bars(rows, title="Throughput of baseline and candidate")


def _told(row: SpeedRow) -> dict[str, Any]:
    return {
        "load": row.load,
        "title": title(row.measure),
        "baseline": shown(row.baseline),
        "candidate": shown(row.candidate),
        "ratio": f"{row.ratio:.2f} ({row.lower:.2f} to {row.upper:.2f})",
        "slo": row.slo,
        "decision": row.decision or "",
    }
