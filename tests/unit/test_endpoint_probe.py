"""What a server of somebody else's lacks is told, and several models behind one URL are found."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import SecretStr

from containers.errors import BadInput
from containers.parameters import Endpoint
from containers.settings import EvaluateSettings
from flows.serving.endpoint_probe import check_replicas, features
from tests.support.balancer import balancer
from tests.support.hostile import answer, hostile
from tests.support.openai_server import Behaviour, openai_server


def served(url: str) -> Endpoint:
    return Endpoint(url=url, served_model_name="toy", engine="somebody's")  # type: ignore[call-arg]


def test_a_vllm_lacks_nothing() -> None:
    with openai_server(Behaviour()) as url:
        found = features(served(url))
    assert (found.version, found.log_probabilities, found.tokenizer, found.context) == ("toy 1", True, True, 2048)
    assert found.missing == ()


def test_what_another_server_lacks_is_told_with_who_needs_it() -> None:
    """As llama.cpp's server: OpenAI's API, and of vLLM's additions none."""
    other = Behaviour(hidden=("/version", "/tokenize"), ignores_echo=True, context=0)
    with openai_server(other) as url:
        missing = " ".join(features(served(url)).missing)
    for lack in ("/version", "log-probabilities of a prompt", "vLLM's /tokenize", "a context length"):
        assert lack in missing
    assert "`smoke`" in missing


def test_the_key_goes_with_every_question() -> None:
    with openai_server(Behaviour(key="sesame")) as url:
        settings = EvaluateSettings(api_key=SecretStr("sesame"), api_key_for=url)
        assert features(served(url), None, settings).missing == ()
        check_replicas(served(url), None, settings)


def test_replicas_of_one_model_are_one_model() -> None:
    with openai_server(Behaviour()) as one, openai_server(Behaviour()) as other, balancer(one, other) as url:
        check_replicas(served(url))


def test_a_busy_replica_is_no_other_model() -> None:
    with openai_server(Behaviour()) as one, openai_server(Behaviour(failing=0.5)) as busy, balancer(one, busy) as url:
        check_replicas(served(url))


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (Behaviour(shift=0.3), "different models answer as toy: log-probabilities of one text differ by 0"),
        (Behaviour(version="0.31.0"), "different servers answer: 0.31.0; toy 1"),
        (Behaviour(hidden=("/version",)), "a server without /version; toy 1"),
        (Behaviour(context=1024), "1024 tokens of toy|toy of 1024 tokens"),
        (Behaviour(model="another"), "another; toy of 2048 tokens"),
    ],
)
def test_a_mixed_set_is_found_and_said(other: Behaviour, said: str) -> None:
    with openai_server(Behaviour()) as one, openai_server(other) as two, balancer(one, two) as url:
        with pytest.raises(BadInput, match=said) as caught:
            check_replicas(served(url))
        assert "the address of one of them" in caught.value.remedy


@pytest.mark.parametrize("value", [10**400, float("nan"), float("-inf"), 1.7e308, "x", None, [1], {}])
def test_what_is_no_log_probability_is_none(value: Any) -> None:
    said = json.dumps({"choices": [{"logprobs": {"token_logprobs": [None, *[value] * 9]}}]}).encode()
    with hostile(lambda _, send: send(answer(body=said))) as server:
        assert not features(served(f"{server.url}/v1")).log_probabilities
        check_replicas(served(f"{server.url}/v1"))
