"""Clocks that are set, far ahead or back, while something runs: nothing ends that goes on, and nothing waits for ever."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from containers.contract import Kind
from containers.errors import BadInput
from containers.heartbeat import LEASE_KEPT, LeaseWatch
from containers.store import FileEntry, Manifest, Store
from containers.store.sweep import Sweep
from flows.watching import outcome
from flows.watching.records import Attempt
from tests.support.memory_bucket import BEGINNING, MemoryBucket

if TYPE_CHECKING:
    from pathlib import Path

YEARS = 1000 * timedelta(days=1)
NOW = 1.7e9  # what the machine's clock showed when a lease was first renewed


class Lease:
    """A lease, the steady clock of who watches it, and a clock of the machine that can be set."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "lease"
        self.path.touch()
        self.steady, self.wall = 0.0, NOW
        self.renew()
        self.watch = LeaseWatch(self.path, 60, lambda: self.steady)

    def renew(self) -> None:
        os.utime(self.path, (self.wall, self.wall))

    def over_after(self, seconds: float) -> bool:
        self.steady += seconds
        self.wall += seconds
        return self.watch.over


@pytest.fixture
def lease(tmp_path: Path) -> Lease:
    return Lease(tmp_path)


def test_a_lease_lasts_from_its_last_renewal(lease: Lease) -> None:
    assert [lease.over_after(59), lease.over_after(59)] == [False, False]  # the first look is where it begins
    lease.renew()
    assert [lease.over_after(1), lease.over_after(60), lease.over_after(1)] == [False, False, True]


@pytest.mark.parametrize("jump", [-1e8, -30.0, 3600.0, 1e8])
def test_a_lease_that_is_renewed_outlives_a_jump_and_one_that_is_not_ends_after_it(lease: Lease, jump: float) -> None:
    assert not lease.over_after(1)
    lease.wall += jump
    assert not lease.over_after(9)
    for _ in range(20):
        lease.renew()
        assert not lease.over_after(10)
    lease.wall -= jump
    assert not lease.over_after(40)
    assert lease.over_after(21)


def test_a_lease_that_is_gone_is_over_and_one_that_is_kept_or_absent_never_is(lease: Lease) -> None:
    assert not LeaseWatch(None, 1, lambda: 1e9).over
    os.utime(lease.path, (LEASE_KEPT, LEASE_KEPT))
    assert not any(lease.over_after(1e6) for _ in range(3))
    # As an engine may write it, and a file system whose times end in 2038.
    for kept in (LEASE_KEPT - 14 * 3600, LEASE_KEPT + 14 * 3600, 2**31 - 1):
        os.utime(lease.path, (kept, kept))
        assert not any(lease.over_after(1e6) for _ in range(3))
    lease.path.unlink()
    assert lease.over_after(0)


def sweep(bucket: MemoryBucket) -> None:
    bucket.write("watch/hub.json", b"{}")  # something happens in the store
    older = timedelta(days=7)
    Sweep(bucket, lambda: lambda _: "", older=older, clock=bucket.seconds, sleep=bucket.sleep).run(delete=True)


def put(store: Store) -> FileEntry:
    return FileEntry(path="shard", size=4, sha256=store.put_bytes(b"blob"))


def manifest(entry: FileEntry) -> Manifest:
    return Manifest(kind=Kind.CHECKPOINT, fingerprint="0" * 64, files=(entry,))


@pytest.mark.parametrize("jump", [YEARS, -YEARS])
def test_what_a_run_counts_on_outlives_a_sweep_whatever_date_it_has(jump: timedelta) -> None:
    """It was written while the clock was wrong, and a run finds it when the clock is right again."""
    bucket = MemoryBucket()
    made = manifest(put(bucket.store()))
    bucket.store().commit(made)
    bucket.content = {key: value for key, value in bucket.content.items() if not key.startswith("claims/")}
    bucket.written = dict.fromkeys(bucket.content, BEGINNING + jump)
    store = bucket.store()
    assert store.find(made.kind, made.fingerprint) == made
    sweep(bucket)
    assert store.find(made.kind, made.fingerprint) == made


def test_a_blob_that_a_wrong_clock_made_old_is_missed_and_made_again() -> None:
    """A sweep may take it before its artifact is named; nothing is published that has a hole, and the next run does well."""
    bucket = MemoryBucket()
    store = bucket.store()
    entry = put(store)
    bucket.written[f"blobs/sha256/{entry.sha256.hex}"] = BEGINNING - YEARS
    sweep(bucket)
    with pytest.raises(BadInput, match="are not in the store"):
        store.commit(manifest(entry))
    again = bucket.store()
    assert again.commit(manifest(put(again))) == manifest(entry).ref


@pytest.mark.parametrize("jump", [YEARS, -YEARS])
def test_a_store_is_swept_again_once_the_clock_is_right(jump: timedelta) -> None:
    """Signs that a wrong clock has dated neither make anything old nor keep it from ageing."""
    bucket = MemoryBucket()
    old, young = bucket.store(), bucket.store()
    old.put_bytes(b"nobody's")
    bucket.now += jump
    sweep(bucket)
    bucket.now -= jump
    bucket.now += timedelta(days=8)
    kept = put(young)
    sweep(bucket)
    blobs = {key for key in bucket.content if key.startswith("blobs/")}
    assert blobs == {f"blobs/sha256/{kept.sha256.hex}"}


@pytest.mark.parametrize(("ago", "taken"), [(timedelta(minutes=1), True), (YEARS, False), (-YEARS, False)])
def test_a_run_that_began_in_the_future_takes_nothing_away(ago: timedelta, taken: bool) -> None:
    attempt = Attempt(change="c", state="started", at=datetime.now(UTC) - ago, run="another")
    assert outcome._taken(attempt) is taken
