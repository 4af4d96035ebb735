"""The rule of promotion: every verdict under both profiles, with and without a reason to override the gate."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from containers.verdict import grounds_for_promotion

if TYPE_CHECKING:
    from containers.contract import GateProfile
    from containers.verdict import Decision, Grounds


@pytest.mark.parametrize(
    ("decision", "override", "profile", "grounds"),
    [
        ("pass", "", "release", "pass"),
        ("pass", "", "smoke", "pass"),
        ("pass", "a reason", "release", "pass"),
        ("pass", "a reason", "smoke", "pass"),
        ("refuse", "", "release", None),
        ("refuse", "", "smoke", None),
        ("refuse", "a reason", "release", "override"),
        ("refuse", "a reason", "smoke", "override"),
        ("inconclusive", "", "release", None),
        ("inconclusive", "", "smoke", "profile"),
        ("inconclusive", "a reason", "release", "override"),
        ("inconclusive", "a reason", "smoke", "override"),
        (None, "", "release", None),
        (None, "", "smoke", None),
        (None, "a reason", "release", "override"),
        (None, "a reason", "smoke", "override"),
    ],
)
def test_what_promotes(decision: Decision | None, override: str, profile: GateProfile, grounds: Grounds | None) -> None:
    assert grounds_for_promotion(decision, override=override, profile=profile) == grounds
