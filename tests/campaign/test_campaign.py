"""The campaign as a test: all of it, for hours, and a part that begins it.

`CAMPAIGN_SEED` chooses other instants and calls. What the long part did is in docs/measurements/campaign.md.
"""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.campaign.cases import containers, engine, every
from tests.campaign.engine import IMAGES
from tests.campaign.runner import Runner
from tests.campaign.world import ROOT, World, toys, write_model, write_suite
from tests.support.dry_run_world import need_images

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.integration]

SEED = int(os.environ.get("CAMPAIGN_SEED", "17"))
FEW = {"kill": 19, "fault": 8, "beside": 0}


@pytest.mark.timeout(900)
def test_a_kill_and_a_fault(tmp_path: Path) -> None:
    """One of each, with toys in place of the engines: their end is in the long part and in test_ship.py."""
    shared = tmp_path / "shared"
    shared.mkdir()
    write_model(shared / "model")
    write_suite(shared / "tiny")
    here = [case for case in every(SEED, FEW) if not case.by_deployment and not case.own_engines]
    chosen = [next(case for case in here if case.victim == victim) for victim in ("flow", "store") if victim]
    with toys() as ports, World(tmp_path / "lane", shared, ports, "rclone") as world:
        runner = Runner(world)
        records = [runner.run(case) for case in chosen]
    assert [record["problems"] for record in records] == [[], []], records
    assert {record["outcome"] for record in records} <= {"unharmed", "told", "resumed"}, records


@pytest.mark.campaign
@pytest.mark.timeout(3600)
def test_a_container_and_a_call_of_the_engine(tmp_path: Path) -> None:
    """One of each, with toys in place of what is measured."""
    need_images(*IMAGES)
    shared = tmp_path / "shared"
    shared.mkdir()
    write_model(shared / "model")
    write_suite(shared / "tiny")
    with toys() as ports, World(tmp_path / "lane", shared, ports, "rclone") as world:
        runner = Runner(world)
        records = [runner.run(case) for case in (containers(SEED, 2)[1], engine(SEED, 3)[2])]
    assert [record["problems"] for record in records] == [[], []], records
    assert {record["outcome"] for record in records} <= {"unharmed", "told"}, records


@pytest.mark.campaign
@pytest.mark.timeout(6 * 3600)
def test_all_of_it(tmp_path: Path) -> None:
    """Kills, faults and crowds, of processes and of containers, with real vLLMs."""
    results = tmp_path / "results.jsonl"
    lanes = max(1, len(os.sched_getaffinity(0)) // 2)
    argv = [
        sys.executable,
        "-m",
        "tests.campaign",
        "--results",
        str(results),
        "--seed",
        str(SEED),
        "--lanes",
        str(lanes),
    ]
    ended = subprocess.run([*argv, "--minutes", "350"], cwd=ROOT, check=False, capture_output=True, text=True)
    print(ended.stdout)
    assert ended.returncode == 0, ended.stdout[-4000:] + ended.stderr[-4000:]
