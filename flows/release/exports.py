"""The scores of a verdict in the forms of others, for the candidate; the baseline is told beside it where a form has room.

Formats: every_eval_ever, eval.schema.json 0.3.0 (https://github.com/evaleval/every_eval_ever), one JSON document; and the hub's
evaluation results (https://huggingface.co/docs/hub/eval-results), a YAML list for `.eval_results/NAME.yaml` of a model's
repository. Both take benchmarks over a data set; averages and perplexities are left out, and so is the hub's form for data sets
that are no repository there.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, Final

import yaml
from huggingface_hub import EvalResultEntry, eval_result_entries_to_yaml

from containers.errors import BadInput
from flows.release import model_catalog
from flows.release.benchmarks import benchmarks

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from containers.verdict import Score, Verdict

_SCHEMA: Final = "0.3.0"
_REPOSITORY: Final = re.compile(
    r"(?!tasks/)[\w.-]+/[\w.-]+(?<!\.json)(?<!\.jsonl)"
)  # of the hub, and no file of a suite


def every_eval_ever(verdict: Verdict, reference: str, now: int, model_id: str = "") -> str:
    """`now` is the time of this record, in seconds since 1970: the form asks for it, and for a name as the hub's."""
    engine, _, version = verdict.server.partition(" ")
    identity = model_id or model_catalog.model_name(reference)
    told = {
        "schema_version": _SCHEMA,
        "evaluation_id": f"{verdict.suite}/{identity}/{now}",
        "retrieved_timestamp": str(now),
        "source_metadata": {
            "source_name": "Carwright",
            "source_type": "evaluation_run",
            "source_organization_name": "unknown",
            "evaluator_relationship": "other",
        },
        "eval_library": {"name": "carwright", "version": _version(), "additional_details": {"suite": verdict.suite}},
        "model_info": {
            "name": identity.rpartition("/")[2],
            "id": identity,
            "inference_engine": {"name": engine or "unknown", "version": version or "unknown"},
            "additional_details": {
                "deployment_type": "self_deployed",
                "model_availability": "unknown",
                "digest": verdict.subject,
                "baseline": verdict.baseline,
                "reference": reference,
            },
        },
        "evaluation_results": [_result(one, task) for one, task in benchmarks(verdict)],
    }
    return json.dumps(told, indent=2) + "\n"


def _result(one: Score, task: str) -> dict[str, Any]:
    hub = _REPOSITORY.fullmatch(one.data_set) is not None
    data: dict[str, Any] = {"dataset_name": one.title, "source_type": "hf_dataset" if hub else "other"}
    if hub:
        data |= {"hf_repo": one.data_set, "samples_number": one.samples}
    details = {"baseline": f"{one.baseline:.4f}", "difference": f"{one.difference:+.4f}"}
    if one.lower is not None and one.upper is not None:
        details |= {"difference_lower": f"{one.lower:+.4f}", "difference_upper": f"{one.upper:+.4f}"}
    if one.decision is not None:
        details["decision"] = one.decision
    return {
        "evaluation_name": task or one.title,
        "source_data": data,
        "metric_config": {
            "evaluation_description": f"{one.title}: {one.metric}, points of 100",
            "lower_is_better": False,
            "score_type": "continuous",
            "min_score": 0.0,
            "max_score": 100.0,
        },
        "score_details": {"score": one.candidate, "details": details},
    }


def hub_results(verdict: Verdict, reference: str, now: int, model_id: str = "") -> str:
    """Scores in points of 100; the notes say what was run, and how much of the baseline is left."""
    del now
    if model_id:
        raise BadInput(
            "hf-eval-results names no model: it is a file of the model's own repository", remedy="leave out --model-id"
        )
    entries = [
        EvalResultEntry(
            dataset_id=one.data_set,
            task_id=task or "default",
            value=round(one.candidate, 4),
            notes=f"{one.title}, {one.metric}, {one.samples:,} questions, {reference}"
            + ("" if one.recovery is None else f", {one.recovery:.1f} % of the baseline"),
        )
        for one, task in benchmarks(verdict)
        if _REPOSITORY.fullmatch(one.data_set)
    ]
    if not entries:
        raise BadInput(
            f"the suite {verdict.suite} has no benchmark over a data set of the hub", remedy="export another format"
        )
    return str(yaml.safe_dump(eval_result_entries_to_yaml(entries), sort_keys=False, allow_unicode=True))


FORMATS: Final[Mapping[str, Callable[[Verdict, str, int, str], str]]] = {
    "every-eval-ever": every_eval_ever,
    "hf-eval-results": hub_results,
}
FOLDER: Final = "kubeflow-catalog"  # a format of several files
FOLDER_FILES: Final = model_catalog.FILES
_NAMES: Final = (*FORMATS, FOLDER)


def export(form: str, verdict: Verdict, reference: str, now: int, model_id: str = "") -> str:
    """The document; raises BadInput for an unknown format, and where nothing of the verdict fits into it. `model_id` is the model's
    name there, by default the repository without its registry.
    """
    _check(form, verdict)
    if form == FOLDER:
        raise BadInput(f"{FOLDER} is a folder of files", remedy="name it: --output FOLDER")
    return FORMATS[form](verdict, reference, now, model_id)


def export_folder(verdict: Verdict, reference: str, now: int, model_id: str = "") -> dict[str, str]:
    """The files of the format `FOLDER` by name; raises BadInput where nothing of the verdict fits into it."""
    _check(FOLDER, verdict)
    return model_catalog.files(verdict, reference, now, model_id)


def _check(form: str, verdict: Verdict) -> None:
    if form not in _NAMES:
        raise BadInput(f"there is no export format {form!r}", remedy=f"give one of {', '.join(_NAMES)}")
    if not any(True for _ in benchmarks(verdict)) and not (form == FOLDER and verdict.speed):
        raise BadInput(
            f"the suite {verdict.suite} has no benchmark over a data set", remedy="evaluate with a suite that has one"
        )


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("carwright")
    except PackageNotFoundError:
        return "unknown"
