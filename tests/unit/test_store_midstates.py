"""Midstates beside the blobs of a store: made on every way in, of use on the ways out, and never needed or believed."""

from __future__ import annotations

import io
import os
from datetime import timedelta
from typing import TYPE_CHECKING, Final

import pytest

from containers.contract import Kind, StoreLocation
from containers.settings import StoreSettings
from containers.sha256 import STRETCH, Sha256
from containers.store import DamagedBlob, FileEntry, Manifest, Store
from containers.store.folder import FolderBucket
from containers.store.sweep import Sweep

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from containers.contract import ArtifactRef

CONTENT: Final = os.urandom(5 * STRETCH + 11)
LOCATION: Final = StoreLocation(endpoint="http://127.0.0.1:9")


def hashed(content: bytes) -> Sha256:
    found = Sha256()
    found.update(content)
    return found


HASHED: Final = hashed(CONTENT)
DIGEST: Final = HASHED.digest()
ENTRY: Final = FileEntry(path="model.safetensors", size=len(CONTENT), sha256=DIGEST)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "store"
    path.mkdir()
    return path


@pytest.fixture
def store(folder: Path) -> Store:
    return Store.open(LOCATION, StoreSettings(folder=folder, direct=True))


@pytest.fixture
def blob(folder: Path) -> Path:
    return folder / "carwright" / "blobs" / "sha256" / DIGEST.hex


@pytest.fixture
def midstates(folder: Path) -> Path:
    return folder / "carwright" / "midstates" / "sha256" / DIGEST.hex


def commit(store: Store) -> ArtifactRef:
    return store.commit(Manifest(kind=Kind.CHECKPOINT, fingerprint="0" * 64, files=(ENTRY,)))


def put_stream(store: Store, file: Path) -> None:
    store.put_stream(io.BytesIO(CONTENT), digest=DIGEST, size=len(CONTENT))


def put_file(store: Store, file: Path) -> None:
    store.put_file(file)


def take_file(store: Store, file: Path) -> None:
    store.take_file(file, DIGEST, midstates=HASHED.midstates)


def share_file(store: Store, file: Path) -> None:
    store.share_file(file, DIGEST, midstates=HASHED.midstates)


@pytest.mark.parametrize("put", [put_stream, put_file, take_file, share_file])
def test_every_way_in_leaves_them(
    store: Store, tmp_path: Path, midstates: Path, put: Callable[[Store, Path], None]
) -> None:
    file = tmp_path / "file"
    file.write_bytes(CONTENT)
    put(store, file)
    assert midstates.read_bytes() == HASHED.midstates
    assert len(HASHED.midstates) == 5 * 32


def expose(store: Store, out: Path) -> None:
    store.expose(commit(store), out)


def get_file(store: Store, out: Path) -> None:
    store.get_file(ENTRY, out / ENTRY.path)


def materialize(store: Store, out: Path) -> None:
    store.materialize(commit(store), out)


WAYS_OUT: Final = [expose, get_file, materialize]


@pytest.mark.parametrize("get", WAYS_OUT)
@pytest.mark.parametrize("beside", ["as they were", "none", "wrong", "short"])
def test_right_bytes_are_given_out_whatever_lies_beside_them(
    store: Store, tmp_path: Path, midstates: Path, get: Callable[[Store, Path], None], beside: str
) -> None:
    """A store of an earlier version has none."""
    store.put_stream(io.BytesIO(CONTENT), digest=DIGEST, size=len(CONTENT))
    if beside == "none":
        midstates.unlink()
    elif beside != "as they were":
        wrong = {"wrong": bytes(len(HASHED.midstates)), "short": HASHED.midstates[:-1]}
        midstates.write_bytes(wrong[beside])
    get(store, tmp_path / "out")
    assert (tmp_path / "out" / ENTRY.path).read_bytes() == CONTENT
    assert store.has_blob(DIGEST, len(CONTENT))
    if beside == "wrong":
        assert not midstates.exists(), "the next check would take as long again"


@pytest.mark.parametrize("get", WAYS_OUT)
@pytest.mark.parametrize("beside", ["of the right bytes", "none", "of these bytes"])
@pytest.mark.parametrize("at", [0, 2 * STRETCH, len(CONTENT) - 1])
def test_other_bytes_are_damage_whatever_lies_beside_them(
    store: Store,
    tmp_path: Path,
    blob: Path,
    midstates: Path,
    get: Callable[[Store, Path], None],
    beside: str,
    at: int,
) -> None:
    store.put_stream(io.BytesIO(CONTENT), digest=DIGEST, size=len(CONTENT))
    other = bytearray(CONTENT)
    other[at] ^= 1
    blob.write_bytes(other)
    if beside == "none":
        midstates.unlink()
    elif beside == "of these bytes":
        midstates.write_bytes(hashed(bytes(other)).midstates)
    with pytest.raises(DamagedBlob):
        get(store, tmp_path / "out")
    assert not blob.exists()
    assert not (tmp_path / "out" / ENTRY.path).exists()


def test_progress_counts_each_byte_once(store: Store, tmp_path: Path, midstates: Path) -> None:
    store.put_stream(io.BytesIO(CONTENT), digest=DIGEST, size=len(CONTENT))
    for number, content in enumerate((HASHED.midstates, bytes(len(HASHED.midstates)))):
        midstates.write_bytes(content)
        told: list[int] = []
        store.expose(commit(store), tmp_path / str(number), told.append)
        assert sum(told) == len(CONTENT)


def test_a_sweep_takes_them_once_no_artifact_names_their_blob(store: Store, folder: Path, midstates: Path) -> None:
    def sweep() -> None:
        for path in folder.rglob("*"):
            if path.is_file():
                os.utime(path, (1e9, 1e9))
        store.write_key("watch/hub.json", b"{}")
        bucket = FolderBucket(LOCATION, StoreSettings(folder=folder, direct=True))
        bucket.settle = 0.0
        needed = lambda manifest: "shipped" if shipped else ""  # noqa: E731
        Sweep(bucket, lambda: needed, older=timedelta(days=1)).run(delete=True)

    shipped = True
    store.put_stream(io.BytesIO(CONTENT), digest=DIGEST, size=len(CONTENT))
    commit(store)
    stray = midstates.with_name("1" * 64)
    stray.write_bytes(b"of a blob that is gone")
    sweep()
    assert midstates.exists()
    assert not stray.exists()
    shipped = False
    sweep()
    assert not midstates.exists()


def test_small_blobs_have_none(store: Store, folder: Path) -> None:
    store.put_bytes(b"small")
    store.put_stream(io.BytesIO(CONTENT[:STRETCH]), digest=hashed(CONTENT[:STRETCH]).digest(), size=STRETCH)
    assert not (folder / "carwright" / "midstates").exists()
