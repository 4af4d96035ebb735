"""Runs and sweeps of several machines on one store, in every order of their operations that changes hands a few times."""

from __future__ import annotations

from datetime import timedelta
from functools import partial
from itertools import combinations, pairwise, product
from typing import TYPE_CHECKING

import pytest

from containers.contract import Kind
from containers.digest import Digest
from containers.errors import BadInput
from containers.store import FileEntry, Manifest
from containers.store.claims import NOTICE_LIFE, Claims
from containers.store.store import Store
from containers.store.sweep import Sweep
from tests.support.interleaving import Schedule
from tests.support.memory_bucket import MemoryBucket

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

DAY = timedelta(days=1)
CONTENT = b"a shard"
ENTRY = FileEntry(path="a", size=len(CONTENT), sha256=Digest.of(CONTENT))
BLOB = f"blobs/sha256/{ENTRY.sha256.hex}"
OLD = Manifest(kind=Kind.CHECKPOINT, fingerprint="0" * 64, files=(ENTRY,))
NEW = Manifest(kind=Kind.CHECKPOINT, fingerprint="1" * 64, files=(ENTRY,))


def nothing(manifest: Manifest) -> str:
    return ""


def sweep(bucket: MemoryBucket) -> None:
    Sweep(bucket, lambda: nothing, older=7 * DAY, clock=bucket.seconds, sleep=bucket.sleep).run(delete=True)


def commit(store: Store) -> Manifest | None:
    """As a download does: what is there is not fetched again."""
    if not store.has_blob(ENTRY.sha256, ENTRY.size):
        store.put_bytes(CONTENT)
    store.commit(NEW)
    return NEW


def derive(store: Store) -> Manifest | None:
    """As a run whose step is cached, and the next one: it finds the old artifact and names its blob in one of its own."""
    if store.find(OLD.kind, OLD.fingerprint) is None:
        store.put_bytes(CONTENT)
        store.commit(OLD)
    store.load(OLD.ref)
    store.commit(NEW)
    return NEW


def as_a_process(write: Callable[[Store], object], bucket: MemoryBucket) -> None:
    write(bucket.store())


def old_orphan() -> MemoryBucket:
    bucket = MemoryBucket()
    bucket.store().put_bytes(CONTENT)
    return later(bucket)


def old_artifact() -> MemoryBucket:
    bucket = MemoryBucket()
    bucket.store().put_bytes(CONTENT)
    bucket.store().commit(OLD)
    return later(bucket)


def later(bucket: MemoryBucket) -> MemoryBucket:
    """Weeks after; something has happened today, else nothing would be old."""
    bucket.now += 30 * DAY
    bucket.write("watch/hub.json", b"{}")
    return bucket


WRITERS = {"commit": (commit, old_orphan), "derive": (derive, old_artifact), "named-by-another": (commit, old_artifact)}


def orders(length: int, most: int, actors: int, first: int = 0) -> Iterator[tuple[tuple[int, int], ...]]:
    """All ways to change hands `most` times at most within so many operations, from one actor to another."""
    for changes in range(most + 1):
        for points in combinations(range(1, length), changes):
            for to in product(range(actors), repeat=changes):
                if all(one != other for one, other in pairwise((first, *to))):
                    yield tuple(zip(points, to, strict=True))


def quiet(bucket: MemoryBucket) -> None:
    """The bucket without a schedule."""
    bucket.step = lambda operation, key: None
    vars(bucket).pop("sleep", None)


def check(bucket: MemoryBucket) -> None:
    """What is committed is whole, and stays so through one more sweep."""
    quiet(bucket)
    assert bucket.store().find(NEW.kind, NEW.fingerprint) == NEW
    sweep(bucket)
    assert bucket.store().find(NEW.kind, NEW.fingerprint) == NEW


def explore(name: str, sweeps: int, length: int, most: int, *, retries: bool = False) -> int:
    """Run the writer and so many sweeps in every order; returns how many orders there are."""
    write, world = WRITERS[name]
    seen = 0
    for first in range(sweeps + 1):
        for changes in orders(length, most, sweeps + 1, first):
            bucket = world()
            bucket.retries = retries
            calls = [partial(as_a_process, write, bucket), *[partial(sweep, bucket)] * sweeps]
            Schedule(bucket, calls).run(changes, first)
            check(bucket)
            seen += 1
    return seen


@pytest.mark.parametrize("name", WRITERS)
def test_no_order_takes_a_blob_that_a_run_is_about_to_name(name: str) -> None:
    """One run and one sweep: the run is never refused, and what it has committed is whole."""
    assert explore(name, sweeps=1, length=28, most=2) == 2 * (1 + 27 + 27 * 26 / 2)


@pytest.mark.parametrize("name", WRITERS)
def test_two_sweeps_at_once(name: str) -> None:
    assert explore(name, sweeps=2, length=40, most=1) == 3 * (1 + 39 * 2)


@pytest.mark.parametrize("name", WRITERS)
def test_a_deletion_that_is_sent_twice(name: str) -> None:
    """The second one comes when the blob may have been made again."""
    assert explore(name, sweeps=1, length=32, most=2, retries=True) > 900


@pytest.mark.campaign
@pytest.mark.parametrize(("sweeps", "length", "most"), [(1, 40, 3), (2, 48, 2)])
@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.timeout(7200)
def test_more_changes_of_hands(name: str, sweeps: int, length: int, most: int) -> None:
    assert explore(name, sweeps, length, most) > 5000


@pytest.mark.parametrize("kill_at", range(1, 24, 2))
@pytest.mark.parametrize("name", WRITERS)
def test_a_sweep_that_is_killed_holds_nobody_up_for_ever(name: str, kill_at: int) -> None:
    """Its notice is watched, found dead and cleared away."""
    write, world = WRITERS[name]
    for change in (3, 6, 9, 14):
        bucket = world()
        began = bucket.now
        Schedule(bucket, [partial(sweep, bucket), partial(as_a_process, write, bucket)], {0: kill_at}).run(
            [(change, 1)]
        )
        assert bucket.now - began < timedelta(seconds=2 * NOTICE_LIFE)
        check(bucket)


@pytest.mark.parametrize("kill_at", range(1, 16, 2))
@pytest.mark.parametrize("name", WRITERS)
def test_a_run_that_was_killed_finds_what_it_had_found(name: str, kill_at: int) -> None:
    """Until its claims are as old as anything else that goes."""
    write, world = WRITERS[name]
    bucket = world()
    Schedule(bucket, [lambda: write(bucket.store())], {0: kill_at}).run([])
    quiet(bucket)
    claimed = any(key.startswith("claims/") for key in bucket.content)
    bucket.now += 5 * DAY
    bucket.write("watch/hub.json", b"{}")
    sweep(bucket)
    assert BLOB in bucket.content or not claimed
    assert write(bucket.store()) is NEW
    check(bucket)


class Hasty(Claims):
    """One that does not look for notices."""

    def wait(self, names: object) -> None:
        pass


class Silent(Claims):
    """One that writes no claim."""

    def claim(self, names: object) -> None:
        pass


@pytest.mark.parametrize("claims", [Hasty, Silent])
def test_each_half_of_the_rule_is_needed(claims: type[Claims]) -> None:
    """And these tests see when one is missing."""
    refused = 0
    for first in (0, 1):
        for changes in orders(20, 2, 2, first):
            bucket = old_orphan()

            def write(bucket: MemoryBucket = bucket) -> None:
                commit(Store(bucket, claims(bucket, clock=bucket.seconds, sleep=bucket.sleep)))

            try:
                Schedule(bucket, [write, lambda bucket=bucket: sweep(bucket)]).run(changes, first)
                check(bucket)
            except (BadInput, AssertionError):
                refused += 1
    assert refused > 0


def test_what_was_young_is_claimed_before_it_is_old() -> None:
    """A run of days stores a blob on the first one and names it on the last; sweeps come daily."""
    bucket = MemoryBucket()
    store = bucket.store()
    store.put_bytes(CONTENT)
    for number in range(40):
        bucket.now += timedelta(hours=6)
        store.put_bytes(f"shard {number}".encode())
        Sweep(bucket, lambda: nothing, older=DAY, clock=bucket.seconds, sleep=bucket.sleep).run(delete=True)
    store.commit(NEW)
    assert bucket.store().find(NEW.kind, NEW.fingerprint) == NEW


def test_nothing_is_written_beside_what_is_young() -> None:
    """The everyday run pays for none of this."""
    bucket = MemoryBucket()
    commit(bucket.store())
    commit(bucket.store())
    assert {key.partition("/")[0] for key in bucket.content} == {"blobs", "artifacts"}


def test_a_notice_of_another_version_is_waited_for() -> None:
    bucket = old_orphan()
    bucket.write("notices/1.json", b"\x00")
    began = bucket.now
    commit(bucket.store())
    assert bucket.now - began >= timedelta(seconds=NOTICE_LIFE)
    assert "notices/1.json" not in bucket.content


def test_a_store_that_may_only_be_read_is_read() -> None:
    """Loading an old artifact claims it where that is allowed."""
    bucket = old_artifact()

    def refuse(operation: str, key: str) -> None:
        if operation == "write":
            raise BadInput(f"writing {key}: AccessDenied")

    bucket.step = refuse
    assert bucket.store().load(OLD.ref) == OLD
