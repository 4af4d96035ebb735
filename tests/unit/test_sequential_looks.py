"""Looks are measured until the verdict is clear or nothing more can be asked."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from containers.contract import ArtifactRef, Kind, StoreLocation
from containers.digest import Digest
from containers.parameters import ServeParameters
from containers.verdict import Verdict
from flows.requests import Requests, Subject
from flows.sequential_looks import in_looks, until_decided
from infra.settings import Settings

if TYPE_CHECKING:
    from containers.verdict import Decision


@pytest.mark.parametrize(
    ("decisions", "looks", "measured"),
    [
        (["pass"], 3, []),
        (["inconclusive", "refuse"], 3, [2]),
        (["inconclusive", "inconclusive", "inconclusive"], 3, [2, 3]),
        (["inconclusive"], 0, []),
    ],
)
def test_the_next_look_is_measured_only_while_it_is_open(
    decisions: list[Decision], looks: int, measured: list[int]
) -> None:
    asked: list[int] = []

    def judge(found: list[tuple[str, str]]) -> tuple[Verdict, int]:
        decision = decisions[len(found) - 1]
        return Verdict(decision=decision, subject="x", suite="s", look=len(found) if looks else 0, looks=looks), len(
            found
        )

    def measure(look: int) -> tuple[str, str]:
        asked.append(look)
        return (f"candidate {look}", f"baseline {look}")

    verdict, last = until_decided(("candidate", "baseline"), judge=judge, measure=measure)
    assert asked == measured
    assert (verdict.decision, last) == (decisions[-1], len(decisions))


def test_a_verdict_has_the_measurements_of_every_look() -> None:
    requests = Requests("run", StoreLocation(endpoint="http://127.0.0.1:9"), Settings())
    subject = Subject("candidate", "sha256:" + "1" * 64, ServeParameters(served_model_name="m"), {})
    refs = [
        ArtifactRef(kind=Kind.MEASUREMENT, fingerprint=str(number) * 64, digest=Digest.of(bytes([number])))
        for number in range(4)
    ]
    one = requests.judge([(refs[0], refs[1])], subject, "smoke")
    assert one.inputs == {"candidate": refs[0], "baseline": refs[1]}
    two = requests.judge([(refs[0], refs[1]), (refs[2], refs[3])], subject, "smoke")
    assert two.inputs == {**one.inputs, "candidate-2": refs[2], "baseline-2": refs[3]}
    assert requests.measure(subject, "smoke").parameters.keys().isdisjoint({"look"})
    assert requests.measure(subject, "smoke", look=2).parameters["look"] == 2
    assert not in_looks("smoke")
