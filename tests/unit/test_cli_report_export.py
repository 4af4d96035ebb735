"""`carwright report --export` kubeflow-catalog` of a run of this folder."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from containers.verdict import Load, Score, Serving
from flows.local.run_record import RunRecord
from flows.ship_request import ShipRequest
from tests.support.command_line import CommandLine
from tests.support.kubeflow_catalog import load
from tests.support.showing import SHIPPED

if TYPE_CHECKING:
    from pathlib import Path

SCORE = Score(title="GSM-8K", data_set="openai/gsm8k", samples=1319, baseline=94.0, candidate=93.0)
SERVED = Serving(
    role="candidate",
    gpus=1,
    weights_per_gpu=1,
    cache_tokens=1,
    start_seconds=1.0,
    loads=(Load(requests=1, output_tokens_per_second=64, total_tokens_per_second=576, first_token_seconds=0.02),),
)


@pytest.fixture
def shipped(tmp_path: Path) -> CommandLine:
    """A folder with the record of one run, and its page."""
    runs = tmp_path / ".carwright" / "runs"
    record = RunRecord.begin(runs, "20260102T030405", ShipRequest(model="hf://org/name"), "carwright ship")
    verdict = SHIPPED.verdict.model_copy(update={"scores": (SCORE,), "serving": (SERVED,)})
    record.complete(SHIPPED.model_copy(update={"verdict": verdict, "reference": "quay.io/models/name-fp8:1.0"}))
    (record.path.parent / "report.html").write_text("a page")
    return CommandLine(tmp_path)


def test_a_folder_for_the_catalog_is_written_and_written_again(shipped: CommandLine) -> None:
    """Its loader takes it, and nothing of an older export stays."""
    stale = shipped.folder / "catalog"
    stale.mkdir()
    (stale / "performance.ndjson").write_text("{")
    done = shipped("report", "--export", "kubeflow-catalog", "-o", "catalog", "--model-id", "RedHatAI/name-fp8")
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["catalog/metadata.json", "catalog/evaluations.ndjson", "catalog/performance.ndjson"]
    model = load(stale)
    assert (model.name, model.accuracy) == ("RedHatAI/name-fp8", {"GSM-8K": 93.0})
    assert [one["ttft_p50"] for one in model.performance.values()] == [20.0]


def test_a_file_in_the_folders_place_stays(shipped: CommandLine) -> None:
    (shipped.folder / "catalog").write_text("mine")
    done = shipped("report", "--export", "kubeflow-catalog", "-o", "catalog")
    assert (done.returncode, done.stdout) == (2, "")
    assert "catalog is not a folder" in done.stderr
    assert (shipped.folder / "catalog").read_text() == "mine"


def test_without_a_folder_nothing_is_written(shipped: CommandLine) -> None:
    done = shipped("report", "--export", "kubeflow-catalog")
    assert (done.returncode, done.stdout) == (2, "")
    assert "is a folder of files" in done.stderr


def test_a_name_without_an_export_is_told(shipped: CommandLine) -> None:
    done = shipped("report", "--model-id", "RedHatAI/name-fp8")
    assert done.returncode == 2
    assert "--model-id is the model's name in an export" in done.stderr
    named = shipped("report", "--export", "every-eval-ever", "--model-id", "RedHatAI/name-fp8")
    assert '"id": "RedHatAI/name-fp8"' in named.stdout
