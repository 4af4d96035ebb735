"""The endpoint misbehaves: retried, counted, and never taken for a measurement."""

from __future__ import annotations

import asyncio
import io
import math
from typing import TYPE_CHECKING

import pytest
from pydantic import SecretStr

from containers import suites
from containers.endpoint_key import authorization
from containers.errors import BadInput, NotReady, Temporary
from containers.evaluate import client as client_module
from containers.evaluate.client import Client, Rejected
from containers.evaluate.judge import judge
from containers.evaluate.kinds.fidelity import FidelitySuite
from containers.evaluate.measure import measure
from containers.events import Reporter
from containers.parameters import EvaluateOptions
from containers.settings import EvaluateSettings
from tests.support.openai_server import Behaviour, openai_server

if TYPE_CHECKING:
    from containers.evaluate.measurement import Measured

SMOKE = suites.read("smoke")
# The shipped suite with two lines of text: the paths are the same, and the toy is slow at JSON.
SMOKE = SMOKE.model_copy(
    update={
        "files": {
            "suite.yaml": SMOKE.files["suite.yaml"],
            "text/01-bridge.txt": "A bridge\nis crooked.\n",
            "text/02-tides.txt": "Tides have two bulges.\n",
        },
        "shipped": False,
    }
)


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "LONGEST_WAIT", 0.02)


def measured(behaviour: Behaviour, **options: object) -> Measured:
    with openai_server(behaviour) as url:
        asked = SMOKE.options(endpoint=url, served_model_name="toy", **options)
        parameters = SMOKE.parameters(subject="sha256:" + "a" * 64, server="toy")
        return asyncio.run(measure(FidelitySuite.read(SMOKE), parameters, asked, Reporter(io.StringIO())))


def failed(one: Measured) -> dict[str, str]:
    return {check.name: check.detail for check in one.about.checks if not check.passed}


def test_a_healthy_endpoint_passes_every_check() -> None:
    """All passages are measured, nothing is retried, and the requests in flight stay within the bound."""
    behaviour = Behaviour(hang=0.05)  # long enough for the next to come meanwhile
    one = measured(behaviour, concurrency=3)
    assert failed(one) == {}
    assert one.about.requests.retried == one.about.requests.failed == 0
    assert [p.tokens for p in one.about.passages] == [
        len(text.encode()) for path, text in sorted(SMOKE.files.items()) if path.startswith("text/")
    ]
    assert 1 < behaviour.most_at_once <= 3


def test_the_same_endpoint_gives_the_same_arrays() -> None:
    first, second = (measured(Behaviour()).files() for _ in range(2))
    assert {name: first[name] for name in first if name.endswith(".npy")} == {
        name: second[name] for name in second if name.endswith(".npy")
    }


def test_errors_at_random_are_retried_and_counted() -> None:
    one = measured(Behaviour(failing=0.3), attempts=20)
    assert failed(one) == {}
    assert one.about.requests.retried > 5
    assert one.about.requests.failed == 0


def test_a_request_that_never_succeeds_leaves_no_measurement() -> None:
    with pytest.raises(Temporary, match=r"failed 2 times in a row.*busy"):
        measured(Behaviour(failing=1.0), attempts=2)


def test_an_endpoint_that_is_down_is_not_ready() -> None:
    with openai_server(Behaviour()) as url:
        pass
    options = EvaluateOptions(endpoint=url, served_model_name="toy", attempts=2)

    async def ask() -> None:
        async with Client(options) as client:
            await client.get(f"{client.root}/health")

    with pytest.raises(NotReady, match="nothing answers at"):
        asyncio.run(ask())


def test_an_endpoint_that_hangs_runs_into_the_deadline() -> None:
    with pytest.raises(Temporary, match="did not answer in time, 2 times in a row"):
        measured(Behaviour(hang=0.5), request_timeout=0.05, attempts=2)


def test_a_stream_that_breaks_off_is_started_over() -> None:
    one = measured(Behaviour(breaks_streams=2))
    assert failed(one) == {}
    assert one.about.requests.retried == 2


@pytest.mark.parametrize(
    ("behaviour", "message"),
    [
        (Behaviour(model="another"), "serves another, and not 'toy'"),
        (Behaviour(context=512), "context of 512 tokens, and the suite needs 2048"),
        (Behaviour(gives_logprobs=False), "no log-probabilities of the prompt"),
    ],
)
def test_an_endpoint_that_cannot_be_measured_is_bad_input(behaviour: Behaviour, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        measured(behaviour)


@pytest.mark.parametrize("endpoint", ["", "127.0.0.1:8000", "ftp://somewhere/v1"])
def test_what_is_no_endpoint_is_bad_input(endpoint: str) -> None:
    with pytest.raises(BadInput, match="endpoint"):
        Client(EvaluateOptions(endpoint=endpoint, served_model_name="toy"))


@pytest.mark.parametrize("way", ["value", "error"])
def test_numbers_that_are_not_finite_are_a_finding(way: str) -> None:
    """Whether the server says NaN in its JSON or fails to write it, every position but the first counts."""
    one = measured(Behaviour(not_finite=way))
    assert one.about.non_finite == len(one.arrays.tokens) - len(one.about.passages)


@pytest.mark.parametrize(
    ("behaviour", "check", "seen"),
    [
        (Behaviour(role="user"), "chat", "has the role 'user'"),
        (Behaviour(text="    "), "chat", "is empty"),
        (Behaviour(ignores_stop=True), "stop", "with stop"),
        (Behaviour(cuts_long_prompts=True), "long prompt", "was accepted with a context of 2048"),
        (Behaviour(text=" and" * 400), "no loops", "4 of 4 answers repeat themselves"),
        (Behaviour(text=" and" * 400), "end of turn", "0 of 4 answers ended by themselves"),
    ],
)
def test_each_check_sees_its_fault(behaviour: Behaviour, check: str, seen: str) -> None:
    assert seen in failed(measured(behaviour))[check]


@pytest.mark.parametrize(
    ("behaviour", "message"),
    [
        (Behaviour(drops="position"), "no log-probability of token 4 of a text of"),
        (Behaviour(drops="none"), "no log-probability of token 4 of a text of"),
        (Behaviour(drops="few"), "gives 4 of the 20 likeliest tokens"),
        (Behaviour(drops="choice"), "gave 0 answers where 1 were asked for"),
        (Behaviour(drops="text"), "completed a text with None"),
        (Behaviour(counts_wrong=1), "names \\d+ tokens of a text and counts \\d+"),
    ],
    ids=lambda value: value.drops or "counts" if isinstance(value, Behaviour) else "",
)
def test_what_an_endpoint_leaves_out_is_no_measurement(behaviour: Behaviour, message: str) -> None:
    """Numbers of something else than was sent would pass for the model's."""
    with pytest.raises(BadInput, match=message):
        measured(behaviour)


def test_an_endpoint_that_counts_no_tokens_fails_its_checks() -> None:
    one = measured(Behaviour(counts=False))
    assert set(failed(one)) == {"chat", "usage", "long prompt"}
    assert one.about.speed.alone == 0
    assert judge(FidelitySuite.read(SMOKE), one, measured(Behaviour())).verdict.decision == "refuse"


def test_an_endpoint_with_a_key_is_measured_with_it() -> None:
    """By the client that measures, in every request; the key is not part of what is measured."""
    behaviour = Behaviour(key="canary")
    with openai_server(behaviour) as url:
        asked = SMOKE.options(endpoint=url, served_model_name="toy")
        parameters = SMOKE.parameters(subject="sha256:" + "a" * 64, server="toy")
        key = authorization(EvaluateSettings(api_key=SecretStr("canary"), api_key_for=url), url)
        suite = FidelitySuite.read(SMOKE)
        one = asyncio.run(measure(suite, parameters, asked, Reporter(io.StringIO()), key))
        assert failed(one) == {}
        assert b"canary" not in b"".join(one.files().values())
        with pytest.raises(BadInput, match="wants a key"):
            asyncio.run(measure(suite, parameters, asked, Reporter(io.StringIO())))


def test_a_gateway_may_hide_the_health_check() -> None:
    one = measured(Behaviour(hidden=("/health",)))
    assert failed(one) == {}
    assert one.about.checks[0].detail == "there is no health check here (404)"


def test_a_rejection_is_not_retried() -> None:
    behaviour = Behaviour()
    with openai_server(behaviour) as url:

        async def ask() -> None:
            async with Client(EvaluateOptions(endpoint=url, served_model_name="wrong")) as client:
                await client.post("completions", {"prompt": "a", "max_tokens": 1})

        with pytest.raises(Rejected, match=r"rejected the request \(404\): The model `wrong` does not exist"):
            asyncio.run(ask())
    assert len(behaviour.paths) == 1


def test_log_probabilities_are_read_by_position() -> None:
    """The toy after byte 10: token (10*31 + 7i) mod 256 has rank i+1; byte 54 is the likeliest."""
    one = measured(Behaviour())
    text = SMOKE.files["text/01-bridge.txt"].encode()
    at = text.index(b"\n") + 1
    total = sum(math.exp(-0.5 * i) for i in range(40))
    assert one.arrays.top_ids[at, :3].tolist() == [54, 61, 68]
    assert one.arrays.top_logprobs[at, 1] == pytest.approx(-0.5 - math.log(total), abs=1e-6)
    assert math.isnan(one.arrays.logprobs[0])


def test_a_base_model_is_measured_without_chat() -> None:
    """It has no chat template: said in one check, which does not count against a candidate whose baseline is one too."""
    one = measured(Behaviour(template=""))
    assert failed(one) == {"chat": "the model has no chat template"}
    assert one.about.chat_template_tokens == ()
    assert judge(FidelitySuite.read(SMOKE), one, one).verdict.decision == "pass"


def test_a_candidate_that_lost_its_chat_template_is_refused() -> None:
    verdict = judge(FidelitySuite.read(SMOKE), measured(Behaviour(template="")), measured(Behaviour())).verdict
    assert verdict.decision == "refuse"
    assert any("'chat' failed: the model has no chat template" in reason for reason in verdict.reasons)
