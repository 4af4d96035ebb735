"""What was seen, for people: rows for a table, and for machines."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import timedelta

    from flows.watching.records import ShipRecord
    from flows.watching.scan import ModelState

_SCORES: Final = 2  # measures in a table; the rest is in the JSON
_TELLING: Final = ("recovery", "kl_mean", "top1", "perplexity_ratio")  # how such measures begin, the most telling first


def status_rows(seen: Sequence[ModelState]) -> list[dict[str, str]]:
    """One row a product: what is shipped, how good and how old it is, and what is newer."""
    return [_status(one) for one in seen]


def plan_rows(seen: Sequence[ModelState]) -> list[dict[str, str]]:
    """One row a product: what would be done about it, why, and which steps would work."""
    return [
        {"model": one.line.name, "target": one.to, "plan": plan(one), "why": why(one), "reruns": ", ".join(one.reruns)}
        for one in seen
    ]


def plan(seen: ModelState) -> str:
    """In a word or two."""
    if seen.problem:
        return "not known"
    if not seen.changes:
        return "nothing"
    if seen.tried and seen.attempted is not None and seen.attempted.state == "failed":
        return "failed before"
    if seen.tried and seen.attempted is not None:
        return f"rebuild {seen.attempted.state}"
    return "ship" if seen.record is None else "rebuild"


def why(seen: ModelState) -> str:
    if seen.problem:
        return seen.problem
    said = [str(change) for change in seen.changes]
    if seen.changes and seen.tried and seen.attempted is not None and seen.attempted.message:
        said.append(f"the last try failed: {seen.attempted.message}")
    return "; ".join([*said, *seen.notes])


def as_json(seen: ModelState) -> dict[str, Any]:
    """Everything that is known, for `--json`."""
    return {
        "name": seen.line.name,
        "model": seen.line.model,
        "revision": str(seen.line.revision),
        "target": seen.to,
        "scheme": seen.line.recipe.scheme,
        "shipped": seen.record.model_dump(mode="json") if seen.record is not None else None,
        "latest": seen.commit or None,
        "plan": plan(seen),
        "changes": [
            {**change.model_dump(mode="json"), "reruns": list(change.reruns), "text": str(change)}
            for change in seen.changes
        ],
        "reruns": list(seen.reruns),
        "notes": list(seen.notes),
        "problem": seen.problem or None,
        "attempt": seen.attempted.model_dump(mode="json") if seen.attempted is not None else None,
        "parameters": seen.wanted.request(seen.line, seen.reason).dump()
        if seen.wanted is not None and seen.changes
        else None,
    }


def _status(seen: ModelState) -> dict[str, str]:
    record = seen.record
    if record is None:
        told = {"shipped": "nothing yet", "base revision": "", "scores": "", "age": ""}
    else:
        told = {
            "shipped": f"{record.digest.short} ({', '.join(record.tags)})",
            "base revision": (record.commit or "")[:12],
            "scores": _scores(record),
            "age": age(datetime.now(UTC) - record.shipped),
        }
    tried = [plan(seen)] if seen.changes and seen.tried else []
    known = [f"last known {seen.commit[:12]}"] if seen.problem and seen.commit else []
    return {
        "model": seen.line.name,
        **told,
        "recipe": seen.line.recipe.scheme,
        "newer": "; ".join(filter(None, [why(seen), *tried, *known])) or "nothing",
    }


def _scores(record: ShipRecord) -> str:
    telling = [name for start in _TELLING for name in record.measures if name.startswith(start)]
    measures = [f"{name} {record.measures[name]:.3g}" for name in telling[:_SCORES]]
    return f"{record.decision} by {record.suite}" + (f": {', '.join(measures)}" if measures else "")


def age(passed: timedelta) -> str:
    """The two coarsest units that say something: 3 d 4 h, 5 min."""
    minutes = int(passed.total_seconds() // 60)
    days, hours = divmod(minutes // 60, 24)
    if days:
        return f"{days} d {hours} h"
    return f"{hours} h {minutes % 60} min" if hours else f"{minutes} min"
