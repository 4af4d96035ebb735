"""`carwright runs`: what became of the runs of a folder, why one failed, and the command that goes on with it."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from typing import TYPE_CHECKING, Any

import pytest
import typer
from typer.testing import CliRunner

from containers.errors import BadInput, Temporary
from flows.cli.main import app
from flows.cli.options import takes_options_of
from flows.local.run_record import RunRecord
from flows.ship_request import ShipRequest
from infra.settings import Settings

if TYPE_CHECKING:
    from pathlib import Path

REQUESTS = [
    ShipRequest(model=""),
    ShipRequest(model="hf://acme/tiny", revision="refs/pr/1", keep=True, force=True),
    ShipRequest(
        model="file:///a folder/it's",
        to="oci:/x y/z",
        ignore=("re:.*router", "lm_head"),
        vllm_argument=("--enforce-eager", "--dtype=half"),
        override_gate="because I say so; $(rm)",
        gpu_memory_utilization=0.5,
        gate_profile="smoke",
    ),
]


@pytest.mark.parametrize("request_", REQUESTS, ids=["demo", "hub", "folder"])
def test_the_command_of_a_request_asks_for_the_same(request_: ShipRequest) -> None:
    seen: list[ShipRequest] = []
    own = typer.Typer()

    @own.command()
    @takes_options_of(ShipRequest)
    def ship(request: ShipRequest) -> None:
        seen.append(request)

    words = shlex.split(request_.command())
    assert words[:2] == ["carwright", "ship"]
    assert CliRunner().invoke(own, words[2:]).exit_code == 0
    assert seen == [request_]


def carwright(*words: str) -> Any:
    return CliRunner().invoke(app, words, catch_exceptions=False)


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three runs: one that failed, one that was killed, and one that is under way."""
    monkeypatch.chdir(tmp_path)
    folder = Settings().home / "runs"
    request = REQUESTS[1]
    failed = RunRecord.begin(folder, "20260101T000000", request, request.command())
    failed.fail(Temporary("the store is away", remedy="start it again", doctor="store"))
    for name in ("20260102T000000", "20260103T000000"):
        RunRecord.begin(folder, name, request, request.command())
    return folder


@pytest.mark.parametrize("kept", [False, True])
def test_temporary_files_of_a_killed_run_go_with_the_next(tmp_path: Path, *, kept: bool) -> None:
    """But for a service that was kept, which may still use its own."""
    runs = tmp_path / "runs"
    RunRecord.begin(runs, "1", REQUESTS[1], "")
    for step in ("quantize-abc", "serve-def"):
        (runs / "1" / step / "scratch" / "folder").mkdir(parents=True)
    if kept:
        (tmp_path / "services").mkdir()
        (tmp_path / "services" / "key.json").write_text("{}")
    RunRecord.begin(runs, "2", REQUESTS[1], "")
    assert [path.parent.name for path in runs.glob("*/*/scratch")] == (["serve-def"] if kept else [])


@pytest.mark.parametrize("left", ["", "{", "[]"], ids=["a folder", "half a record", "no record"])
def test_a_record_that_cannot_be_read_stops_nobody(runs: Path, left: str) -> None:
    """As of a run that another process of this folder removes meanwhile, or of a machine that lost its power."""
    path = runs / "20260101T000001" / "summary.json"
    if left:
        path.parent.mkdir()
        path.write_text(left)
    else:
        path.mkdir(parents=True)
    RunRecord.begin(runs, "20260104T000000", REQUESTS[1], "")
    listed = json.loads(carwright("runs", "--json").stdout)
    assert [one["state"] for one in listed] == ["running", "killed", "killed", "failed: the store is away"]


def test_a_run_that_is_removed_while_it_is_marked_as_killed(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a worker that keeps the newest 50."""
    before = RunRecord.update

    def update(self: RunRecord, **values: Any) -> None:
        if values == {"state": "killed"}:
            shutil.rmtree(self.path.parent)
        before(self, **values)

    monkeypatch.setattr(RunRecord, "update", update)
    RunRecord.begin(runs, "20260104T000000", REQUESTS[1], "")
    assert sorted(path.name for path in runs.iterdir()) == ["20260101T000000", "20260102T000000", "20260104T000000"]


def test_a_run_that_failed_says_why_and_how_to_go_on(runs: Path) -> None:
    shown = carwright("runs", "20260101").stdout
    lines = dict(re.split(r" {2,}", line.strip(), maxsplit=1) for line in shown.splitlines() if line.strip())
    assert lines["state"] == "failed: the store is away"
    assert lines["what to do"] == "start it again (`carwright doctor`, line `store`)"
    assert lines["go on with"] == REQUESTS[1].command()
    assert lines["logs"] == str(runs.resolve() / "20260101T000000")


def test_as_json(runs: Path) -> None:
    one = json.loads(carwright("runs", "20260101", "--json").stdout)
    assert (one["exit_code"], one["remedy"], one["command"]) == (
        75,
        "start it again (`carwright doctor`, line `store`)",
        REQUESTS[1].command(),
    )
    assert [run["state"] for run in json.loads(carwright("runs", "--json").stdout)] == [
        "running",
        "killed",
        "failed: the store is away",
    ]


def test_a_killed_run_goes_on_and_a_running_one_does(runs: Path) -> None:
    assert "go on with" in carwright("runs", "20260102").stdout
    assert "go on with" not in carwright("runs", "20260103").stdout


@pytest.mark.parametrize("name", ["2026", "1999"])
def test_a_name_that_is_not_one_run(runs: Path, name: str) -> None:
    with pytest.raises(BadInput, match="runs of this folder have names that begin with"):
        carwright("runs", name)
