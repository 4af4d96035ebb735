"""vLLM's own load generator, as it is installed, against an endpoint that answers in a known time."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import pytest

from containers.contract import Step
from containers.evaluate.load.declaration import LoadSection, Saturation
from containers.evaluate.load.generator import Generator
from containers.events import Reporter
from containers.fingerprints import locked_vllm
from containers.parameters import EvaluateOptions
from infra.environments.environment import prepare
from infra.settings import Settings
from tests.support.openai_server import Behaviour, openai_server

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.integration
HANG = 0.05  # seconds until the endpoint answers


def test_vllms_load_generator_makes_the_load_that_is_asked_for(tmp_path: Path) -> None:
    """Rates, saturation, lengths, the key and the warm-up, as the endpoint sees them; times as it makes them."""
    section = LoadSection(
        prompt_tokens=16,
        output_tokens=8,
        rates=(20.0,),
        seconds=0.2,
        saturation=Saturation(in_flight=3, requests=6),
        rounds=3,
        warmup=2,
    )
    behaviour = Behaviour(hang=HANG, vocabulary=1 << 17, key="hush")
    generator = Generator.find(prepare(Step.SERVE, Settings(), print).python)
    assert generator.version == locked_vllm()
    with openai_server(behaviour) as url:
        options = EvaluateOptions(endpoint=url, served_model_name="toy")
        report = Reporter(io.StringIO())
        rate, most = generator.run(section, options, key="hush", seed=1, scratch=tmp_path / "load", report=report)
    assert behaviour.paths.count("/v1/completions") == 2 + 3 * (4 + 6)
    assert behaviour.most_at_once >= 3
    assert (rate.requests, most.requests) == (4, 6)
    for load in (rate, most):
        for one in load.rounds:
            assert one["e2e_p99"] >= one["ttft_p50"] >= 1000 * HANG
            assert one["output_tokens_per_second"] == pytest.approx(8 * one["requests_per_second"], rel=1e-3)
    assert all(one["requests_per_second"] <= 3 / HANG for one in most.rounds)
