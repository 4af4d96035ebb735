"""Models that somebody else serves: which one is at a URL, by which vLLM."""

from __future__ import annotations

import pytest
from pydantic import SecretStr

from containers.errors import BadInput, NotReady
from containers.parameters import Endpoint
from containers.settings import EvaluateSettings
from flows.serving.endpoint import (
    ForeignServer,
    check_apart,
    check_model,
    check_same,
    check_version,
    find,
    vllm_version,
)
from tests.support.hostile import answer, hostile
from tests.support.openai_server import Behaviour, openai_server
from tests.support.ports import free_port


def test_the_only_model_is_found_and_one_of_several_is_named() -> None:
    with openai_server(Behaviour(model="toy")) as url:
        found = find(f"{url}/")
        assert (found.url, found.served_model_name) == (url, "toy")
        assert find(f"{url}#toy").served_model_name == "toy"
        with pytest.raises(BadInput, match="serves toy, not 'other'"):
            find(f"{url}#other")
    with openai_server(Behaviour(model="toy", others=("more",))) as url:
        assert find(f"{url}#more").served_model_name == "more"
        with pytest.raises(BadInput, match="serves toy, more") as caught:
            find(url)
        assert f"{url}#toy" in caught.value.remedy


def test_what_is_no_endpoint_is_bad_input_and_what_does_not_answer_is_not() -> None:
    with pytest.raises(NotReady, match="does not answer"):
        find(f"http://127.0.0.1:{free_port()}/v1")
    for url in ("127.0.0.1:8000", "ftp://127.0.0.1/v1"):
        with pytest.raises(BadInput, match="not an endpoint"):
            find(url)
    with openai_server(Behaviour(failing=1.0)) as url, pytest.raises(NotReady, match="503"):
        find(url)


def evaluate(key: str | None, place: str | None) -> EvaluateSettings:
    return EvaluateSettings(api_key=SecretStr(key) if key else None, api_key_for=place)


def test_an_endpoint_that_wants_a_key() -> None:
    """It is told apart from what is no endpoint, and gets the key that is for it, at its own origin and at no other."""
    wants = Behaviour(key="canary", version="0.32.0")
    with openai_server(wants) as url, openai_server(wants) as other:
        ours = evaluate("canary", url)
        assert find(url, None, ours).served_model_name == "toy"
        assert vllm_version(url, None, ours) == "0.32.0"
        for place, settings in ((url, None), (url, evaluate("wrong", url)), (other, ours)):
            with pytest.raises(BadInput, match=r"wants a key, or another one \(it answered 401\)") as caught:
                find(place, None, settings)
            assert f"CARWRIGHT_EVALUATE__API_KEY_FOR={place.removesuffix('/v1')}" in caught.value.remedy
            assert "canary" not in str(caught.value)
        with pytest.raises(BadInput, match="is for no endpoint in particular, so it was sent to none"):
            find(url, None, evaluate("canary", None))


def test_the_servers_version_is_its_own_word() -> None:
    with openai_server(Behaviour(version="0.32.1.dev3+cu130")) as url:
        assert vllm_version(url) == "0.32.1.dev3+cu130"
    with openai_server(Behaviour(version="<script>")) as url, pytest.raises(BadInput, match="does not say which vLLM"):
        vllm_version(url)
    with pytest.raises(BadInput, match="does not say which vLLM"):
        vllm_version(f"http://127.0.0.1:{free_port()}/v1")


def test_both_models_are_measured_by_one_version() -> None:
    check_same({})
    check_same({"baseline": "0.32.0", "candidate": "0.32.0"})
    with pytest.raises(BadInput, match=r"the baseline by vLLM 0\.31\.0, the candidate by vLLM 0\.32\.0"):
        check_same({"baseline": "0.31.0", "candidate": "0.32.0"})


def test_a_server_of_somebody_elses_is_left_as_it_is() -> None:
    with openai_server(Behaviour()) as url:
        lease = ForeignServer(find(url))
        lease.keep()
        lease.end()
        assert lease.serves
        assert find(url).url == url
        assert lease.why_ended() is None
    assert not lease.serves
    why = lease.why_ended()
    assert why is not None
    assert f"the server at {url} has ended while it was measured" in why.message
    assert why.exit_code == 75


@pytest.mark.parametrize(
    ("behaviour", "words"),
    [
        (Behaviour(vocabulary=200), "serves another model: its vocabulary is not the 256 tokens"),
        (Behaviour(vocabulary=128_256), "serves another model: its vocabulary is not the 256 tokens"),
        (Behaviour(context=1024), "serves toy with a context of 1024 tokens, and 2048 are needed"),
    ],
)
def test_another_model_is_told_by_its_vocabulary_or_its_context(behaviour: Behaviour, words: str) -> None:
    with openai_server(behaviour) as url, pytest.raises(BadInput, match=words):
        check_model(find(url), 2048, 256)


def test_the_model_itself_passes_and_so_does_one_with_placeholders() -> None:
    """A tokenizer may have a few entries beyond the model's; of an unknown vocabulary nothing is asked."""
    for behaviour in (Behaviour(), Behaviour(vocabulary=300)):
        with openai_server(behaviour) as url:
            check_model(find(url), 2048, 256)
            assert behaviour.paths.count("/v1/completions") == 2
            check_model(find(url), 2048, 0)
            assert behaviour.paths.count("/v1/completions") == 2
    with openai_server(Behaviour()) as url:
        found = find(url)
    with pytest.raises(NotReady, match="does not answer"):
        check_model(found, 2048, 256)


def test_a_server_that_was_replaced_during_the_run_is_told() -> None:
    with openai_server(Behaviour(version="0.32.0")) as url:
        check_version(find(url), f"vllm 0.32.0 at {url} in the run r")
        with pytest.raises(
            BadInput, match=r"is served by vLLM 0\.32\.0, and was not when the run began: vllm 0\.32 at"
        ):
            check_version(find(url), f"vllm 0.32 at {url} in the run r")


def test_one_model_is_not_compared_with_itself() -> None:
    with openai_server(Behaviour(model="toy", others=("more",))) as url:
        toy, more = find(f"{url}#toy"), find(f"{url}#more")
    check_apart({})
    check_apart({"baseline": toy})
    check_apart({"baseline": toy, "candidate": more})
    with pytest.raises(BadInput, match="baseline and candidate are the same model toy at"):
        check_apart({"baseline": toy, "candidate": toy})


def test_a_listing_without_end_to_its_depth_is_bad_input() -> None:
    """As `find` has it, which may have seen another answer before."""
    deep = b'{"data": ' + b"[" * 100_000
    with hostile(lambda _, send: send(answer(body=deep))) as server:
        endpoint = Endpoint(url=f"{server.url}/v1", served_model_name="toy", server="somebody's")
        with pytest.raises(BadInput, match="does not answer as vLLM does"):
            check_model(endpoint, 64, 0)
