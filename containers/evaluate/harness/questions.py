"""Reads single questions from the harness's results: scores, dependent questions, and how many scores change when
repeated.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from containers.errors import BadInput
from containers.evaluate.measurement import Scored

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from containers.evaluate.harness.benchmark import Benchmark

_SHARED = 200  # characters from which on a text that two questions have in common makes them dependent


def scored(one: Benchmark, found: Mapping[str, Any], suite: str, category: str) -> Scored:
    """One score for each question of a benchmark, from the harness's samples."""
    metric, _, filter_name = one.metric.partition(",")
    scores: dict[str, float] = {}
    about: dict[str, str] = {}
    answered: set[str] = set()
    for task, samples in sorted(found["samples"].items()):
        for sample in samples:
            if sample["filter"] != filter_name:
                continue
            if metric not in sample:
                raise BadInput(
                    f"{one.title} of the suite {suite} has no metric {metric}",
                    remedy=f"give one of {', '.join(sample['metrics'])}",
                )
            value, name = sample[metric], f"{task}/{sample['doc_id']}"
            answered.add(name)
            several = isinstance(value, list | tuple)  # IFEval: one for every instruction of a question
            parts = {f"{name}/{number}": float(part) for number, part in enumerate(value)} if several else {name: value}
            scores |= {key: float(part) for key, part in parts.items()}
            about |= dict.fromkeys(parts, _text(sample.get("doc")) or name)
    if not scores:
        raise BadInput(f"{one.title} of the suite {suite} has no answers through the filter {filter_name}")
    if len(answered) != one.samples:
        raise BadInput(
            f"{one.title} of the suite {suite} has {len(answered)} scored questions, and {one.samples} are declared: an "
            "incomplete sample set never passes",
            remedy="give `samples` and `metric` as the task has them",
        )
    reported = (found["groups"] if one.task in found.get("groups", {}) else found["results"]).get(one.task, {})
    value = reported.get(one.metric)
    return Scored(
        key=one.key,
        title=one.title,
        scores=scores,
        category=category,
        data_set=one.data_set,
        metric=metric,
        fewshot=one.num_fewshot,
        margin=one.margin,
        reported=100 * value if isinstance(value, float | int) else None,
        clusters=_shared(about),
    )


def noise(one: Benchmark, first: Mapping[str, Any], second: Mapping[str, Any]) -> float:
    """The share of the questions of `second` that `first` scored otherwise, of those with the same prompt."""
    metric, _, filter_name = one.metric.partition(",")

    def scores(found: Mapping[str, Any]) -> dict[tuple[str, int, str], Any]:
        return {
            (task, sample["doc_id"], sample["prompt_hash"]): sample[metric]
            for task, samples in found["samples"].items()
            for sample in samples
            if sample["filter"] == filter_name
        }

    before, after = scores(first), scores(second)
    common = before.keys() & after.keys()
    return sum(before[key] != after[key] for key in common) / len(common) if common else 0.0


def count(samples: Sequence[Mapping[str, Any]]) -> int:
    return len({sample["doc_id"] for sample in samples})


def _text(document: Any) -> str:
    """The longest text of a question's document, when it is long enough to be what the question is about."""
    texts = [value for value in document.values() if isinstance(value, str)] if isinstance(document, dict) else []
    longest = max(texts, key=len, default="")
    return longest if len(longest) >= _SHARED else ""


def _shared(about: Mapping[str, str]) -> dict[str, str]:
    """Of every question that is about the same as another one, the name of the first that is."""
    counts = Counter(about.values())
    first: dict[str, str] = {}
    return {key: first.setdefault(text, key) for key, text in about.items() if counts[text] > 1}
