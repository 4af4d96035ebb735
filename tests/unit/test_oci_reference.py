"""References are parsed once, strictly, and written back as they were."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from containers.digest import Digest
from containers.errors import BadInput
from containers.oci.reference import Reference, candidate_tag

DIGEST = "sha256:" + "ab" * 32


@pytest.mark.parametrize(
    "text",
    [
        "oci:image",
        "oci:/tmp/some where/x:v1",
        f"oci:../x@{DIGEST}",
        "localhost/a:1",
        "localhost:5000/a/b",
        "quay.io/org/name:v1.0_x-y",
        f"quay.io/org/na.me__x@{DIGEST}",
        f"quay.io/org/name:v1@{DIGEST}",
        "[::1]:5000/a/b:c",
    ],
)
def test_written_as_read(text: str) -> None:
    """Parsing and writing give the same text."""
    assert str(Reference.parse(text)) == text


def test_parts() -> None:
    """Host, port, repository, tag and digest end up in their fields."""
    read = Reference.parse(f"127.0.0.1:5000/org/car:v1@{DIGEST}")
    assert (read.registry, read.repository, read.tag, read.digest) == (
        "127.0.0.1:5000",
        "org/car",
        "v1",
        Digest.parse(DIGEST),
    )
    layout = Reference.parse("oci:/data/car:v1")
    assert (layout.layout, layout.tag) == (Path("/data/car"), "v1")
    assert str(layout.target) == "oci:/data/car"
    assert candidate_tag(Digest.parse(DIGEST)) == "candidate-abababababab"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("name:tag", "names no registry"),
        ("org/name", "names no registry"),
        ("quay.io", "names no registry"),
        ("quay.io/", "not a repository name"),
        ("quay.io/Org/name", "not a repository name"),
        ("quay.io/org//name", "not a repository name"),
        ("quay.io/org/name:", "not a tag"),
        ("quay.io/org/name:-x", "not a tag"),
        ("quay.io/org/name:" + "x" * 129, "not a tag"),
        ("quay.io/org/name:a/b", "not a tag"),
        ("quay.io/org/name@sha256:12", "not a sha256 digest"),
        ("quay.io/org/name@sha512:" + "a" * 128, "not a sha256 digest"),
        ("quay.io/" + "a" * 256, "not a repository name"),
        ("-x.io/org/name", "not a host name"),
        ("oci:", "names no folder"),
        ("oci:x:bad tag", "not a tag"),
        ("oci://quay.io/org/name", "neither a layout nor a registry"),
    ],
)
def test_bad_references(text: str, says: str) -> None:
    """Each bad reference is refused with what is wrong about it."""
    with pytest.raises(BadInput, match=says):
        Reference.parse(text)


@given(st.text(max_size=60))
def test_anything_else_is_bad_input(text: str) -> None:
    """No text crashes the parser; what it takes, it writes back so that it means the same."""
    try:
        read = Reference.parse(text)
    except BadInput:
        return
    assert Reference.parse(str(read)) == read
