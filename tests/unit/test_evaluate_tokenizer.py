"""The tokenizer of what is measured comes without its weights, and the server gets the length that the suite needs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import pytest

from containers import suites
from containers.contract import ArtifactRef, Kind
from containers.digest import Digest
from containers.errors import BadInput
from containers.evaluate import tokenizer
from containers.parameters import EvaluateOptions, ServeParameters
from containers.store import FileEntry, Manifest
from flows.requests import Subject
from infra.settings import Settings
from tests.support.modelcars import push_folder, write_checkpoint

if TYPE_CHECKING:
    from pathlib import Path

    from containers.store import Store


class _Store:
    """As much of a store as is read here; remembers which blobs were."""

    def __init__(self, files: dict[str, bytes]) -> None:
        entries = [
            FileEntry(path=name, size=len(content), sha256=Digest.of(content))
            for name, content in sorted(files.items())
        ]
        self.manifest = Manifest(kind=Kind.CHECKPOINT, fingerprint="0" * 64, files=tuple(entries))
        self.blobs = {Digest.of(content): content for content in files.values()}
        self.read: list[Digest] = []

    def load(self, ref: ArtifactRef) -> Manifest:
        return self.manifest

    def read_bytes(self, digest: Digest) -> bytes:
        self.read.append(digest)
        return self.blobs[digest]


def brought(folder: Path, store: _Store | None = None, **options: Any) -> Path | None:
    settings = Settings(cache=folder / "cache")
    return tokenizer.materialize(EvaluateOptions(**options), cast("Store", store), settings, folder / "tokenizer")


def names(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_from_the_store_without_the_weights(tmp_path: Path) -> None:
    store = _Store({"config.json": b"{}", "tokenizer.json": b"{ }", "model.safetensors": b"weights"})
    ref = ArtifactRef(kind=Kind.CHECKPOINT, fingerprint="0" * 64, digest=Digest.of(b""))
    folder = brought(tmp_path, store, tokenizer=ref)
    assert folder is not None
    assert names(folder) == {"config.json", "tokenizer.json"}
    assert Digest.of(b"weights") not in store.read


def test_from_a_modelcar_without_the_weights(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "model")
    pushed = push_folder(tmp_path / "model", f"oci:{tmp_path / 'image'}", Settings(cache=tmp_path / "cache"))
    folder = brought(tmp_path, tokenizer_reference=f"oci:{tmp_path / 'image'}@{pushed.digest}")
    assert folder is not None
    assert (folder / "tokenizer.json").read_text() == "{}"
    assert not any(name.endswith(".safetensors") for name in names(folder))


def test_a_source_without_a_tokenizer_is_bad_input(tmp_path: Path) -> None:
    ref = ArtifactRef(kind=Kind.CHECKPOINT, fingerprint="0" * 64, digest=Digest.of(b""))
    with pytest.raises(BadInput, match="the checkpoint has no tokenizer"):
        brought(tmp_path, _Store({"config.json": b"{}"}), tokenizer=ref)


def test_no_source_leaves_it_to_the_endpoint(tmp_path: Path) -> None:
    assert brought(tmp_path) is None


@pytest.mark.parametrize(
    ("suite", "asked", "length"), [("smoke", 1024, 2048), ("openllm-v1", 2048, 4097), ("smoke", 8192, 8192)]
)
def test_the_engine_gets_the_length_that_the_suite_needs(suite: str, asked: int, length: int) -> None:
    subject = Subject("baseline", "sha256:0", ServeParameters(served_model_name="m", max_model_len=asked), {})
    assert subject.fitting(suite).parameters.max_model_len == length


def test_a_suite_that_says_no_length_leaves_it_to_evaluate() -> None:
    files = suites.SuiteFiles(name="x", files={"suite.yaml": "serving: [\n"})
    assert files.max_model_len == 0
