"""What several looks at one model have measured, put together.

A measurement of a suite with looks is one folder for each look: the first one's files, and those of the others in `look-2` and so
on below it.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from containers.errors import BadInput
from containers.evaluate.measurement import RequestCounts
from containers.evaluate.samples import Samples

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from containers.evaluate.measurement import Scored


def folder_of(look: int) -> str:
    """The folder of a look, relative to the first one's."""
    return f"look-{look}" if look > 1 else "."


def read(folder: Path) -> list[Samples]:
    """The looks that lie in a folder; raises BadInput when they are not the first ones, of one model, in their order."""
    parts = [Samples.read(folder)]
    while (later := folder / folder_of(len(parts) + 1)).is_dir():
        parts.append(Samples.read(later))
    if [one.look for one in parts] != (list(range(1, len(parts) + 1)) if parts[0].look else [0]):
        told = ", ".join(str(one.look) for one in parts)
        raise BadInput(
            f"measurements of the looks {told} were given, and the looks from the first one on are needed",
            remedy="name the models instead of stored measurements: what is stored of them is found",
        )
    first = parts[0]
    for one in parts:
        if (one.suite_digest, one.subject, one.server) != (first.suite_digest, first.subject, first.server):
            raise BadInput(
                f"the looks at {first.subject} are not all of one model, suite and server", remedy="measure it again"
            )
    return parts


def together(parts: Sequence[Samples]) -> Samples:
    """One measurement of all looks: of a question that was asked several times the mean over its answers."""
    first = parts[0]
    if len(parts) == 1:
        return first
    by_key: dict[str, list[Scored]] = {}
    for part in parts:
        for one in part.benchmarks:
            by_key.setdefault(one.key, []).append(one)
    cut: Counter[str] = Counter()
    for part in parts:
        cut.update(part.cut)
    counts = [part.requests for part in parts]
    return first.model_copy(
        update={
            "look": parts[-1].look,
            "benchmarks": tuple(_together(some) for some in by_key.values()),
            "requests": RequestCounts(
                sent=sum(one.sent for one in counts),
                retried=sum(one.retried for one in counts),
                failed=sum(one.failed for one in counts),
            ),
            "commands": tuple(dict.fromkeys(command for part in parts for command in part.commands)),
            "cut": dict(cut),
        }
    )


def _together(parts: Sequence[Scored]) -> Scored:
    sums: dict[str, float] = {}
    answers: Counter[str] = Counter()
    clusters: dict[str, str] = {}
    margins: dict[str, float] = {}
    for part in parts:
        for key, score in part.scores.items():
            sums[key] = sums.get(key, 0.0) + score * part.answers
            answers[key] += part.answers
        clusters |= part.clusters
        margins |= part.margins
    scores = {key: value / answers[key] for key, value in sums.items()}
    return parts[0].model_copy(
        update={
            "scores": scores,
            "clusters": clusters,
            "margins": margins if margins.keys() == scores.keys() else {},
            "answers": max(answers.values()),
            "reported": None,
        }
    )
