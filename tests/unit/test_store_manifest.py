"""What a manifest accepts, and that its digest is of the contents and of nothing else."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from containers.contract import Kind
from containers.digest import Digest
from containers.store import FileEntry, Manifest

A = Digest("a" * 64)
B = Digest("b" * 64)
FINGERPRINT = "1" * 64


def entry(path: str, size: int = 1, sha256: Digest = A) -> FileEntry:
    return FileEntry(path=path, size=size, sha256=sha256)


def manifest(*files: FileEntry, **fields: Any) -> Manifest:
    return Manifest(**{"kind": Kind.CHECKPOINT, "fingerprint": FINGERPRINT, "files": files, **fields})


def test_digest_is_what_other_tools_say() -> None:
    """As jq and coreutils compute it.

    jq -cjn '[["config.json",2,"sha256:"+"a"*64],["sub/model.safetensors",5000000000,"sha256:"+"b"*64]]' | sha256sum
    """
    files = (entry("config.json", 2, A), entry("sub/model.safetensors", 5_000_000_000, B))
    assert manifest(*files).digest.hex == "0e9b817a3b5e605f60aa8101397bfe2a291f5f17ec48231509d451c73ad94742"


def test_digest_of_nothing() -> None:
    """printf '[]' | sha256sum"""
    assert manifest().digest.hex == "4f53cda18c2baa0c0354bb5f9a3ecbe5ed12ab4d8e11ba873c2f11161202b945"


def test_digest_of_a_name_outside_ascii() -> None:
    """printf '[["schön/模.json",0,"sha256:%s"]]' $(printf 'a%.0s' {1..64}) | sha256sum"""
    assert (
        manifest(entry("schön/模.json", 0)).digest.hex
        == "5a58dc9c5db915098ac2a4ed3457d2c2252a807b93812c936e4441e7e21b14a6"
    )


def test_digest_ignores_what_is_not_content() -> None:
    """Fingerprint, kind, metadata and layer digests change the manifest and not the contents."""
    plain = manifest(entry("a"))
    other = manifest(
        FileEntry(path="a", size=1, sha256=A, layer=B),
        kind=Kind.GROUP,
        fingerprint="2" * 64,
        metadata={"source": "elsewhere"},
    )
    assert plain.digest == other.digest
    assert plain.ref != other.ref


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/etc/passwd",
        "..",
        "../a",
        "a/../b",
        "a/..",
        ".",
        "./a",
        "a//b",
        "a/",
        "a\\b",
        "a\nb",
        "a\0b",
        "\udcff",
        "x" * 1025,
        "ü" * 513,
    ],
)
def test_refuses_a_path_that_could_leave_or_confuse(path: str) -> None:
    with pytest.raises(ValidationError):
        entry(path)


@pytest.mark.parametrize("path", ["...", ".gitattributes", "a b", "x" * 1024, "original/params.json", "a/b/c/..d"])
def test_accepts_a_plain_path(path: str) -> None:
    assert entry(path).path == path


@given(st.text() | st.lists(st.sampled_from(["a", ".", "..", "", "b"])).map("/".join))
def test_an_accepted_path_stays_below_its_folder(path: str) -> None:
    """For any text: either it is refused, or walking along it never leaves the folder and comes to one place only."""
    try:
        accepted = entry(path).path
    except ValidationError:
        return
    parts = accepted.split("/")
    assert accepted == path
    assert ".." not in parts
    assert not PurePosixPath(accepted).is_absolute()
    assert PurePosixPath("folder", accepted).parts == ("folder", *parts)


@pytest.mark.parametrize(
    "paths", [("b", "a"), ("a", "a"), ("a", "b", "a"), ("a", "a/b"), ("a", "a.json", "a/b/c"), ("B", "A")]
)
def test_refuses_files_out_of_order_twice_or_below_each_other(paths: tuple[str, ...]) -> None:
    with pytest.raises(ValidationError):
        manifest(*(entry(path) for path in paths))


def test_refuses_one_digest_with_two_sizes() -> None:
    with pytest.raises(ValidationError, match="one size"):
        manifest(entry("a", 1, A), entry("b", 2, A))


def test_refuses_a_field_that_it_does_not_know() -> None:
    text = manifest(entry("a")).model_dump_json().replace('"metadata"', '"metadate"')
    with pytest.raises(ValidationError, match="metadate"):
        Manifest.model_validate_json(text)


@pytest.mark.parametrize("fingerprint", ["", "1" * 63, "1" * 65, "G" * 64, "../" + "1" * 61])
def test_refuses_a_fingerprint_that_is_none(fingerprint: str) -> None:
    with pytest.raises(ValidationError):
        manifest(fingerprint=fingerprint)


@given(st.sets(st.text(st.characters(categories=["L", "N"]), min_size=1, max_size=8), max_size=8), st.randoms())
def test_survives_json(names: set[str], random: Any) -> None:
    """What is written is read back as the same value with the same digest."""
    files = [entry(name, random.randrange(2**48), Digest.of(name.encode())) for name in sorted(names)]
    written = manifest(*files, metadata={"n": len(files)})
    read = Manifest.model_validate_json(written.model_dump_json(exclude_none=True))
    assert read == written
    assert read.digest == written.digest
    assert read.size == sum(file.size for file in files)
