"""Models that somebody else serves: which one is at a URL, by which vLLM."""

from __future__ import annotations

import pytest
from pydantic import SecretStr

from containers.errors import BadInput, NotReady
from containers.settings import EvaluateSettings
from flows.endpoint import ForeignServer, check_same, find, vllm_version
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
