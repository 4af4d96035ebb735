"""The result of a scan, as rows of a table and as JSON."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import timedelta

    from flows.watching.records import ShipRecord
    from flows.watching.scan import ModelState

_SCORES: Final = 2  # measures shown in a table; the JSON has all
_IMPORTANT: Final = (
    "recovery",
    "kl_mean",
    "top1",
    "perplexity_ratio",
)  # prefixes of measures, the most important first


def status_rows(seen: Sequence[ModelState]) -> list[dict[str, str]]:
    """One row per product: what is shipped, its scores and age, and what is newer."""
    return [_status(one) for one in seen]


def plan_rows(seen: Sequence[ModelState]) -> list[dict[str, str]]:
    """One row per product: what would be done, why, and which steps would run."""
    return [
        {"model": one.entry.name, "target": one.to, "plan": plan(one), "why": why(one), "reruns": ", ".join(one.reruns)}
        for one in seen
    ]


def plan(state: ModelState) -> str:
    """The planned action, in one or two words."""
    if state.problem:
        return "not known"
    if not state.changes:
        return "nothing"
    if state.announced_before and state.attempt is not None and state.attempt.state == "failed":
        return "failed before"
    if state.announced_before and state.attempt is not None:
        return f"rebuild {state.attempt.state}"
    return "ship" if state.record is None else "rebuild"


def why(state: ModelState) -> str:
    if state.problem:
        return state.problem
    reasons = [str(change) for change in state.changes]
    if state.changes and state.announced_before and state.attempt is not None and state.attempt.message:
        reasons.append(f"the last attempt failed: {state.attempt.message}")
    return "; ".join([*reasons, *state.notes])


def as_json(state: ModelState) -> dict[str, Any]:
    """All facts, for `--json`."""
    return {
        "name": state.entry.name,
        "model": state.entry.model,
        "revision": str(state.entry.revision),
        "target": state.to,
        "scheme": state.entry.recipe.scheme,
        "shipped": state.record.model_dump(mode="json") if state.record is not None else None,
        "latest": state.commit or None,
        "plan": plan(state),
        "changes": [
            {**change.model_dump(mode="json"), "reruns": list(change.reruns), "text": str(change)}
            for change in state.changes
        ],
        "reruns": list(state.reruns),
        "notes": list(state.notes),
        "problem": state.problem or None,
        "attempt": state.attempt.model_dump(mode="json") if state.attempt is not None else None,
        "parameters": state.wanted.request(state.entry, state.reason).dump()
        if state.wanted is not None and state.changes
        else None,
    }


def _status(state: ModelState) -> dict[str, str]:
    record = state.record
    if record is None:
        shipped = {"shipped": "nothing yet", "base revision": "", "scores": "", "age": ""}
    else:
        shipped = {
            "shipped": f"{record.digest.short} ({', '.join(record.tags)})",
            "base revision": (record.commit or "")[:12],
            "scores": _scores(record),
            "age": age(datetime.now(UTC) - record.shipped),
        }
    tried = [plan(state)] if state.changes and state.announced_before else []
    known = [f"last known {state.commit[:12]}"] if state.problem and state.commit else []
    return {
        "model": state.entry.name,
        **shipped,
        "recipe": state.entry.recipe.scheme,
        "newer": "; ".join(filter(None, [why(state), *tried, *known])) or "nothing",
    }


def _scores(record: ShipRecord) -> str:
    important = [name for start in _IMPORTANT for name in record.measures if name.startswith(start)]
    measures = [f"{name} {record.measures[name]:.3g}" for name in important[:_SCORES]]
    return f"{record.decision} by {record.suite}" + (f": {', '.join(measures)}" if measures else "")


def age(passed: timedelta) -> str:
    """In the two largest units: 3 d 4 h, 5 min."""
    minutes = int(passed.total_seconds() // 60)
    days, hours = divmod(minutes // 60, 24)
    if days:
        return f"{days} d {hours} h"
    return f"{hours} h {minutes % 60} min" if hours else f"{minutes} min"
