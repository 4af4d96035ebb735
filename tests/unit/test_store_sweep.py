"""What a sweep takes out of a store: nothing that is needed, in use or young, and everything else."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from containers.contract import Kind
from containers.digest import Digest
from containers.errors import BadInput, Temporary
from containers.store import FileEntry, Manifest
from containers.store.sweep import Sweep
from tests.support.memory_bucket import MemoryBucket

if TYPE_CHECKING:
    from containers.store import Swept

DAY = timedelta(days=1)


class World:
    def __init__(self) -> None:
        self.bucket = MemoryBucket()
        self.store = self.bucket.store()
        self.needed: set[str] = set()

    def put(self, name: str, days: float) -> FileEntry:
        """A blob that is so old."""
        entry = FileEntry(path=name, size=len(name), sha256=self.bucket.store().put_bytes(name.encode()))
        self.bucket.written[f"blobs/sha256/{entry.sha256.hex}"] = self.bucket.now - days * DAY
        return entry

    def commit(self, kind: Kind, days: float, *files: FileEntry) -> Manifest:
        ordered = tuple(sorted(files, key=lambda entry: entry.path))
        manifest = Manifest(kind=kind, fingerprint=Digest.of(repr(ordered).encode()).hex, files=ordered)
        self.bucket.store().commit(manifest)
        self.bucket.written[f"artifacts/{kind}/{manifest.fingerprint}.json"] = self.bucket.now - days * DAY
        for key in [key for key in self.bucket.content if key.startswith("claims/")]:
            del self.bucket.content[key]
        return manifest

    def sweep(self, days: float = 7, *, keep: int | None = None, delete: bool = True, touch: bool = True) -> Swept:
        if touch:
            self.bucket.write("watch/hub.json", b"{}")
        return Sweep(
            self.bucket,
            lambda: lambda manifest: "needed" if manifest.fingerprint in self.needed else "",
            older=days * DAY,
            keep_bytes=keep,
            clock=self.bucket.seconds,
            sleep=self.bucket.sleep,
        ).run(delete=delete)

    def has(self, file: FileEntry) -> bool:
        return f"blobs/sha256/{file.sha256.hex}" in self.bucket.content

    def whole(self, manifest: Manifest) -> bool:
        key = f"artifacts/{manifest.kind}/{manifest.fingerprint}.json"
        return key in self.bucket.content and all(map(self.has, manifest.files))


def test_a_blob_that_no_artifact_names_goes_once_it_is_old() -> None:
    """And only on request."""
    world = World()
    named, old, young = world.put("named", 9), world.put("old", 9), world.put("young", 1)
    world.commit(Kind.CHECKPOINT, 1, named)
    found = world.sweep(delete=False)
    assert (found.orphans, found.orphaned, found.before, found.after) == (1, 3, 13, 10)
    assert world.has(old)
    assert world.sweep() == found
    assert (world.has(named), world.has(old), world.has(young)) == (True, False, True)


@pytest.mark.parametrize("kind", list(Kind))
def test_an_artifact_goes_once_it_is_old_unless_it_is_needed(kind: Kind) -> None:
    world = World()
    old, needed, young = (
        world.commit(kind, days, world.put(name, 9)) for name, days in (("old", 9), ("needed", 9), ("young", 6))
    )
    world.needed.add(needed.fingerprint)
    fates = {one.fingerprint: one for one in world.sweep().fates}
    assert (world.whole(old), world.whole(needed), world.whole(young)) == (False, True, True)
    assert not world.has(old.files[0])
    assert {name: (one.goes, one.own, one.shared) for name, one in fates.items()} == {
        old.fingerprint: (True, 3, 0),
        needed.fingerprint: (False, 0, 6),
        young.fingerprint: (False, 0, 5),
    }
    assert fates[needed.fingerprint].why == "needed"


def test_a_blob_that_another_artifact_names_stays_and_is_counted_as_shared() -> None:
    world = World()
    both, alone = world.put("both", 9), world.put("alone", 9)
    world.commit(Kind.CHECKPOINT, 9, both, alone)
    stays = world.commit(Kind.CHECKPOINT, 2, both)
    (gone,) = world.sweep().gone
    assert (gone.own, gone.shared) == (5, 4)
    assert world.whole(stays)
    assert not world.has(alone)


def test_shards_stay_with_their_checkpoint() -> None:
    """Those of a quantization that was never finished go when they are old."""
    world = World()
    finished, left, going = world.put("finished", 9), world.put("left", 9), world.put("going", 1)
    kept, gone, at_work = (
        world.commit(Kind.GROUP, days, file) for days, file in ((9, finished), (9, left), (1, going))
    )
    world.commit(Kind.CHECKPOINT, 3, finished, world.put("config.json", 9))
    world.sweep()
    assert (world.whole(kept), world.whole(gone), world.whole(at_work)) == (True, False, True)


def test_what_a_run_found_stays_as_long_as_what_it_made() -> None:
    """Age counts from the last use."""
    world = World()
    old = world.commit(Kind.CHECKPOINT, 30, world.put("old", 30))
    assert world.bucket.store().find(old.kind, old.fingerprint) == old
    world.bucket.now += 6 * DAY
    (fate,) = world.sweep().fates
    assert (fate.goes, fate.why) == (False, "a run counts on it")
    world.bucket.now += 2 * DAY
    assert [one.fingerprint for one in world.sweep().gone] == [old.fingerprint]
    assert not [key for key in world.bucket.content if key.startswith("claims/")]


def test_room_is_made_by_what_nobody_needs_the_oldest_first() -> None:
    """And never by what is younger than a day; a shard goes with its checkpoint."""
    world = World()
    files = {days: world.put("x" * 100 + str(days), 9) for days in (0.5, 2, 3, 4, 5)}
    made = {days: world.commit(Kind.CHECKPOINT, days, file) for days, file in files.items()}
    shard = world.commit(Kind.GROUP, 6, files[4])
    world.needed.add(made[5].fingerprint)
    assert world.sweep(keep=507).gone == []
    swept = world.sweep(keep=410)
    assert swept.after == 406
    assert [(one.kind, one.fingerprint, one.own) for one in swept.gone] == [
        (Kind.CHECKPOINT, made[4].fingerprint, 101),
        (Kind.GROUP, shard.fingerprint, 0),
    ]
    assert {one.why for one in swept.gone} == {"more than is to be kept"}
    world.sweep(keep=0)
    assert {days for days in made if world.whole(made[days])} == {0.5, 5}


def test_a_clock_that_jumps_ahead_makes_nothing_old() -> None:
    """Ages count to what was written last; a jump back makes everything younger."""
    world = World()
    made = world.commit(Kind.CHECKPOINT, 1, world.put("made", 1))
    for jump in (5000 * DAY, -3000 * DAY):
        world.bucket.now += jump
        assert world.sweep(touch=False).gone == []
        assert world.whole(made)
        world.bucket.content.pop("watch/swept.json")


def test_a_store_in_which_nothing_happens_does_not_age_until_it_is_swept() -> None:
    """The first sweep after a long silence is the first sign that time has passed."""
    world = World()
    made = world.commit(Kind.CHECKPOINT, 1, world.put("made", 1))
    world.bucket.now += 30 * DAY
    first = world.sweep(touch=False)
    assert first.gone == []
    assert json.loads(world.bucket.content["watch/swept.json"])["before"] == 4
    assert [one.fingerprint for one in world.sweep(touch=False).gone] == [made.fingerprint]


def test_an_empty_store() -> None:
    assert World().sweep(touch=False).until is None


def test_an_age_below_a_day_is_refused() -> None:
    with pytest.raises(BadInput, match="12 h is too short"):
        World().sweep(0.5)


def test_nothing_goes_while_something_cannot_be_read() -> None:
    """It may need anything."""
    world = World()
    old = world.put("old", 9)
    for key in ("artifacts/group/" + "0" * 64 + ".json", "artifacts/new-kind/x.json", "claims/x.json"):
        world.bucket.write(key, b'{"schema_version": 2')
        with pytest.raises(BadInput, match=key.partition(".")[0]):
            world.sweep()
        world.bucket.content.pop(key)
        assert world.has(old)


def test_a_store_that_lists_too_slowly_loses_nothing() -> None:
    """Whoever waits for the notice has given it up by then."""
    world = World()
    old = world.put("old", 9)
    listings = 0

    def slow(operation: str, key: str) -> None:
        nonlocal listings
        if operation == "list" and any(name.startswith("notices/") for name in world.bucket.content):
            listings += 1
            world.bucket.sleep(400)

    world.bucket.step = slow
    with pytest.raises(Temporary, match="to list its artifacts"):
        world.sweep()
    assert listings
    assert world.has(old)


def test_many_artifacts_go_in_several_notices() -> None:
    world = World()
    for number in range(700):
        world.commit(Kind.CHECKPOINT, 9, world.put(f"{number}", 9), world.put("shared", 9))
    for number in range(1500):
        world.put(f"orphan {number}", 9)
    notices = 0

    def count(operation: str, key: str) -> None:
        nonlocal notices
        notices += operation == "write" and key.startswith("notices/")

    world.bucket.step = count
    swept = world.sweep()
    assert (len(swept.gone), swept.orphans, swept.after) == (700, 1500, 0)
    assert notices > 2
    assert {key.partition("/")[0] for key in world.bucket.content} == {"watch"}


def test_old_results_go_and_endpoints_of_services_stay() -> None:
    world = World()
    for key in ("results/a", "results/services/b.json", "results/c"):
        world.store.write_key(key, b"1")
        world.bucket.written[key] = world.bucket.now - (9 if key != "results/c" else 1) * DAY
    world.sweep()
    assert [key for key in world.bucket.content if key.startswith("results/")] == [
        "results/services/b.json",
        "results/c",
    ]


@given(
    st.lists(st.tuples(st.integers(0, 9), st.booleans()), max_size=12),
    st.lists(
        st.tuples(
            st.sampled_from([Kind.GROUP, Kind.CHECKPOINT]),
            st.sets(st.integers(0, 9), min_size=1),
            st.booleans(),
            st.booleans(),
        ),
        max_size=6,
    ),
    st.sampled_from([None, 0, 20]),
)
def test_whatever_is_stored_no_manifest_that_stays_lacks_a_blob(blobs, artifacts, keep) -> None:
    """What was said is what is left, and a second sweep finds nothing."""
    world = World()
    files = {number: world.put(f"blob-{number}", 9 if old else 1) for number, old in blobs}
    needed = []
    for kind, numbers, old, wanted in artifacts:
        if chosen := [files[number] for number in numbers if number in files]:
            made = world.commit(kind, 9 if old else 2, *chosen)
            if wanted:
                world.needed.add(made.fingerprint)
                needed.append(made)
    swept = world.sweep(keep=keep)
    assert all(world.whole(made) for made in needed)
    for manifest in world.store.manifests():
        assert world.whole(manifest)
    again = world.sweep(keep=keep, delete=False)
    assert (again.gone, again.orphans, again.before) == ([], 0, again.after)
    assert swept.after <= world.bucket.blob_bytes
