"""A store that is a folder of this machine: nothing is copied that need not be, and every change is noticed."""

from __future__ import annotations

import errno
import io
import os
import threading
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from containers.contract import Kind, StoreLocation
from containers.digest import Digest
from containers.errors import BadInput
from containers.settings import StoreSettings
from containers.store import DamagedBlob, FileEntry, Manifest, Store
from containers.store import folder as folder_module
from containers.store.sweep import Sweep, Swept

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

CONTENT = os.urandom(17 << 20)  # more than goes in one piece
DIGEST = Digest.of(CONTENT)
FINGERPRINT = "0" * 64


@pytest.fixture
def store(tmp_path: Path) -> Store:
    folder = tmp_path / "store"
    folder.mkdir()
    return Store.open(StoreLocation(endpoint="http://127.0.0.1:9"), StoreSettings(folder=folder, direct=True))


def swept(folder: Path) -> Swept:
    """After a sweep without a server in front of the folder, which would have to be waited for."""
    location = StoreLocation(endpoint="http://127.0.0.1:9")
    bucket = folder_module.FolderBucket(location, StoreSettings(folder=folder, direct=True))
    bucket.settle = 0.0
    return Sweep(bucket, lambda: lambda manifest: "", older=timedelta(days=1)).run(delete=True)


@pytest.fixture
def blob(tmp_path: Path) -> Path:
    """Where the store keeps the content."""
    return tmp_path / "store" / "carwright" / "blobs" / "sha256" / DIGEST.hex


@pytest.fixture
def original(tmp_path: Path) -> Path:
    """Somebody's file with the content."""
    path = tmp_path / "theirs" / "model.safetensors"
    path.parent.mkdir()
    path.write_bytes(CONTENT)
    return path


def manifest(fingerprint: str = FINGERPRINT) -> Manifest:
    entry = FileEntry(path="model.safetensors", size=len(CONTENT), sha256=DIGEST)
    return Manifest(kind=Kind.CHECKPOINT, fingerprint=fingerprint, files=(entry,))


def test_what_is_stored_is_found_and_read_without_a_server(store: Store) -> None:
    """Nothing listens on the endpoint."""
    store.put_stream(io.BytesIO(CONTENT), digest=DIGEST, size=len(CONTENT))
    ref = store.commit(manifest())
    assert store.find(Kind.CHECKPOINT, FINGERPRINT) is not None
    assert [one.ref for one in store.manifests()] == [ref]
    with store.open_blob(DIGEST, size=len(CONTENT)) as reader:
        assert reader.read() == CONTENT
    with store.open_blob(DIGEST, size=len(CONTENT), offset=10) as reader:
        assert reader.read(5) == CONTENT[10:15]
    store.write_key("results/one", b"1")
    assert store.read_key("results/one") == b"1"
    store.delete_key("results/one")
    with pytest.raises(KeyError):
        store.read_key("results/one")


def test_other_bytes_than_announced_leave_nothing(store: Store, blob: Path) -> None:
    for wrong in (CONTENT[:-1] + b"x", CONTENT[:-1], CONTENT + b"x"):
        with pytest.raises(BadInput, match="nothing was stored"):
            store.put_stream(io.BytesIO(wrong), digest=DIGEST, size=len(CONTENT))
    assert not [path for path in blob.parents[2].rglob("*") if path.is_file()]


def test_a_file_that_was_made_for_the_store_is_moved_in(store: Store, original: Path, blob: Path) -> None:
    inode = original.stat().st_ino
    store.take_file(original, DIGEST)
    assert not original.exists()
    assert blob.stat().st_ino == inode


def test_between_file_systems_it_is_copied(
    store: Store, original: Path, blob: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = original.with_name("other")
    original.rename(other)
    monkeypatch.setattr(type(original), "replace", _refusing(type(original).replace, other))
    store.take_file(other, DIGEST)
    assert blob.read_bytes() == CONTENT


def test_a_shared_file_takes_no_second_copy_of_its_bytes(store: Store, original: Path, blob: Path) -> None:
    before = _blocks(blob.parents[3])
    store.share_file(original, DIGEST)
    assert blob.read_bytes() == CONTENT
    assert original.exists()
    assert blob.stat().st_ino == original.stat().st_ino or _blocks(blob.parents[3]) - before < len(CONTENT) // 2
    store.discard_blob(DIGEST)
    assert original.read_bytes() == CONTENT


@pytest.fixture(params=["hard link", "symbolic link"])
def shared(
    request: pytest.FixtureRequest, store: Store, original: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[], None]:
    """Share the original on a file system without copy on write; the second way is that between two file systems."""
    monkeypatch.setattr(folder_module, "_FICLONE", 0)
    if request.param == "symbolic link":
        monkeypatch.setattr(os, "link", _refusing(os.link, original))
    return lambda: store.share_file(original, DIGEST)


def test_a_change_of_the_original_is_noticed_when_it_is_read(
    store: Store, original: Path, blob: Path, shared: Callable[[], None]
) -> None:
    shared()
    ref = store.commit(manifest())
    with original.open("r+b") as file:
        file.write(b"other")
    with pytest.raises(DamagedBlob), store.open_blob(DIGEST, size=len(CONTENT)) as reader:
        reader.read()
    assert not os.path.lexists(blob)
    assert original.exists()
    assert store.find(Kind.CHECKPOINT, FINGERPRINT) is None  # so the next run makes it again
    assert store.load(ref) == manifest()


def test_a_change_is_noticed_before_somebody_is_given_the_file(
    store: Store, original: Path, tmp_path: Path, shared: Callable[[], None]
) -> None:
    shared()
    ref = store.commit(manifest())
    store.expose(ref, tmp_path / "served")
    assert (tmp_path / "served" / "model.safetensors").read_bytes() == CONTENT
    with original.open("r+b") as file:
        file.write(b"other")
    with pytest.raises(DamagedBlob):
        store.expose(ref, tmp_path / "again")
    assert not (tmp_path / "again").exists()


def test_an_original_that_is_gone_is_a_missing_blob_or_none(
    store: Store, original: Path, blob: Path, shared: Callable[[], None]
) -> None:
    shared()
    store.commit(manifest())
    original.unlink()
    found = store.find(Kind.CHECKPOINT, FINGERPRINT)
    assert (found is None) == blob.is_symlink()


def test_a_file_system_without_any_links_gets_copies(
    store: Store, original: Path, blob: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As FAT, and folders that a virtual machine shares with its host: EPERM, symlink(2)."""

    def refused(*_: object, **__: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(folder_module, "_FICLONE", 0)
    monkeypatch.setattr(os, "link", refused)
    monkeypatch.setattr(os, "symlink", refused)
    store.share_file(original, DIGEST)
    store.expose(store.commit(manifest()), tmp_path / "served")
    for path in (blob, tmp_path / "served" / "model.safetensors"):
        assert not path.is_symlink()
        assert path.stat().st_nlink == 1
        assert path.read_bytes() == CONTENT
    assert sorted(path.name for path in blob.parent.iterdir()) == [DIGEST.hex]
    original.write_bytes(b"other")
    assert store.read_bytes(DIGEST) == CONTENT


def test_what_is_shared_is_claimed(store: Store, tmp_path: Path, original: Path, shared: Callable[[], None]) -> None:
    """A hard link is as old as the file, which may be years: the sweep does not take it from a run that goes on."""
    os.utime(original, (0, 0))
    shared()
    store.write_key("watch/hub.json", b"{}")
    assert swept(tmp_path / "store").orphans == 0
    store.commit(manifest())
    assert store.find(Kind.CHECKPOINT, FINGERPRINT) == manifest()


def test_a_sweep_takes_the_share_and_never_the_original(
    store: Store, tmp_path: Path, original: Path, blob: Path, shared: Callable[[], None]
) -> None:
    """What goes with it is nothing where the bytes are a file of somebody else's."""
    shared()
    store.commit(manifest())
    linked = blob.is_symlink() or blob.stat().st_nlink > 1
    for path in [*blob.parent.iterdir(), *blob.parents[2].rglob("*.json")]:
        os.utime(path, (1e9, 1e9), follow_symlinks=False)
    store.write_key("watch/hub.json", b"{}")
    fates = swept(tmp_path / "store").fates
    assert [(one.goes, one.own, one.shared) for one in fates] == [
        (True, 0, len(CONTENT)) if linked else (True, len(CONTENT), 0)
    ]
    assert not blob.is_symlink()
    assert not blob.exists()
    assert original.read_bytes() == CONTENT


def test_half_written_files_are_no_keys(tmp_path: Path, store: Store, blob: Path) -> None:
    blob.parent.mkdir(parents=True, exist_ok=True)
    (blob.parent / ".carwright-1.part").write_bytes(b"half")
    assert swept(tmp_path / "store").before == 0


def test_many_writers_of_one_blob_leave_it_whole(store: Store, blob: Path) -> None:
    threads = [
        threading.Thread(target=lambda: store.put_stream(io.BytesIO(CONTENT), digest=DIGEST, size=len(CONTENT)))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert blob.read_bytes() == CONTENT
    assert [path.name for path in blob.parent.iterdir()] == [DIGEST.hex]


def _blocks(folder: Path) -> int:
    """Bytes that the files of a folder take on the disk."""
    return sum(path.stat().st_blocks * 512 for path in folder.rglob("*") if path.is_file())


def _refusing(call: Callable[..., object], path: Path) -> Callable[..., object]:
    """The call, that says of this path what it would say between two file systems."""

    def refusing(source: Path, *rest: object, **more: object) -> object:
        if source == path:
            raise OSError(18, "Invalid cross-device link")
        return call(source, *rest, **more)

    return refusing
