"""The verdict as a statement: the predicate of in-toto's test result v0.1 (in-toto.io/attestation/test-result/v0.1).

The result is the gate's, whatever was promoted: an image that an override promoted says FAILED, and beside it why it was
promoted. What the format has no field for is in fields of our own, which its readers ignore: those of `containers.verdict`,
and `gate_profile`, `override` and `promoted_by`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ValidationError

from containers.foreign_json import TENSORS, parse_object
from containers.verdict import REPORT_FILE, TEST_RESULTS, decide_by_limit, grounds_for_promotion

if TYPE_CHECKING:
    from containers.verdict import Decision, Score
    from flows.release.shipment import Shipment


def predicate(shipment: Shipment) -> dict[str, Any]:
    """The verdict about what was shipped. `passedTests` and the others name the measures and rows that decide something."""
    verdict, request = shipment.verdict, shipment.request
    tests = dict(shipment.decisions) | {_name(one): one.decision for one in verdict.scores if one.decision is not None}
    under_load = verdict.speed.rows if verdict.speed is not None else ()
    tests |= {f"{row.load}: {row.measure}": row.decision for row in under_load if row.decision is not None}
    grounds = grounds_for_promotion(verdict.decision, override=request.override_gate, profile=request.gate_profile)
    return {
        **verdict.dump(),
        "gate_profile": request.gate_profile,
        "override": request.override_gate,
        "promoted_by": grounds or "",
        "result": TEST_RESULTS[verdict.decision],
        "configuration": [{"name": f"suite {shipment.suite.name}", "digest": {"sha256": shipment.suite.digest.hex}}],
        "passedTests": sorted(name for name, decision in tests.items() if decision == "pass"),
        "warnedTests": sorted(name for name, decision in tests.items() if decision == "inconclusive"),
        "failedTests": sorted(name for name, decision in tests.items() if decision == "refuse"),
    }


class _Estimate(BaseModel):
    lower: float | None = None
    upper: float | None = None


class _Limit(BaseModel):
    at_most: float | None = None
    at_least: float | None = None


class _Limited(BaseModel):
    """The part of a verdict's report that is about limited measures; suites of questions have none."""

    measures: dict[str, _Estimate] = {}
    limits: dict[str, _Limit] = {}


def decisions(report: bytes) -> dict[str, Decision]:
    """What a verdict's report says of each measure that has a limit; nothing for a report without such measures.

    Raises BadInput for what is no JSON object.
    """
    try:
        told = _Limited.model_validate(parse_object(report, REPORT_FILE, TENSORS))
    except ValidationError:
        return {}
    found = {name: told.measures.get(name, _Estimate()) for name in told.limits}
    return {
        name: decide_by_limit(found[name].lower, found[name].upper, at_most=limit.at_most, at_least=limit.at_least)
        for name, limit in told.limits.items()
    }


def _name(score: Score) -> str:
    return f"{score.category}: {score.title}" if score.category else score.title
