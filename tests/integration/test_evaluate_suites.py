"""The declared suites against the pinned lm-evaluation-harness: every task, metric, data set and command line resolves."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from containers import suites
from containers.contract import Step
from containers.evaluate import kinds
from containers.evaluate.kinds.benchmarks import BenchmarkSuite
from containers.process import inherited, run
from infra.environments.environment import prepare
from infra.settings import Settings

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.integration, pytest.mark.timeout(900)]

HARNESS = suites.SHIPPED.parent / "harness"
SUITES = [kinds.load(suites.read(name)) for name in suites.names()]
ROWS = [one for suite in SUITES if isinstance(suite, BenchmarkSuite) for one in suite.declared.benchmarks]


@pytest.fixture(scope="module")
def python() -> Path:
    """The interpreter of the step's environment, in the cache that all tests share."""
    return prepare(Step.EVALUATE, Settings(), print).python


def check(python: Path, *arguments: str) -> dict[str, object]:
    env = {**inherited(), "HF_HUB_OFFLINE": "1"}
    done = run([str(python), str(HARNESS / "check.py"), *arguments], env=env, timeout=600)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def test_every_task_resolves_without_data(python: Path) -> None:
    """Names, data sets, kinds of output, metrics and filters are what the pinned harness declares."""
    found = check(python, "tasks", *(one.task for one in ROWS), "no_such_task")
    assert found.pop("no_such_task") is None
    assert found.keys() == {one.task for one in ROWS} != set()
    for one in ROWS:
        about = found[one.task]
        assert isinstance(about, dict), one.task
        metric, filter_name = one.metric.split(",")
        assert about["data_set"] == one.data_set, one.task
        assert metric in about["metrics"], one.task
        assert filter_name in about["filters"], one.task
        if about["output_type"] != "generate_until":
            assert one.api == "completions", f"{one.task}: the chat API gives no log-likelihoods"
