"""A checkpoint of the store goes into an image: each byte is hashed for its layer alone, and damage is still the store's."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from containers.contract import Kind, StoreLocation
from containers.oci.access import open_push_cache, open_repository
from containers.oci.base import empty_base
from containers.oci.layer import FileLayer, LayerHasher
from containers.oci.modelcar import Push
from containers.oci.plan import make_plan
from containers.oci.reference import Reference
from containers.oci.source import StoredCheckpoint
from containers.push.layers import layer_blob
from containers.settings import StepSettings, StoreSettings
from containers.store import DamagedBlob, FileEntry, Manifest, Store
from tests.support.modelcars import push_folder, write_checkpoint
from tests.support.registry_double import registry_double

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from containers.digest import Digest

SHARD = "model-00001-of-00002.safetensors"
LARGE = 5 << 20  # bytes: a layer that is not read into memory before it is sent


@pytest.fixture
def settings(tmp_path: Path) -> StepSettings:
    return StepSettings(cache=tmp_path / "cache", home=tmp_path / "home")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_checkpoint(tmp_path / "checkpoint", size=LARGE)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    (tmp_path / "store").mkdir()
    location = StoreLocation(endpoint="http://127.0.0.1:9")
    return Store.open(location, StoreSettings(folder=tmp_path / "store", direct=True))


@pytest.fixture(params=["layout", "registry"])
def target(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "layout":
        yield f"oci:{tmp_path}/car:v1"
        return
    with registry_double() as registry:
        yield f"{registry.address}/car:v1"


def stored(store: Store, folder: Path, *, layers: bool) -> Manifest:
    """The folder's files in the store, with the digests of their layers if whoever made them knew these."""
    entries = []
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            name, content = path.relative_to(folder).as_posix(), path.read_bytes()
            hasher = LayerHasher(name, len(content))
            hasher.update(content)
            layer = hasher.digest() if layers else None
            entries.append(FileEntry(path=name, size=len(content), sha256=store.put_bytes(content), layer=layer))
    ordered = tuple(sorted(entries, key=lambda entry: entry.path))
    made = Manifest(kind=Kind.CHECKPOINT, fingerprint="0" * 64, files=ordered)
    store.commit(made)
    return made


def push(store: Store, manifest: Manifest, target: str, settings: StepSettings, *, raw: bool = False) -> Digest:
    cache = open_push_cache(settings)
    with open_repository(Reference.parse(target), settings, cache=cache, write=True) as repository:
        plan = make_plan(StoredCheckpoint(store, manifest), (empty_base("linux/amd64"),), cache, also_raw=raw)
        return Push(plan, repository, cache).run("v1").digest


def damage(tmp_path: Path, manifest: Manifest) -> Path:
    (entry,) = [one for one in manifest.files if one.path == SHARD]
    blob = tmp_path / "store" / "carwright" / "blobs" / "sha256" / entry.sha256.hex
    content = bytearray(blob.read_bytes())
    content[len(content) // 2] ^= 1
    blob.write_bytes(content)
    return blob


@pytest.mark.parametrize("layers", [True, False])
def test_it_is_the_image_of_the_folder(
    store: Store, folder: Path, tmp_path: Path, settings: StepSettings, target: str, layers: bool
) -> None:
    other = StepSettings(cache=tmp_path / "other", home=tmp_path / "home")
    expected = push_folder(folder, f"oci:{tmp_path}/expected", other).digest
    assert push(store, stored(store, folder, layers=layers), target, settings) == expected


@pytest.mark.parametrize("layers", [True, False])
def test_a_damaged_blob_is_said_to_be_one_and_taken_out(
    store: Store, folder: Path, tmp_path: Path, settings: StepSettings, target: str, layers: bool
) -> None:
    """And nothing is tagged; the next run makes the blob again."""
    manifest = stored(store, folder, layers=layers)
    blob = damage(tmp_path, manifest)
    with pytest.raises(DamagedBlob):
        push(store, manifest, target, settings)
    assert not blob.exists()
    with open_repository(Reference.parse(target), settings) as repository:
        assert not repository.tags()


def test_a_layer_that_is_sent_ahead_is_checked_as_well(
    store: Store, folder: Path, tmp_path: Path, settings: StepSettings, target: str
) -> None:
    manifest = stored(store, folder, layers=True)
    (entry,) = [one for one in manifest.files if one.path == SHARD]
    with open_repository(Reference.parse(target), settings, write=True) as repository:
        blob = layer_blob(entry, store)
        assert b"".join(blob.chunks(0)) == b"".join(
            [(glue := FileLayer(entry.path, entry.size).glue)[0], (folder / SHARD).read_bytes(), glue[1]]
        )
        damage(tmp_path, manifest)
        with pytest.raises(DamagedBlob):
            repository.put_blob(blob, lambda _: None)
        assert entry.layer is not None
        assert repository.blob_size(entry.layer) is None
