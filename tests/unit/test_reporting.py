"""What a run shows of its gate in the Prefect UI; the server's side is in tests/integration/test_flow.py."""

from __future__ import annotations

from typing import Any

import pytest

from containers.verdict import Score, SpeedComparison, SpeedRow, Verdict
from flows.orchestrator import reporting
from flows.ship_request import ShipRequest

SUBJECT = "sha256:" + "1" * 64
SLOW = SpeedRow(load="4/s", measure="ttft_p50", baseline=100, candidate=120, lower=1.1, upper=1.3)


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The table or the text of each artifact, by key."""
    made: dict[str, Any] = {}
    monkeypatch.setattr(reporting, "create_markdown_artifact", lambda key, markdown, **_: made.update({key: markdown}))
    monkeypatch.setattr(reporting, "create_table_artifact", lambda key, table, **_: made.update({key: table}))
    return made


def test_a_gate_shows_the_speed_that_was_measured(shown: dict[str, Any]) -> None:
    """The rows of the short table, with what was asked for; without scores no table of them."""
    rows = (
        SLOW.model_copy(update={"slo": "at most 500", "decision": "pass"}),
        SLOW.model_copy(update={"measure": "ttft_p90"}),  # is in the report
    )
    speed = SpeedComparison(
        hardware="1 x H100", generator="vllm 1", prompt_tokens=1, output_tokens=2, rounds=3, rows=rows
    )
    verdict = Verdict(decision="pass", subject=SUBJECT, suite="own", speed=speed)
    reporting.publish_gate(verdict, None, ShipRequest(model="hf://a/b"))
    assert set(shown) == {"gate", "speed"}
    assert shown["speed"] == [
        {
            "load": "4/s",
            "measure": "TTFT p50, ms",
            "baseline": "100",
            "quantized": "120",
            "quantized / baseline": "1.20 (1.10 to 1.30)",
            "objective": "at most 500",
            "decision": "pass",
        }
    ]


def test_a_gate_shows_the_scores(shown: dict[str, Any]) -> None:
    score = Score(title="GSM8K", baseline=50, candidate=49, lower=-2, upper=0.5)
    verdict = Verdict(decision="pass", subject=SUBJECT, suite="own", scores=(score,))
    reporting.publish_gate(verdict, None, ShipRequest(model="hf://a/b"))
    assert set(shown) == {"gate", "scores"}
    assert shown["scores"][0]["interval"] == "-2.00 to +0.50"
