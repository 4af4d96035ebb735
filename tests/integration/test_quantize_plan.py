"""`carwright quantize --plan` as a user calls it, on a checkpoint of 405 billion parameters that has headers only."""

from __future__ import annotations

import json
import os
import sys
from typing import TYPE_CHECKING

import pytest

from containers.process import run
from tests.support.checkpoints import ends, layer, write

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.integration


def test_a_plan_of_191_shards(tmp_path: Path) -> None:
    """Table and JSON, without a download, a Prefect server or a weight; the JSON has every group."""
    tensors = [(name, shape) for at in range(126) for name, shape in layer(at, 16384, 53248).items()]
    tensors += ends(16384, 128256).items()
    folder = write(tmp_path / "405b", [dict(tensors[at::191]) for at in range(191)], sparse=True)
    command = [sys.executable, "-m", "flows.cli.main", "quantize", f"file://{folder}", "--plan"]
    env = {**os.environ, "CARWRIGHT_HOME": str(tmp_path / "home")}
    shown = run(command, env=env, timeout=200).stdout
    assert "191 groups" in shown
    assert "882  quantized" in shown
    plan = json.loads(run([*command, "--json"], env=env, timeout=200).stdout)
    assert len(plan["groups"]) == 191
    assert plan["layers"] <= 127
    assert plan["size_before"] > 800e9
    assert 400e9 < plan["size_after"] < 0.6 * plan["size_before"]
