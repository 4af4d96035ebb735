"""`carwright eval` and `compare` on endpoints that somebody else serves, as a person uses them."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
import yaml

from containers import suites
from containers.process import inherited
from tests.openai_server import Behaviour, openai_server

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Carwright = Callable[..., subprocess.CompletedProcess[str]]

pytestmark = pytest.mark.integration


@pytest.fixture
def carwright(tmp_path: Path, root: Path) -> Carwright:
    def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
        environment = inherited() | {"PYTHONPATH": str(root), "COLUMNS": "200"}
        argv = [sys.executable, "-m", "flows.cli", *map(str, arguments)]
        return subprocess.run(argv, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)

    return run


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    """The shipped suite with little text and no tasks, so that the toy answers fast."""
    folder = tmp_path / "small"
    (folder / "text").mkdir(parents=True)
    declared = yaml.safe_load(suites.read("smoke").files["suite.yaml"])
    declared.pop("tasks", None)
    (folder / "suite.yaml").write_text(yaml.safe_dump({**declared, "name": "small"}))
    for number, name in enumerate(("01-bridge", "02-tides", "03-third")):
        (folder / "text" / f"{name}.txt").write_text("Rain fell on the crooked bridge.\n" * (number + 3))
    return folder


def test_two_endpoints_are_compared_and_judged(carwright: Carwright, suite: Path, tmp_path: Path) -> None:
    """The same and a shifted toy: `compare` shows both and ends with 0, `eval` refuses the shifted one with 3."""
    with openai_server(Behaviour()) as a, openai_server(Behaviour(shift=0.8)) as b:
        shown = carwright("compare", a, b, "--suite", suite, "--json", "--output", tmp_path / "page.html")
        assert shown.returncode == 0, shown.stderr
        told = json.loads(shown.stdout)
        assert told["decision"] == "refuse"
        (score,) = (one for one in told["scores"] if one["metric"] == "perplexity")
        assert score["lower"] < score["candidate"] - score["baseline"] < score["upper"]
        assert told["engine"].startswith("the endpoint http://")
        assert "refuse" in (tmp_path / "page.html").read_text()
        table = carwright("compare", a, a, "--suite", suite)
        assert table.returncode == 0, table.stderr
        assert "100.0 %" in table.stdout
        refused = carwright("eval", b, "--baseline", a, "--suite", suite)
        assert refused.returncode == 3, refused.stderr


def test_a_stored_measurement_is_compared_without_its_endpoint(carwright: Carwright, suite: Path) -> None:
    with openai_server(Behaviour()) as url:
        measured = carwright("eval", url, "--suite", suite, "--json")
    assert measured.returncode == 0, measured.stderr
    stored = "measurement:" + json.loads(measured.stdout)["fingerprint"][:12]
    again = carwright("eval", stored, "--baseline", stored, "--suite", suite, "--json")
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout)["decision"] == "pass"
    unknown = carwright("compare", stored, "measurement:00000000", "--suite", suite)
    assert unknown.returncode == 2
    assert "0 stored measurements begin with '00000000'" in unknown.stderr
    down = carwright("eval", url, "--suite", suite)
    assert down.returncode == 75
    assert "does not answer" in down.stderr
