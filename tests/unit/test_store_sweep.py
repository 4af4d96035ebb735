"""What a sweep takes out of a store: nothing that an artifact needs, and nothing that a run may be about to name."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from containers.contract import Kind
from containers.digest import Digest
from containers.store import FileEntry, Manifest, Store
from containers.store.client import Listed

DAY = timedelta(days=1)


class Bucket:
    """A bucket in memory, in which every write has an age."""

    name = "memory"

    def __init__(self) -> None:
        self.content: dict[str, bytes] = {}
        self.written: dict[str, datetime] = {}
        self.age = timedelta()

    def size(self, key: str) -> int | None:
        return len(self.content[key]) if key in self.content else None

    def read(self, key: str) -> bytes | None:
        return self.content.get(key)

    def write(self, key: str, content: bytes) -> None:
        self.content[key] = content
        self.written[key] = datetime.now(UTC) - self.age

    def delete(self, key: str) -> None:
        self.content.pop(key, None)

    def listing(self, prefix: str) -> list[Listed]:
        return [
            Listed(key, len(self.content[key]), self.written[key]) for key in self.content if key.startswith(prefix)
        ]


class World:
    def __init__(self) -> None:
        self.bucket = Bucket()
        self.store = Store(self.bucket)

    def put(self, name: str, age: timedelta) -> FileEntry:
        self.bucket.age = age
        return FileEntry(path=name, size=len(name), sha256=self.store.put_bytes(name.encode()))

    def commit(self, kind: Kind, *files: FileEntry) -> Manifest:
        ordered = tuple(sorted(files, key=lambda entry: entry.path))
        manifest = Manifest(kind=kind, fingerprint=Digest.of(repr(ordered).encode()).hex, files=ordered)
        self.store.commit(manifest)
        return manifest

    def has(self, file: FileEntry) -> bool:
        return self.store.has_blob(file.sha256, file.size)


def test_a_blob_that_no_artifact_names_goes_once_it_is_old() -> None:
    """And only on request."""
    world = World()
    named, old, young = world.put("named", 9 * DAY), world.put("old", 9 * DAY), world.put("young", DAY)
    world.commit(Kind.CHECKPOINT, named)
    found = world.store.sweep(older=7 * DAY)
    assert [(one.digest, one.size) for one in found] == [(old.sha256, 3)]
    assert world.has(old)
    assert world.store.sweep(older=7 * DAY, delete=True) == found
    assert (world.has(named), world.has(old), world.has(young)) == (True, False, True)


def test_shards_of_a_quantization_that_was_never_finished_go_with_their_manifests() -> None:
    """Those of one that goes on, and those that a checkpoint holds, stay: a rerun finds them."""
    world = World()
    finished, left, going = world.put("finished", 9 * DAY), world.put("left", 9 * DAY), world.put("going", DAY)
    kept, gone, at_work = (world.commit(Kind.GROUP, file) for file in (finished, left, going))
    world.commit(Kind.CHECKPOINT, finished, world.put("config.json", 9 * DAY))
    world.store.sweep(older=7 * DAY)
    assert world.store.find(Kind.GROUP, gone.fingerprint) == gone
    assert [one.digest for one in world.store.sweep(older=7 * DAY, delete=True)] == [left.sha256]
    assert world.store.find(Kind.GROUP, kept.fingerprint) == kept
    assert world.store.find(Kind.GROUP, at_work.fingerprint) == at_work
    assert {one.fingerprint for one in world.store.manifests(Kind.GROUP)} == {kept.fingerprint, at_work.fingerprint}


@pytest.mark.parametrize("kind", [kind for kind in Kind if kind is not Kind.GROUP])
def test_every_other_artifact_is_needed_however_old(kind: Kind) -> None:
    """What is no part of another is a product."""
    world = World()
    world.commit(kind, world.put("a", 1000 * DAY))
    assert world.store.sweep(older=DAY, delete=True) == []


@given(
    st.lists(st.tuples(st.integers(0, 9), st.booleans()), max_size=12),
    st.lists(
        st.tuples(st.sampled_from([Kind.GROUP, Kind.CHECKPOINT]), st.sets(st.integers(0, 9), min_size=1)), max_size=6
    ),
)
def test_whatever_is_stored_no_manifest_that_stays_lacks_a_blob(blobs, artifacts) -> None:
    """And a second sweep finds nothing."""
    world = World()
    files = {number: world.put(f"blob-{number}", (9 if old else 1) * DAY) for number, old in blobs}
    for kind, numbers in artifacts:
        if chosen := [files[number] for number in numbers if number in files]:
            world.commit(kind, *chosen)
    before = {one.ref for one in world.store.manifests() if one.kind is not Kind.GROUP}
    world.store.sweep(older=7 * DAY, delete=True)
    for manifest in world.store.manifests():
        assert world.store.find(manifest.kind, manifest.fingerprint) == manifest
    assert before == {one.ref for one in world.store.manifests() if one.kind is not Kind.GROUP}
    assert world.store.sweep(older=7 * DAY) == []
