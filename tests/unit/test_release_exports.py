"""Scores in the forms of others: read by the hub's own library, and written out by hand."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
import yaml
from huggingface_hub import parse_eval_result_entries

from containers.errors import BadInput
from containers.verdict import Load, Score, Serving, SpeedComparison, SpeedRow, Verdict
from flows.release.exports import export, export_folder
from tests.support.kubeflow_catalog import LoadedModel, load

if TYPE_CHECKING:
    from pathlib import Path

REFERENCE = "quay.io/models/llama-fp8:1.5"
GSM8K = Score(
    title="GSM-8K (8-shot)",
    category="OpenLLM v1",
    data_set="openai/gsm8k",
    metric="exact_match",
    samples=1319,
    baseline=94.0,
    candidate=93.06,
    lower=-1.9,
    upper=0.1,
    margin=2.0,
    decision="pass",
)
OWN = Score(title="Routing", data_set="tasks/routing.jsonl", samples=2, baseline=50, candidate=50)
LEFT_OUT = (
    Score(title="Average", samples=1321, baseline=72, candidate=71.53),
    Score(title="Perplexity", data_set="a/b", metric="perplexity", baseline=20, candidate=21, lower_is_better=True),
)
VERDICT = Verdict(
    decision="pass",
    subject="sha256:" + "a" * 64,
    baseline="sha256:" + "b" * 64,
    suite="openllm-v1",
    scores=(GSM8K, OWN, *LEFT_OUT),
    commands=("lm_eval run --tasks gsm8k_llama --seed 1", "lm_eval run --tasks gsm8k_llama --seed 2", "x --tasks own"),
    engine="vllm 0.23.0",  # type: ignore[call-arg]
)


def test_the_hubs_library_reads_its_form() -> None:
    """One entry for each benchmark over a data set of the hub; a file of the suite is no repository."""
    told = yaml.safe_load(export("hf-eval-results", VERDICT, REFERENCE, 1_700_000_000))
    (entry,) = parse_eval_result_entries(told)
    assert (entry.dataset_id, entry.task_id, entry.value) == ("openai/gsm8k", "gsm8k_llama", 93.06)
    assert entry.notes == f"GSM-8K (8-shot), exact_match, 1,319 questions, {REFERENCE}, 99.0 % of the baseline"
    for file in ("tasks/routing.jsonl", "data/BFCL_v4_multiple.json", "data/own.jsonl"):
        own = VERDICT.model_copy(update={"scores": (OWN.model_copy(update={"data_set": file}),)})
        with pytest.raises(BadInput, match="has no benchmark over a data set of the hub"):
            export("hf-eval-results", own, REFERENCE, 0)


def test_every_eval_ever_has_what_its_schema_requires() -> None:
    """By hand, from eval.schema.json 0.3.0: what it requires at the top, of a model and of a result."""
    told = json.loads(export("every-eval-ever", VERDICT, REFERENCE, 1_700_000_000))
    assert told["schema_version"] == "0.3.0"
    assert told["evaluation_id"] == "openllm-v1/models/llama-fp8/1700000000"
    assert told["retrieved_timestamp"] == "1700000000"
    assert told["source_metadata"] == {
        "source_name": "Carwright",
        "source_type": "evaluation_run",
        "source_organization_name": "unknown",
        "evaluator_relationship": "other",
    }
    assert told["model_info"] == {
        "name": "llama-fp8",
        "id": "models/llama-fp8",
        "inference_engine": {"name": "vllm", "version": "0.23.0"},
        "additional_details": {
            "deployment_type": "self_deployed",
            "model_availability": "unknown",
            "digest": "sha256:" + "a" * 64,
            "baseline": "sha256:" + "b" * 64,
            "reference": REFERENCE,
        },
    }
    assert told["eval_library"]["name"] == "carwright"
    first, second = told["evaluation_results"]
    assert first == {
        "evaluation_name": "gsm8k_llama",
        "source_data": {
            "dataset_name": "GSM-8K (8-shot)",
            "source_type": "hf_dataset",
            "hf_repo": "openai/gsm8k",
            "samples_number": 1319,
        },
        "metric_config": {
            "evaluation_description": "GSM-8K (8-shot): exact_match, points of 100",
            "lower_is_better": False,
            "score_type": "continuous",
            "min_score": 0.0,
            "max_score": 100.0,
        },
        "score_details": {
            "score": 93.06,
            "details": {
                "baseline": "94.0000",
                "difference": "-0.9400",
                "difference_lower": "-1.9000",
                "difference_upper": "+0.1000",
                "decision": "pass",
            },
        },
    }
    assert second["evaluation_name"] == "own"
    assert second["source_data"] == {"dataset_name": "Routing", "source_type": "other"}


def test_a_model_has_the_name_that_was_given() -> None:
    """In the form of the hub, which every_eval_ever asks for; a file of the model's own repository has none."""
    told = json.loads(export("every-eval-ever", VERDICT, "oci:images:1", 7, "RedHatAI/llama-fp8"))
    assert (told["model_info"]["id"], told["model_info"]["name"]) == ("RedHatAI/llama-fp8", "llama-fp8")
    assert told["evaluation_id"] == "openllm-v1/RedHatAI/llama-fp8/7"
    with pytest.raises(BadInput, match="hf-eval-results names no model") as caught:
        export("hf-eval-results", VERDICT, REFERENCE, 7, "RedHatAI/llama-fp8")
    assert "--model-id" in caught.value.remedy


def test_without_the_harness_commands_a_benchmark_has_its_title() -> None:
    bare = VERDICT.model_copy(update={"commands": ("lm_eval run --tasks",)})
    told = json.loads(export("every-eval-ever", bare, "oci:images:1", 1))
    assert [one["evaluation_name"] for one in told["evaluation_results"]] == ["GSM-8K (8-shot)", "Routing"]
    (entry,) = parse_eval_result_entries(yaml.safe_load(export("hf-eval-results", bare, REFERENCE, 1)))
    assert entry.task_id == "default"


def test_what_cannot_be_exported_is_bad_input() -> None:
    with pytest.raises(BadInput, match="there is no export format 'csv'"):
        export("csv", VERDICT, REFERENCE, 1)
    with pytest.raises(BadInput, match="the suite openllm-v1 has no benchmark over a data set"):
        export("every-eval-ever", VERDICT.model_copy(update={"scores": LEFT_OUT}), REFERENCE, 1)


SERVED = Serving(
    role="candidate",
    gpus=1,
    weights_per_gpu=1,
    cache_tokens=1,
    start_seconds=1.0,
    loads=(
        Load(requests=1, output_tokens_per_second=64.0, total_tokens_per_second=576.0, first_token_seconds=0.025),
        Load(requests=16, output_tokens_per_second=640.0, total_tokens_per_second=5760.0, first_token_seconds=0.1),
    ),
)


def written(folder: Path, verdict: Verdict, model_id: str = "") -> LoadedModel:
    for name, text in export_folder(verdict, REFERENCE, 1_700_000_000, model_id).items():
        (folder / name).write_text(text)
    return load(folder)


def test_kubeflows_loader_takes_the_folder_of_a_model(tmp_path: Path) -> None:
    """Held against a transcription of its Go source: every benchmark is a property, every load an artifact."""
    baseline = SERVED.model_copy(update={"role": "baseline", "gpus": 2})
    model = written(tmp_path, VERDICT.model_copy(update={"serving": (baseline, SERVED)}))
    assert model.name == "models/llama-fp8"
    assert model.accuracy == {"gsm8k_llama": 93.06, "own": 50.0, "overall_average": 71.53}
    assert model.created == 1_700_000_000_000
    first, second = model.performance.values()
    assert {name: value for name, value in first.items() if name != "id"} == {
        "model_id": "models/llama-fp8",
        "hardware_count": 1,
        "concurrency": 1,
        "mean_input_tokens": 512,
        "mean_output_tokens": 64,
        "requests_per_second": 1.0,
        "output_tokens_per_second": 64.0,
        "total_tokens_per_second": 576.0,
        "ttft_p50": 25.0,
        "engine": "vllm 0.23.0",
    }
    assert second["requests_per_second"] == 10.0
    again = written(tmp_path, VERDICT.model_copy(update={"serving": (SERVED,)}))
    assert list(again.performance) == [first["id"], second["id"]]  # the same measurement is the same artifact


def test_the_catalog_takes_what_a_suite_of_speed_measured(tmp_path: Path) -> None:
    """Each load is an artifact, with the percentiles under the names of serving benchmarks; a verdict of speed has no scores."""
    rows = tuple(
        SpeedRow(load=load, measure=measure, baseline=9.0, candidate=value, lower=0.5, upper=2.0)
        for load, measure, value in (
            ("4/s", "ttft_p99", 64.89),
            ("4/s", "output_tokens_per_second", 486.0),
            ("saturation", "ttft_p99", 480.5),
        )
    )
    where = "2 x NVIDIA H100 80GB HBM3 (machine 59957533)"
    speed = SpeedComparison(
        hardware=where, generator="vllm bench serve", prompt_tokens=512, output_tokens=128, rounds=3, rows=rows
    )
    model = written(tmp_path, VERDICT.model_copy(update={"scores": (), "speed": speed}))
    assert model.accuracy == {}
    first, second = model.performance.values()
    assert {name: value for name, value in first.items() if name != "id"} == {
        "model_id": "models/llama-fp8",
        "hardware_count": 2,
        "hardware_type": "NVIDIA H100 80GB HBM3",
        "load": "4/s",
        "mean_input_tokens": 512,
        "mean_output_tokens": 128,
        "ttft_p99": 64.89,
        "output_tokens_per_second": 486.0,
        "engine": "vllm 0.23.0",
        "generator": "vllm bench serve",
    }
    assert (second["load"], second["ttft_p99"]) == ("saturation", 480.5)


def test_where_no_speed_was_measured_there_is_no_file_of_it(tmp_path: Path) -> None:
    model = written(tmp_path, VERDICT, model_id="RedHatAI/llama-fp8")
    assert (model.name, model.performance) == ("RedHatAI/llama-fp8", {})
    assert {path.name for path in tmp_path.iterdir()} == {"metadata.json", "evaluations.ndjson"}


def test_a_folder_is_not_printed() -> None:
    with pytest.raises(BadInput, match="is a folder of files") as caught:
        export("kubeflow-catalog", VERDICT, REFERENCE, 1)
    assert "--output FOLDER" in caught.value.remedy
    with pytest.raises(BadInput, match="has no benchmark over a data set"):
        export_folder(VERDICT.model_copy(update={"scores": LEFT_OUT}), REFERENCE, 1)
