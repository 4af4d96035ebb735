"""Reads single questions from the harness's results: scores, dependent questions, and how many scores change when
repeated.
"""

from __future__ import annotations

import math
from collections import Counter
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Final

from containers.errors import BadInput
from containers.evaluate.measurement import Scored
from containers.foreign_text import one_line

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from containers.evaluate.harness.benchmark import Benchmark

# By what a metric divides a choice's log-probability.
_LENGTHS: Final[Mapping[str, Callable[[str], int]]] = {
    "acc": lambda _: 1,
    "acc_norm": len,
    "acc_bytes": lambda choice: len(choice.encode()),
}
_ROUNDING: Final = 1e-6  # of a score that is a sum of shares
_METRICS: Final = "give a metric that scores each question from 0 to 1, more being better, such as acc or exact_match"
_SHARED = 200  # characters from which on a text that two questions have in common makes them dependent


def scored(
    one: Benchmark,
    found: Mapping[str, Any],
    suite: str,
    category: str,
    tasks: Mapping[str, Any] | None = None,
    *,
    count: int | None = None,
    apart: bool = False,
) -> Scored:
    """One score for each question of a benchmark, from the harness's samples; with the harness's `tasks` by name, margins too,
    where choices were compared by their log-probabilities.

    `count` is how many questions were asked, if not all. With `apart` others are asked apart from these, and what they have in
    common is named so that both tell the same name.
    """
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
            parts = {f"{name}/{number}": part for number, part in enumerate(value)} if several else {name: value}
            scores |= {key: _share(part, one, suite) for key, part in parts.items()}
            about |= dict.fromkeys(parts, _text(sample.get("doc")) or name)
    if not scores:
        raise BadInput(f"{one.title} of the suite {suite} has no answers through the filter {filter_name}")
    wanted = one.samples if count is None else count
    if len(answered) != wanted:
        raise BadInput(
            f"{one.title} of the suite {suite} has {len(answered)} scored questions, and {wanted} are declared: an "
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
        clusters=_named(about) if apart else _shared(about),
        margins=_margins(one, found, tasks or {}, scores),
        averaged=one.averaged,
    )


def check_metric(one: Benchmark, tasks: Mapping[str, Any], suite: str) -> None:
    """Raises BadInput for a metric of which less is better by what the harness's `tasks` say: the gate takes less for a loss."""
    metric = one.metric.partition(",")[0]
    for name, task in tasks.items():
        if task.higher_is_better().get(metric) is False:
            raise BadInput(
                f"{one.title} of the suite {suite} has the metric {metric}, and to the task {name} less of it is better",
                remedy=_METRICS,
            )


def _share(value: Any, one: Benchmark, suite: str) -> float:
    """The score of one question; NaN stays, since that is the model's. Raises BadInput for one that is no share of a point."""
    try:
        found = float(value)
    except (TypeError, ValueError):
        found = math.inf
    if found < -_ROUNDING or found > 1 + _ROUNDING:
        raise BadInput(
            f"{one.title} of the suite {suite}: a question has the {one.metric.partition(',')[0]} {one_line(repr(value))}, and scores "
            "are from 0 to 1",
            remedy=_METRICS,
        )
    return found


def asked_of(part: Mapping[str, Sequence[int]]) -> dict[str, list[int]]:
    """The questions of each task as the harness takes them: none at all would be all to it, so it gets the first one instead."""
    return {task: list(numbers) or [0] for task, numbers in part.items()}


def of_part(found: Mapping[str, Any], part: Mapping[str, Sequence[int]]) -> dict[str, Any]:
    """The harness's results without what was asked of a task only because of `asked_of`."""
    samples = {task: [] if task in part and not part[task] else rows for task, rows in found["samples"].items()}
    return {**found, "samples": samples}


def averaged(drawn: Sequence[Scored], *, told: bool = False) -> Scored:
    """One benchmark that was answered several times: the mean score of each question, with the number of answers if `told`."""
    first = drawn[0]
    if len(drawn) == 1:
        return first
    scores = {key: sum(one.scores[key] for one in drawn) / len(drawn) for key in first.scores}
    reported = [one.reported for one in drawn if one.reported is not None]
    return first.model_copy(
        update={
            "scores": scores,
            "reported": sum(reported) / len(reported) if reported else None,
            "margins": {},
            "answers": len(drawn) if told else 1,
        }
    )


def _margins(
    one: Benchmark, found: Mapping[str, Any], tasks: Mapping[str, Any], scores: Mapping[str, float]
) -> dict[str, float]:
    """How far each question's right choice is ahead, as the metric compares choices; see `Scored`.

    None at all where the harness's score of one question does not follow from its margin: then the metric compares otherwise.
    """
    metric, _, filter_name = one.metric.partition(",")
    measure = _LENGTHS.get(metric)
    margins: dict[str, float] = {}
    for name, samples in found["samples"].items():
        task: Any = tasks.get(name)
        if measure is None or getattr(task, "OUTPUT_TYPE", "") != "multiple_choice":
            return {}
        for sample in samples:
            if sample["filter"] != filter_name:
                continue
            choices = task.doc_to_choice(sample["doc"])
            right = task.doc_to_text(sample["doc"]) if task.multiple_input else sample["target"]
            if isinstance(right, str) and right in choices:
                right = choices.index(right)
            answers = sample["filtered_resps"][: len(choices)]
            values = [answer[0] / max(measure(choice), 1) for answer, choice in zip(answers, choices, strict=True)]
            if not isinstance(right, int) or not 0 <= right < len(values) or len(values) < 2:
                return {}
            margin = values[right] - max(value for at, value in enumerate(values) if at != right)
            key = f"{name}/{sample['doc_id']}"
            if margin and (margin > 0) != (scores.get(key) == 1):
                return {}
            margins[key] = float(f"{margin:.6g}")
    return margins


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


def _named(about: Mapping[str, str]) -> dict[str, str]:
    """Of every question a short name of what it is about."""
    return {key: sha256(text.encode()).hexdigest()[:16] for key, text in about.items()}


def _shared(about: Mapping[str, str]) -> dict[str, str]:
    """Of every question that is about the same as another one, the name of the first that is."""
    counts = Counter(about.values())
    first: dict[str, str] = {}
    return {key: first.setdefault(text, key) for key, text in about.items() if counts[text] > 1}
