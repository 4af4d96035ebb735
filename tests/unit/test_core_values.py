"""The values that cross borders: digests, canonical JSON, requests, results, errors."""

from __future__ import annotations

import json
import math
import re
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from containers import errors
from containers.contract import ArtifactRef, Kind, Step, StepRequest, StepResult
from containers.digest import Digest, canonical_json
from containers.errors import BadInput, Error, StepFailed
from containers.parameters import PushParameters, QuantizeParameters

ONES = Digest("1" * 64)
CHECKPOINT = ArtifactRef(kind=Kind.CHECKPOINT, fingerprint="a" * 64, digest=ONES)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text('aé"\\\n€'),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text("abé"), inner, max_size=4),
    max_leaves=12,
)


def test_a_digest_is_what_sha256sum_says() -> None:
    """printf abc | sha256sum."""
    expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert str(Digest.of(b"abc")) == f"sha256:{expected}"
    assert Digest.parse(f"sha256:{expected}") == Digest(expected)
    assert Digest(expected).short == "ba7816bf8f01"


@given(st.text(alphabet="0123456789abcdef", min_size=64, max_size=64))
def test_every_well_formed_digest_is_read_back(value: str) -> None:
    assert Digest.parse(str(Digest(value))).hex == value


@given(st.text(alphabet=string.hexdigits + ":sha256 \n\0", max_size=80))
def test_a_digest_is_parsed_strictly(text: str) -> None:
    """Only the one written form is read; anything else is bad input and nothing else."""
    if re.fullmatch("sha256:[0-9a-f]{64}", text):
        assert str(Digest.parse(text)) == text
    else:
        with pytest.raises(BadInput):
            Digest.parse(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "sha256:",
        "1" * 64,
        "sha256:" + "1" * 63,
        "sha256:" + "1" * 65,
        "sha256:" + "A" * 64,
        "SHA256:" + "1" * 64,
        "sha512:" + "1" * 128,
        " sha256:" + "1" * 64,
        "sha256:" + "1" * 64 + "\n",
        "sha256:" + "\u0661" * 64,
    ],
)
def test_near_misses_are_no_digests(text: str) -> None:
    with pytest.raises(BadInput):
        Digest.parse(text)


def test_canonical_json_by_hand() -> None:
    """Sorted keys, no white space, no needless escapes."""
    assert canonical_json({"b": [1, True, None], "a": 'é"\n'}) == '{"a":"é\\"\\n","b":[1,true,null]}'.encode()


@given(json_values)
def test_canonical_json_is_json_and_has_one_form(value: object) -> None:
    text = canonical_json(value)
    assert canonical_json(json.loads(text)) == text


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_canonical_json_has_no_words_for_what_is_no_number(value: float) -> None:
    with pytest.raises(ValueError, match="JSON"):
        canonical_json({"x": value})


def request(**fields: object) -> StepRequest:
    given_ = {
        "step": "quantize",
        "run": "r",
        "inputs": {"checkpoint": CHECKPOINT},
        "parameters": {
            "scheme": "FP8_DYNAMIC",
            "ignore": ["lm_head", "re:.*embed_tokens.*"],
            "note": 'käse/"q"',
            "n": 3,
            "flag": True,
            "none": None,
        },
    }
    return StepRequest.model_validate(given_ | fields)


DETERMINANTS = {"llmcompressor": "0.14.0.1", "bytes_version": "1"}


def test_the_fingerprint_is_what_other_tools_compute() -> None:
    """The identity written as JSON by hand (in another order of keys), then: jq -cSj . | sha256sum."""
    assert request().fingerprint(DETERMINANTS) == "6e99623efb180da9eda86c491bc6e096a50bab7fb2257bf1e95aaea2dacae7ab"


def test_what_cannot_change_bytes_is_not_in_the_fingerprint() -> None:
    """The run, the options, the store and the place that an input came from."""
    elsewhere = CHECKPOINT.model_copy(update={"fingerprint": "b" * 64})
    other = request(
        run="another",
        options={"device": "cuda"},
        store={"bucket": "another"},
        inputs={"checkpoint": elsewhere},
    )
    assert other.fingerprint(DETERMINANTS) == request().fingerprint(DETERMINANTS)


@pytest.mark.parametrize(
    "fields",
    [
        {"step": "evaluate"},
        {"parameters": {"scheme": "W8A8"}},
        {"inputs": {"checkpoint": CHECKPOINT.model_copy(update={"digest": Digest("2" * 64)})}},
        {"inputs": {"baseline": CHECKPOINT}},
    ],
)
def test_what_can_change_bytes_is_in_the_fingerprint(fields: dict[str, object]) -> None:
    assert request(**fields).fingerprint(DETERMINANTS) != request().fingerprint(DETERMINANTS)


def test_a_determinant_is_in_the_fingerprint() -> None:
    assert request().fingerprint(DETERMINANTS | {"bytes_version": "2"}) != request().fingerprint(DETERMINANTS)


def test_a_parameter_that_is_no_number_has_no_fingerprint() -> None:
    with pytest.raises(BadInput, match="quantize"):
        request(parameters={"x": math.nan}).fingerprint({})


@pytest.mark.parametrize(
    "change",
    [
        {"unknown": 1},
        {"schema_version": 2},
        {"step": "compile"},
        {"inputs": {"checkpoint": {"kind": "checkpoint", "fingerprint": "A" * 64, "digest": str(ONES)}}},
        {"inputs": {"checkpoint": {"kind": "checkpoint", "fingerprint": "a" * 64, "digest": "1" * 64}}},
        {"inputs": {"checkpoint": {"kind": "painting", "fingerprint": "a" * 64, "digest": str(ONES)}}},
        {"inputs": {"checkpoint": {"kind": "checkpoint", "fingerprint": "a" * 64, "digest": str(ONES), "path": "/x"}}},
        {"store": {"access_key": "no secrets here"}},
    ],
)
def test_a_request_that_is_not_understood_is_refused(change: dict[str, object]) -> None:
    """A newer flow and an older image cannot misunderstand each other in silence."""
    text = json.dumps(request().model_dump(mode="json") | change)
    with pytest.raises(ValidationError):
        StepRequest.model_validate_json(text)


def test_requests_and_results_survive_the_border() -> None:
    assert StepRequest.model_validate_json(request().model_dump_json()) == request()
    result = StepResult(step=Step.QUANTIZE, outputs={"checkpoint": CHECKPOINT}, metrics={"bytes_read": 1.0})
    assert StepResult.model_validate_json(result.model_dump_json()) == result
    with pytest.raises(ValidationError):
        StepResult.model_validate_json('{"step":"quantize","artifacts":{}}')


def test_a_request_is_frozen() -> None:
    with pytest.raises(ValidationError):
        request().run = "another"  # type: ignore[misc]


def test_typed_views_carry_their_defaults() -> None:
    """A changed default changes the fingerprint, so it has to be written down."""
    values = QuantizeParameters().dump()
    assert values["scheme"] == "FP8_DYNAMIC"
    assert values["ignore"] == ["lm_head", "re:.*embed_tokens.*"]
    assert QuantizeParameters.read(values) == QuantizeParameters()


@pytest.mark.parametrize(
    ("values", "named"), [({"targets": "x"}, "targets"), ({"target": 3}, "target"), ({"action": "sell"}, "action")]
)
def test_a_typed_view_names_what_does_not_fit(values: dict[str, object], named: str) -> None:
    with pytest.raises(BadInput, match=rf"not PushParameters: {named}: "):
        PushParameters.read(values)  # type: ignore[arg-type]


def test_exit_codes_are_the_documented_ones() -> None:
    """The table in containers/errors.py, read as text."""
    codes = {
        errors.Error: 1,
        errors.BadInput: 2,
        errors.GateRefused: 3,
        errors.GateInconclusive: 4,
        errors.Temporary: 75,
        errors.DiskFull: 75,
        errors.NotReady: 75,
        errors.Interrupted: 130,
    }
    table = errors.__doc__ or ""
    for kind, code in codes.items():
        assert kind.exit_code == code
        assert f"| {code} " in table
        assert kind.temporary == (code == 75)


def test_an_error_says_what_to_do() -> None:
    assert str(BadInput("x is missing", remedy="give x")) == "x is missing\ngive x"
    assert str(Error("x is missing")) == "x is missing"


@pytest.mark.parametrize(("code", "temporary"), [(75, True), (2, False), (1, False), (130, False)])
def test_a_failed_step_is_retried_only_when_it_says_so(code: int, temporary: bool) -> None:
    failed = StepFailed("quantize", code, "quantize ended")
    assert (failed.exit_code, failed.temporary) == (code, temporary)
