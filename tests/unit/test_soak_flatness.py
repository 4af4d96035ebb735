"""The verdict of a soak: what is flat passes, what leaks does not, and noise decides neither."""

from __future__ import annotations

import numpy as np
import pytest

from tests.soak.flatness import FEW, GROWING, MEMORY, Series, all_series, judge
from tests.soak.page import page, panels

SHIPS = np.arange(8, 201, 8)  # 25 rounds of eight


def series(values: np.ndarray, least: float = 0.0) -> Series:
    return Series("memory", "MB", MEMORY, list(SHIPS), list(values), least)


def noise(size: float) -> np.ndarray:
    return np.random.default_rng(1).normal(0, size, len(SHIPS))


@pytest.mark.parametrize(
    ("values", "decision"),
    [
        (300 + noise(2), "flat"),
        (300 + 60 * (1 - np.exp(-SHIPS / 20)) + noise(2), "flat"),  # warms up in the first half
        (300 + 0.5 * SHIPS + noise(2), "grows"),  # half a megabyte for each ship
        (300 - 0.5 * SHIPS + noise(2), "flat"),
        (300 + noise(80), "unclear"),
        (np.where(SHIPS == 160, 900, 300) + noise(2), "flat"),  # one peak is no slope
    ],
)
def test_memory(values: np.ndarray, decision: str) -> None:
    assert judge(series(values)).decision == decision


def test_growth_is_that_of_the_second_half() -> None:
    found = judge(series(300 + 0.5 * SHIPS))
    assert found.growth == pytest.approx(0.5 * (200 - 112))
    assert (found.low, found.high) == pytest.approx((found.growth, found.growth))


def test_a_handle_for_every_ten_ships_is_a_leak_and_one_more_is_none() -> None:
    assert judge(series(20 + SHIPS // 10, FEW)).decision == "grows"
    assert judge(series(20 + (SHIPS > 150), FEW)).decision == "flat"


def test_too_few_points_say_nothing() -> None:
    assert judge(Series("memory", "MB", MEMORY, [1, 2, 3], [1.0, 1.0, 1.0])).decision == "unclear"
    assert judge(Series("memory", "MB", MEMORY, [], [])).decision == "unclear"


def lines(of_a_ship: float) -> list[dict[str, object]]:
    """A soak in which only the place `registry` grows, each ship by the same and `of_a_ship` kilobytes more than the one before."""
    use = {"rss": 10**8, "handles": 20, "threads": 5}
    found: list[dict[str, object]] = [
        {"kind": "about", "at": "2026-01-01T00:00:00+00:00", "lanes": 1, "cores": 2, "vllm": "1"}
    ]
    size = 0.0
    for ship in range(60):
        size += 1000 * (200 + of_a_ship * ship)
        found.append(
            {
                "kind": "ship",
                "ship": ship + 1,
                "state": "COMPLETED",
                "seconds": 40.0,
                "waited": 5.0,
                "tasks": {"push to x": 2.0},
            }
        )
        found.append({
            "kind": "sample", "ships": ship + 1, "at": "2026-01-01T01:00:00+00:00", "strays": [],
            "services": {"worker": {**use, "cpu": 0.3 * ship}},
            "disk": {"store": {"bytes": 10**7}, "registry": {"bytes": int(size)}},
        })  # fmt: skip
    return found


def test_what_grows_by_its_nature_must_grow_evenly() -> None:
    assert {"registry", "prefect"} <= GROWING
    even = {one.name: judge(one).decision for one in all_series(lines(0))}
    assert set(even.values()) == {"flat"}
    faster = {one.name: judge(one).decision for one in all_series(lines(5))}
    assert faster.pop("disk, registry: growth, a ship") == "grows"
    assert set(faster.values()) == {"flat"}


def test_the_page_says_what_was_seen() -> None:
    text = page(lines(0), "soak.svg")
    assert "60 ships (60 completed) in 60 minutes on 2 cores" in text
    assert "| push | 2.0 |" in text
    assert panels(lines(0))[0].title == "seconds of each ship"
