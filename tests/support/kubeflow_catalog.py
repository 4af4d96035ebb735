"""What the loader of Kubeflow's model catalog makes of a model's folder, transcribed from its Go source.

Source: https://github.com/kubeflow/model-registry, catalog/internal/catalog/modelcatalog/performance_metrics.go at commit
162508653a8a9366c6523f2362dfe9ff0d511cce: parseMetadataJSON, evaluationRecord.UnmarshalJSON, performanceRecord.UnmarshalJSON,
createAccuracyMetricsArtifact and createPerformanceArtifact. Go's decoder refuses a value of another type than a field's, and
its bufio.Scanner a line of more than 64 KiB.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

_LINE = 64 * 1024


@dataclass
class LoadedModel:
    """`accuracy` are the properties of the one accuracy artifact; `performance` those of each performance artifact, by its id."""

    name: str
    accuracy: dict[str, float] = field(default_factory=dict)
    created: int | None = None
    performance: dict[str, dict[str, Any]] = field(default_factory=dict)


def load(folder: Path) -> LoadedModel:
    """Raises ValueError where the loader gives an error or would leave something out without a word."""
    metadata = json.loads((folder / "metadata.json").read_text())
    if not isinstance(metadata, dict) or not isinstance(metadata.get("id"), str) or not metadata["id"]:
        raise ValueError("missing required 'id' field in metadata")
    for name, kinds in (
        ("overall_accuracy", (int, float)),
        ("size", str),
        ("tensor_type", str),
        ("variant_group_id", str),
    ):
        if metadata.get(name) is not None and not isinstance(metadata[name], kinds):  # pointers: null is unset
            raise ValueError(f"cannot unmarshal {name}")
    model = LoadedModel(metadata["id"])
    for record in _records(folder / "evaluations.ndjson"):
        if record.get("model_id") != model.name or not isinstance(record.get("benchmark"), str):
            raise ValueError(f"no evaluation of this model: {record}")
        if type(record.get("score")) not in (int, float):
            raise ValueError(f"a score that is no float64 is left out: {record}")
        if record["benchmark"] in model.accuracy:
            raise ValueError(f"two properties have the name {record['benchmark']}")
        model.accuracy[record["benchmark"]] = float(record["score"])
        model.created = min(filter(None, (model.created, int(record["created_at"]))))
    if metadata.get("overall_accuracy") is not None:
        model.accuracy["overall_average"] = float(metadata["overall_accuracy"])
    for record in _records(folder / "performance.ndjson"):
        if not isinstance(record.get("id"), str) or record["id"] in model.performance:
            raise ValueError(f"an artifact needs an id of its own: {record}")
        if record.get("model_id") != model.name:
            raise ValueError(f"no performance of this model: {record}")
        model.performance[record["id"]] = {k: v for k, v in record.items() if k not in ("created_at", "updated_at")}
    return model


def _records(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    lines = [line for line in path.read_text().split("\n") if line.strip()]
    if any(len(line.encode()) >= _LINE for line in lines):
        raise ValueError("bufio.Scanner: token too long")
    return [json.loads(line) for line in lines]
