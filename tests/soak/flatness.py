"""Whether what was measured over many ships stayed flat: a robust slope of the second half, with its interval.

The first half is the services' own: caches fill, pools open. Over the second half the slope is Theil and Sen's (the median of
the slopes between all pairs; scipy.stats.theilslopes), which one slow run or one collection of garbage does not move, and its
interval holds 95 %. *Growth* is that slope times the ships of the second half, as a part of the series' median. It is

    flat      if all of the interval is within the limit
    grows     if all of it is beyond
    unclear   else: more ships are needed to say

What must grow by its nature (the registry keeps every image, Prefect's database every run) is looked at by its increase for
each ship, which must stay flat in the same way.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np
from scipy import stats

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

Decision = Literal["flat", "grows", "unclear"]

MEMORY: Final = 0.05  # of the median
TIME: Final = 0.10
DISK: Final = 0.05
COUNTED: Final = 0.10  # handles and threads, and never less than `FEW` of them
FEW: Final = 2.0
GROWING: Final = frozenset({"registry", "prefect", "logs"})  # by their nature: judged by the increase of each ship
LEAST: Final = 5  # points of the second half without which nothing is said
_NOTHING: Final = 1 << 20  # bytes: a place that is smaller is flat whatever it does within


@dataclass(frozen=True)
class Series:
    """What was measured after so many ships; `least` is how much growth, in its unit, is none."""

    name: str
    unit: str
    limit: float
    ships: Sequence[float]
    values: Sequence[float]
    least: float = 0.0


@dataclass(frozen=True)
class Judged:
    """The medians of both halves, and the growth over the second with its interval, in the series' unit."""

    series: Series
    first: float
    second: float
    growth: float
    low: float
    high: float
    allowed: float
    decision: Decision


def judge(series: Series) -> Judged:
    ships, values = np.asarray(series.ships, float), np.asarray(series.values, float)
    late = ships > (ships.min() + ships.max()) / 2 if len(ships) else ships > 0
    first, second = (float(np.median(part)) if len(part) else np.nan for part in (values[~late], values[late]))
    allowed = max(series.limit * abs(second), series.least)
    if late.sum() < LEAST:
        return Judged(series, first, second, np.nan, np.nan, np.nan, allowed, "unclear")
    slope, _, low, high = (float(one) for one in stats.theilslopes(values[late], ships[late], 0.95))
    span = float(np.ptp(ships[late]))
    bounds = (slope * span, low * span, high * span)
    decision: Decision = "flat" if bounds[2] <= allowed else "grows" if bounds[1] > allowed else "unclear"
    return Judged(series, first, second, *bounds, allowed, decision)


def all_series(lines: Iterable[dict[str, Any]]) -> list[Series]:
    """What the lines of a soak say: of each service, of each place on the disk, and of the ships themselves."""
    lines = list(lines)
    samples = [one for one in lines if one["kind"] == "sample" and one["ships"] > 0]
    ships = [one for one in lines if one["kind"] == "ship" and one["state"] == "COMPLETED"]
    at = [one["ships"] for one in samples]
    found = [Series("seconds of a ship", "s", TIME, [one["ship"] for one in ships], [one["seconds"] for one in ships])]
    for role in samples[0]["services"]:
        of = [one["services"][role] for one in samples]
        found += [
            Series(f"{role}: memory", "MB", MEMORY, at, [one["rss"] / 1e6 for one in of]),
            Series(f"{role}: handles", "", COUNTED, at, [one["handles"] for one in of], FEW),
            Series(f"{role}: threads", "", COUNTED, at, [one["threads"] for one in of], FEW),
        ]
        middle, spent = increases(at, [one["cpu"] for one in of])
        found.append(Series(f"{role}: processor, a ship", "s", TIME, middle, spent, 0.05))
    for place in samples[0]["disk"]:
        sizes = [one["disk"][place]["bytes"] / 1e6 for one in samples]
        if place in GROWING:
            middle, grown = increases(at, [size * 1000 for size in sizes])
            found.append(Series(f"disk, {place}: growth, a ship", "kB", DISK, middle, grown, 1.0))
        else:
            found.append(Series(f"disk, {place}", "MB", DISK, at, sizes, _NOTHING / 1e6))
    return found


def increases(ships: Sequence[float], values: Sequence[float]) -> tuple[list[float], list[float]]:
    """Between neighbours: the ships of the later one, and how much was added for each ship."""
    pairs = list(zip(ships, values, strict=True))
    steps = [(later[0], (later[1] - one[1]) / (later[0] - one[0])) for one, later in pairwise(pairs)]
    return [ship for ship, _ in steps], [value for _, value in steps]
