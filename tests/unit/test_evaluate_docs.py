"""The documentation's power table is what the simulation gives."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.bench import _gate_power
from tests.support.gate_simulation import simulated

PAGE = (Path(__file__).parents[2] / "docs" / "measurements" / "gate.md").read_text()
ROW = re.compile(
    r"^\| ([\d,]+) \([\w-]+\) \| (\d+)% \| ([\d.]+) \| ([\d.]+)% \| ([\d.]+)% \| ([\d.]+)% \|$", re.MULTILINE
)
ROWS = [tuple(float(text.replace(",", "")) for text in row) for row in ROW.findall(PAGE)]


def test_the_table_is_what_its_command_prints() -> None:
    assert len(ROWS) == 20
    assert "\n".join(_gate_power.of_benchmarks()) in PAGE


@pytest.mark.parametrize("row", ROWS)
def test_a_row_of_the_power_table(row: tuple[float, ...]) -> None:
    """Drawn with another seed: within what 4,000 runs leave to chance."""
    samples, differing, loss, *printed = row
    found = simulated(
        samples=int(samples),
        differing=differing / 100,
        loss=loss,
        margin=2.0,
        confidence=0.95,
        tests=8,
        runs=2000,
        seed=99,
    )
    assert [100 * found[name] for name in ("pass", "inconclusive", "refuse")] == pytest.approx(printed, abs=5)
