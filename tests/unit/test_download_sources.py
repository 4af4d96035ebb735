"""Sources are parsed at the edge: what a user writes, what is pinned, and nothing that leads elsewhere."""

from __future__ import annotations

import string
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from containers.digest import Digest
from containers.errors import BadInput
from containers.sources import BucketSource, FolderSource, HubSource, parse

COMMIT = "0123456789abcdef0123456789abcdef01234567"
LISTING = Digest("a" * 64)

names = st.text(string.ascii_letters + string.digits + "_", min_size=1, max_size=20)
dotted = st.lists(names, min_size=1, max_size=3).map(".".join)
revisions = st.text(string.ascii_letters + string.digits + "._/-@", min_size=1, max_size=30).filter(
    lambda text: ".." not in text
)
# What a file name may hold: everything but the slash and what `parse` refuses as control characters.
parts = st.text(
    st.characters(blacklist_categories=("Cs", "Cc"), blacklist_characters="/"), min_size=1, max_size=12
).filter(lambda part: part not in {".", ".."})
listings = st.none() | st.just(LISTING)


@pytest.mark.parametrize(
    ("text", "source"),
    [
        ("hf://acme/tiny", HubSource("acme/tiny")),
        ("hf://acme/tiny@main", HubSource("acme/tiny", "main")),
        ("hf://acme/tiny@refs/pr/3", HubSource("acme/tiny", "refs/pr/3")),
        ("hf://Qwen/Qwen2.5-0.5B-Instruct", HubSource("Qwen/Qwen2.5-0.5B-Instruct")),
        (f"hf://acme/tiny@{COMMIT}", HubSource("acme/tiny", COMMIT)),
        ("file:///data/my%20model", FolderSource(Path("/data/my model"))),
        ("file://localhost/data/model/", FolderSource(Path("/data/model"))),
        (f"file:///data/model#{LISTING}", FolderSource(Path("/data/model"), LISTING)),
        ("s3://models", BucketSource("models", "")),
        ("s3://models/acme/tiny/", BucketSource("models", "acme/tiny")),
        (f"s3://models/tiny#{LISTING}", BucketSource("models", "tiny", LISTING)),
    ],
)
def test_sources(text: str, source: object) -> None:
    assert parse(text) == source


@pytest.mark.parametrize(
    ("text", "pinned"),
    [
        ("hf://acme/tiny", False),
        ("hf://acme/tiny@main", False),
        ("hf://acme/tiny@0123456", False),
        (f"hf://acme/tiny@{COMMIT}", True),
        ("file:///data/model", False),
        (f"file:///data/model#{LISTING}", True),
        ("s3://models/tiny", False),
        (f"s3://models/tiny#{LISTING}", True),
    ],
)
def test_pinned(text: str, pinned: bool) -> None:
    """A whole commit or the digest of a listing; a short commit may become ambiguous and is no pin."""
    assert parse(text).pinned is pinned


@pytest.mark.parametrize(
    "text",
    [
        "",
        "acme/tiny",
        "/data/model",
        "https://huggingface.co/acme/tiny",
        "hf://",
        "hf://tiny",
        "hf://acme/tiny/more",
        "hf://acme/tiny@",
        "hf://acme/ti ny",
        "hf://acme/..",
        "hf://ac--me/tiny",
        "hf://acme/tiny@../../secrets",
        "hf://acme/tiny@main\n",
        "file://host/data",
        "file://data",
        "file:///",
        "file:///data/../etc",
        "file:///data#sha256:short",
        "file:///data?x=1",
        "s3://",
        "s3:///key",
        "s3://Big_Bucket/x",
        "s3://models/a//b",
        "s3://models/../x",
        "file://[/x",
    ],
)
def test_what_is_no_source(text: str) -> None:
    """One message with what to write instead."""
    with pytest.raises(BadInput) as failure:
        parse(text)
    assert failure.value.remedy


@given(org=dotted, name=dotted, revision=st.none() | revisions)
def test_hub_sources_survive_being_written(org: str, name: str, revision: str | None) -> None:
    source = HubSource(f"{org}/{name}", revision)
    assert parse(str(source)) == source


@given(path=st.lists(parts, min_size=1, max_size=4), listing=listings)
def test_folder_sources_survive_being_written(path: list[str], listing: Digest | None) -> None:
    """Any name that a folder can have, with spaces, #, ? and % in it."""
    source = FolderSource(Path("/", *path), listing)
    assert parse(str(source)) == source


@given(prefix=st.lists(parts, max_size=4), listing=listings)
def test_bucket_sources_survive_being_written(prefix: list[str], listing: Digest | None) -> None:
    source = BucketSource("models", "/".join(prefix), listing)
    assert parse(str(source)) == source


@given(st.text(max_size=60) | st.tuples(st.sampled_from(["hf", "file", "s3"]), st.text(max_size=40)).map("://".join))
def test_parsing_ends_in_a_source_or_in_bad_input(text: str) -> None:
    try:
        source = parse(text)
    except BadInput:
        return
    assert parse(str(source)) == source
