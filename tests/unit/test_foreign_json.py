"""JSON from outside: what is refused, and that an honest text passes."""

from __future__ import annotations

import json

import pytest

from containers.errors import BadInput
from containers.foreign_json import CONFIGURATION, DOCUMENT, LISTING, TENSORS, JsonLimits, parse_json, parse_object
from containers.oci.types import MANIFEST, ImageConfig, ImageManifest, Index, parse_manifest, parse_tags

_SMALL = JsonLimits(size=1 << 20, values=1000)
_DIGEST = "sha256:" + "0" * 64
_BLOB = {"mediaType": "t", "digest": _DIGEST, "size": 1}

ATTACKS: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "is not JSON"),
    "no JSON": (b"{", "is not JSON"),
    "two values": (b"{}{}", "is not JSON"),
    "one name very often": (b"{" + b",".join([b'"a":1'] * 900) + b"}", "names a twice"),
    "one name twice, far below": (b'[[[{"x":{"b":1,"a":2,"b":3}}]]]', "names b twice"),
    "one name twice, written in two ways": (b'{"a":1,"\\u0061":2}', "names a twice"),
    "a name of a megabyte twice": (b'{"%s":1,"%s":2}' % (b"n" * 400_000, b"n" * 400_000), "twice"),
    "brackets without end": (b"[" * 900, "is not JSON"),
    "brackets that end": (b"[" * 65 + b"]" * 65, "nested more than 64"),
    "brackets for the parser's own stack": (b'{"a":' * 900 + b"1" + b"}" * 900, "nested more than 64"),
    "many brackets": (b"[" + b",".join([b"[]"] * 1001) + b"]", "more than 1000 values"),
    "many numbers": (b"[" + b",".join([b"0"] * 1001) + b"]", "more than 1000 values"),
    "many names": (json.dumps({str(at): 0 for at in range(1001)}).encode(), "more than 1000 values"),
    "too many bytes": (b'"' + b"x" * (1 << 20) + b'"', "at most 1048576 are read"),
    "too many blanks": (b" " * (1 << 20) + b"1", "at most 1048576 are read"),
    "a whole number without end": (b"[" + b"9" * 5000 + b"]", "whole number of 5000 digits"),
    "a whole number of some length": (b"[-" + b"9" * 101 + b"]", "whole number of 102 digits"),
    "a number that is infinite": (b"[1e999]", "too large"),
    "a fraction that is infinite": (b"[-1.5e+400]", "too large"),
    "NaN": (b"[NaN]", "NaN, which JSON does not have"),
    "Infinity": (b'{"a":Infinity}', "Infinity, which JSON does not have"),
    "-Infinity": (b'{"a":-Infinity}', "-Infinity, which JSON does not have"),
    "half of a surrogate pair": (b'["\\ud800"]', "half of a surrogate pair"),
    "the other half": (b'["\\uDFFF x"]', "half of a surrogate pair"),
    "halves in the wrong order": (b'["\\udc00\\ud800"]', "half of a surrogate pair"),
    "half of a pair in a name": (b'{"\\ud800":1}', "half of a surrogate pair"),
    "half of a pair in bytes": (b'["\xed\xa0\x80"]', "is not JSON"),
    "bytes that are no text": (b'["\xff"]', "is not JSON"),
    "text of 16 bits": (json.dumps({"a": 1}).encode("utf-16"), "is not JSON"),
    "text of 32 bits": (json.dumps({"a": 1}).encode("utf-32-le"), "is not JSON"),
    "a byte order mark": (b"\xef\xbb\xbf{}", "is not JSON"),
    "a line break in a string": (b'["\n"]', "is not JSON"),
    "a zero in a string": (b'["\x00"]', "is not JSON"),
    "a comment": (b"[1] // one", "is not JSON"),
    "single quotes": (b"{'a':1}", "is not JSON"),
    "a comma at the end": (b"[1,]", "is not JSON"),
}

MANIFEST_ATTACKS: dict[str, dict[str, object]] = {
    "layers are a text": {"config": _BLOB, "layers": "x"},
    "layers are an object": {"config": _BLOB, "layers": {"0": _BLOB}},
    "a layer is a number": {"config": _BLOB, "layers": [1]},
    "a negative size": {"config": _BLOB, "layers": [_BLOB | {"size": -1}]},
    "a size beyond 64 bits": {"config": _BLOB, "layers": [_BLOB | {"size": 2**63}]},
    "a size of a hundred digits": {"config": _BLOB, "layers": [_BLOB | {"size": 10**99}]},
    "half a byte": {"config": _BLOB, "layers": [_BLOB | {"size": 0.5}]},
    "another algorithm": {"config": _BLOB, "layers": [_BLOB | {"digest": "md5:" + "0" * 32}]},
    "a digest that leaves the folder": {"config": _BLOB, "layers": [_BLOB | {"digest": "sha256:../../etc/passwd"}]},
    "a digest in capitals": {"config": _BLOB, "layers": [_BLOB | {"digest": "sha256:" + "A" * 64}]},
    "a digest with a line break": {"config": _BLOB, "layers": [_BLOB | {"digest": _DIGEST + "\n"}]},
    "a digest that is a number": {"config": _BLOB, "layers": [_BLOB | {"digest": 1}]},
    "annotations that are a list": {"config": _BLOB, "layers": [], "annotations": ["a"]},
    "annotations with numbers": {"config": _BLOB, "layers": [], "annotations": {"a": 1}},
    "no config": {"layers": []},
    "the old schema": {"schemaVersion": 1, "config": _BLOB, "layers": []},
    "manifests that are none": {"manifests": [1]},
    "manifests that are null": {"manifests": None},
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_an_attack_is_bad_input(attack: str) -> None:
    """It is named, told in a sentence, and the sentence is short whatever the text was."""
    content, says = ATTACKS[attack]
    with pytest.raises(BadInput, match=says) as caught:
        parse_json(content, "the file", _SMALL)
    assert caught.value.message.startswith("the file ")
    assert len(caught.value.message) < 500


@pytest.mark.parametrize(
    "limits", [TENSORS, CONFIGURATION, DOCUMENT, LISTING], ids=["tensors", "config", "oci", "list"]
)
def test_every_limit_is_below_what_hurts(limits: JsonLimits) -> None:
    """One value over each: refused before it is parsed."""
    with pytest.raises(BadInput, match="values"):
        parse_json(b"[" + b"0," * limits.values + b"0]", "x", limits)
    with pytest.raises(BadInput, match="are read"):
        parse_json(bytes(limits.size + 1), "x", limits)


@pytest.mark.parametrize(
    "value",
    [
        {"a": [1, -2, 1.5, True, None, "\U0001f600 ☃ \ud7ff"], "b": {"a": {}}},
        {"model_max_length": 10**30},
        {"eps": 1e-300, "deep": json.loads("[" * 60 + "]" * 60)},
        [],
        "text, with [brackets] {and} \\ud800 that is none",
    ],
)
def test_an_honest_value_comes_as_json_reads_it(value: object) -> None:
    assert parse_json(json.dumps(value), "x") == value
    assert parse_json(json.dumps(value, ensure_ascii=False).encode(), "x") == value


def test_configurations_may_hold_infinities() -> None:
    """transformers writes `"time_step_limit": [0.0, Infinity]` for Mamba 2."""
    assert parse_object(b'{"time_step_limit": [0.0, Infinity]}', "x", CONFIGURATION) == {
        "time_step_limit": [0.0, float("inf")]
    }


@pytest.mark.parametrize("content", [b"[]", b"1", b"null", b'"{}"'])
def test_an_object_is_one(content: bytes) -> None:
    with pytest.raises(BadInput, match="not a JSON object"):
        parse_object(content, "x")


@pytest.mark.parametrize("attack", MANIFEST_ATTACKS)
def test_a_manifest_that_is_none(attack: str) -> None:
    content = json.dumps(MANIFEST_ATTACKS[attack]).encode()
    with pytest.raises(BadInput, match="the manifest") as caught:
        parse_manifest(content, "the manifest")
    assert len(caught.value.message) < 500


@pytest.mark.parametrize("attack", ATTACKS)
def test_no_document_of_an_image_is_read_otherwise(attack: str) -> None:
    content = ATTACKS[attack][0]
    if len(content) <= 4096:  # the others are within the limits of documents
        for read in (ImageManifest.parse, ImageConfig.parse, Index.parse, parse_manifest, parse_tags):
            with pytest.raises(BadInput):
                read(content, "the document")


def test_what_a_manifest_has_beyond_the_specification_is_kept() -> None:
    """Byte for byte, since digests are of bytes."""
    content = b'{"config":{"digest":"%s","mediaType":"t","size":1},"layers":[],"mediaType":"%s","own":[1.5,"a"],"schemaVersion":2}'
    content %= _DIGEST.encode(), MANIFEST.encode()
    assert parse_manifest(content, "x").encode() == content


@pytest.mark.parametrize("tags", [{"a": 1}, 5, "v1", ["v1", 2]])
def test_tags_that_are_none(tags: object) -> None:
    with pytest.raises(BadInput, match="not a list of tags"):
        parse_tags(json.dumps({"tags": tags}).encode(), "the tags of x")
    assert parse_tags(b'{"tags": null}', "x") == ()
