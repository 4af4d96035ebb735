"""The scores of a verdict for the model catalog of the Kubeflow hub: metadata.json, evaluations.ndjson and performance.ndjson.

The catalog's loader (https://github.com/kubeflow/model-registry, catalog/internal/catalog/modelcatalog/performance_metrics.go, read
at commit 1625086) walks the folders of its `--performance-metrics` path. A folder with a metadata.json belongs to the model of
the catalog whose name is its `id`; each line of evaluations.ndjson is a benchmark's name and its score, and each of
performance.ndjson an artifact of its own, whose `id` is unique and whose other fields become properties. Times are milliseconds
since 1970. The names that its pages filter and sort by are in
clients/ui/frontend/src/concepts/modelCatalog/const.ts: `hardware_count`, `requests_per_second` (a double).

Only what was measured is told. A catalog's `ttft_mean` is not in a verdict, so it is not here; `hardware_type` is of suites of speed.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, Final

from containers.digest import Digest, canonical_json
from containers.oci.reference import Reference
from containers.verdict import SPEED_ANSWER, SPEED_PROMPT
from flows.release.benchmarks import benchmarks

if TYPE_CHECKING:
    from collections.abc import Iterator

    from containers.verdict import Verdict

FILES: Final = ("metadata.json", "evaluations.ndjson", "performance.ndjson")
_HARDWARE: Final = re.compile(r"(\d{1,4}) x (.+?)(?: \(machine [0-9a-f]+\))?")  # as `containers.hardware` writes it
_AVERAGE: Final = "Average"  # the title of the average over all benchmarks (containers/evaluate/gate.py)


def files(verdict: Verdict, reference: str, now: int, model_id: str = "") -> dict[str, str]:
    """The contents of a model's folder, by name; `now` is in seconds since 1970. performance.ndjson is missing where no speed was
    measured. `model_id` is the model's name in the catalog, by default the repository without its registry.
    """
    name = model_id or model_name(reference)
    times = {"created_at": now * 1000, "updated_at": now * 1000}
    average = next((one.candidate for one in verdict.scores if one.title == _AVERAGE and not one.lower_is_better), None)
    metadata: dict[str, Any] = {"id": name, **({} if average is None else {"overall_accuracy": average}), **times}
    metadata |= {
        "digest": verdict.subject,
        "baseline_digest": verdict.baseline,
        "suite": verdict.suite,
        "engine": verdict.server,
    }
    texts = (
        json.dumps(metadata, indent=2) + "\n",
        _lines({"model_id": name, **one, **times} for one in _evaluations(verdict)),
        _lines({**one, "model_id": name, **times} for one in _performance(verdict)),
    )
    return {file: text for file, text in zip(FILES, texts, strict=True) if text}


def model_name(reference: str) -> str:
    """The repository of an image without its registry, or the name of its layout's folder."""
    parsed = Reference.parse(reference)
    return parsed.repository or (parsed.layout.name if parsed.layout is not None else reference)


def _evaluations(verdict: Verdict) -> Iterator[dict[str, Any]]:
    """The candidate's scores, in points of 100. A benchmark that several rows are about would be one property: each has its title."""
    for score, task in benchmarks(verdict):
        yield {
            "benchmark": task or score.title,
            "score": float(score.candidate),  # the loader takes no whole number for a double
            "title": score.title,
            "metric": score.metric,
            "samples": score.samples,
            "baseline": float(score.baseline),
            **({} if score.recovery is None else {"recovery": score.recovery}),
        }


def _performance(verdict: Verdict) -> Iterator[dict[str, Any]]:
    """One record for each load of the candidate: of a suite of speed, else of the short look at how fast its GPUs answer."""
    for told in (*_under_load(verdict), *_while_measured(verdict)):
        # By what was measured: the same verdict gives the same record, which the loader then has already.
        yield {"id": Digest.of(canonical_json({"subject": verdict.subject, **told})).hex[:32], **told}


def _under_load(verdict: Verdict) -> Iterator[dict[str, Any]]:
    """What a suite of speed measured (`containers.verdict.SpeedComparison`), by load: times in milliseconds under their names there."""
    if verdict.speed is None:
        return
    speed, hardware = verdict.speed, _HARDWARE.fullmatch(verdict.speed.hardware)
    loads: dict[str, dict[str, float]] = {}
    for row in speed.rows:
        loads.setdefault(row.load, {})[row.measure] = float(row.candidate)
    for load, measures in loads.items():
        yield {
            **({"hardware_count": int(hardware[1]), "hardware_type": hardware[2]} if hardware else {}),
            "load": load,
            "mean_input_tokens": speed.prompt_tokens,
            "mean_output_tokens": speed.output_tokens,
            **measures,
            "engine": verdict.server,
            "generator": speed.generator,
        }


def _while_measured(verdict: Verdict) -> Iterator[dict[str, Any]]:
    """What a GPU answered before its benchmarks (`containers.verdict.Serving`)."""
    for serving in verdict.serving:
        if serving.role != "candidate":
            continue
        for load in serving.loads:
            yield {
                "hardware_count": serving.gpus,
                "concurrency": load.requests,
                "mean_input_tokens": SPEED_PROMPT,
                "mean_output_tokens": SPEED_ANSWER,
                "requests_per_second": load.output_tokens_per_second / SPEED_ANSWER,
                "output_tokens_per_second": load.output_tokens_per_second,
                "total_tokens_per_second": load.total_tokens_per_second,
                "ttft_p50": load.first_token_seconds * 1000,  # milliseconds, as the catalog's other times
                "engine": verdict.server,
            }


def _lines(records: Iterator[dict[str, Any]]) -> str:
    return "".join(json.dumps(one) + "\n" for one in records)
