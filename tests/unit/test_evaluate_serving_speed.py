"""Tokens a second and time to first token of an endpoint, and how they reach the verdict's page and the card."""

from __future__ import annotations

import io

import pytest

from containers.errors import BadInput
from containers.evaluate import serving_speed
from containers.events import Reporter
from containers.parameters import EvaluateOptions, ServerStart
from containers.verdict import Load, Serving
from flows.release.card import check, render
from tests.support.cards import FACTS
from tests.support.openai_server import Behaviour, openai_server

LOADS = (
    Load(requests=1, output_tokens_per_second=15.5, total_tokens_per_second=139.5, first_token_seconds=0.081),
    Load(requests=128, output_tokens_per_second=1452, total_tokens_per_second=4067, first_token_seconds=2.5),
)
BASELINE = Serving(
    role="baseline", gpus=2, weights_per_gpu=70_500_000_000, cache_tokens=54_992, start_seconds=88, loads=LOADS
)


def test_each_level_has_that_many_requests_at_once() -> None:
    behaviour = Behaviour(hang=0.02, vocabulary=1 << 17)
    start = ServerStart(weights_per_gpu=7, cache_tokens=9, seconds=1.5)
    with openai_server(behaviour) as url:
        options = EvaluateOptions(
            endpoint=url, served_model_name="toy", concurrency=2, load_levels=(1, 6), gpus=2, server_start=start
        )
        found = serving_speed.measure("candidate", options, Reporter(io.StringIO()))
    assert (found.role, found.gpus, found.weights_per_gpu, found.cache_tokens) == ("candidate", 2, 7, 9)
    assert [load.requests for load in found.loads] == [1, 6]
    assert behaviour.most_at_once == 6
    assert len(behaviour.paths) == 1 + 4 + 6  # a first one, which is not counted, and four rounds of one
    for load in found.loads:
        assert 0 < load.output_tokens_per_second < load.total_tokens_per_second
        assert load.first_token_seconds >= behaviour.hang


def test_a_server_that_does_not_count_gives_no_speed() -> None:
    with openai_server(Behaviour(counts=False, vocabulary=1 << 17)) as url:
        options = EvaluateOptions(endpoint=url, served_model_name="toy", load_levels=(1,))
        with pytest.raises(BadInput, match="nothing of completion_tokens"):
            serving_speed.measure("candidate", options, Reporter(io.StringIO()))


def test_the_card_compares_memory_and_speed() -> None:
    candidate = BASELINE.model_copy(update={"role": "candidate", "gpus": 1})
    card = render(FACTS.model_copy(update={"serving": (BASELINE, candidate)}))
    check(card)
    _, _, table = card.partition("### Memory and speed")
    assert [line for line in table.splitlines() if line.startswith("|")] == [
        "| Model | GPUs | Weights on each | KV cache, tokens | 1 at once, tokens/s | First token | 128 at once, tokens/s | First token | ",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ",
        "| baseline | 2 | 70.5 GB | 54,992 | 16 | 81 ms | 1,452 | 2500 ms | ",
        "| candidate | 1 | 70.5 GB | 54,992 | 16 | 81 ms | 1,452 | 2500 ms | ",
    ]


def test_a_card_without_gpus_says_nothing_of_them() -> None:
    assert "Memory and speed" not in render(FACTS)
