"""Nightly rebuilds, kills, pins and sweeps in any order: nothing that is needed goes, and nothing stays for ever."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from containers.store.sweep import Sweep
from flows.retention import pins
from flows.retention.roots import Roots
from tests.support.memory_bucket import MemoryBucket
from tests.support.nightly import SHARD, Model, Run

if TYPE_CHECKING:
    from collections.abc import Generator
    from datetime import datetime

    from containers.contract import ArtifactRef
    from containers.store import Swept

DAY = timedelta(days=1)


class Nights(RuleBasedStateMachine):
    """`used` says when each key was last written or counted on: what a sweep may not take before it is old.

    `forgotten` are those whose claims a sweep may have dropped, by an age that may be shorter than the next sweep's.
    A look counts on what it finds, whoever looks. A read does so in a run alone: who searches all manifests for what he is
    to pin reads every one of them, and needs none but that.
    """

    def __init__(self) -> None:
        super().__init__()
        self.bucket = MemoryBucket()
        self.models = [Model("small", [0, 0]), Model("large", [0, 0, 0])]
        self.running: list[tuple[Run, Generator[str, None, None]]] = []
        self.shipped: dict[str, tuple[ArtifactRef, ...]] = {}
        self.pinned: dict[str, tuple[ArtifactRef, ...]] = {}
        self.used: dict[str, datetime] = {}
        self.forgotten: set[str] = set()
        self.at_work: Run | None = None
        self.bucket.step = self._note

    def _note(self, operation: str, key: str) -> None:
        uses = {"write", "look"} if self.at_work is None else {"write", "look", "read"}
        if operation in uses and key.startswith(("blobs/", "artifacts/")):
            self.used[key] = self.bucket.now
            self.forgotten.discard(key)
            if self.at_work is not None:
                self.at_work.touched.add(key)

    @rule(hours=st.sampled_from([1, 11, 24, 24 * 4]))
    def time_passes(self, hours: int) -> None:
        """And living processes see to their claims."""
        for _ in range(hours):
            self.bucket.now += timedelta(hours=1)
            for run, _going in self.running:
                for claims in run.alive:
                    claims.renew()

    @rule(model=st.integers(0, 1), shard=st.integers(0, 2))
    def somebody_releases(self, model: int, shard: int) -> None:
        self.models[model].change(shard)

    @precondition(lambda self: len(self.running) < 2)
    @rule(model=st.integers(0, 1))
    def a_run_starts(self, model: int) -> None:
        run = Run(self.bucket, self.models[model])
        self.running.append((run, run.steps()))

    @precondition(lambda self: self.running)
    @rule(which=st.integers(0, 1), steps=st.integers(1, 12))
    def a_run_goes_on(self, which: int, steps: int) -> None:
        run, going = self.running[which % len(self.running)]
        self.at_work = run
        ended = any(next(going, None) is None for _ in range(steps))
        self.at_work = None
        if ended:
            assert run.shipped is not None
            self.shipped[run.model.name] = run.shipped.artifacts
            self._end(run, going)

    @precondition(lambda self: self.running)
    @rule(which=st.integers(0, 1))
    def a_run_is_killed(self, which: int) -> None:
        self._end(*self.running[which % len(self.running)])

    def _end(self, run: Run, going: Generator[str, None, None]) -> None:
        """Until now its processes have kept what they had touched."""
        going.close()
        self.running.remove((run, going))
        self.used |= dict.fromkeys(run.touched, self.bucket.now)
        self.forgotten -= run.touched

    @precondition(lambda self: self.shipped)
    @rule(which=st.integers(0, 20))
    def somebody_pins(self, which: int) -> None:
        refs = [ref for refs in self.shipped.values() for ref in refs]
        made = pins.pin(self.bucket.store(), refs[which % len(refs)].fingerprint)
        self.pinned[made.name] = made.artifacts

    @precondition(lambda self: self.pinned)
    @rule()
    def somebody_unpins(self) -> None:
        name, _ = self.pinned.popitem()
        pins.unpin(self.bucket.store(), name)

    @rule(days=st.sampled_from([1, 3, 7]), keep=st.sampled_from([None, None, 0, 3 * SHARD]))
    def a_sweep(self, days: int, keep: int | None) -> None:
        older = days * DAY
        before, used = dict(self.bucket.content), dict(self.used)
        swept = self._sweep(older, keep)
        assert swept.before == sum(len(one) for key, one in before.items() if key.startswith("blobs/"))
        assert self.bucket.blob_bytes >= swept.after or keep is not None
        gone = before.keys() - self.bucket.content.keys()
        promised = older - DAY / 2 if keep is None else DAY / 2  # at least, from the last use on
        kept_from = {key: at for key, at in used.items() if key not in self.forgotten}
        assert not {key for key in gone & kept_from.keys() if swept.until and swept.until - kept_from[key] < promised}
        if swept.until is not None:
            if keep is None:
                self._check_that_the_rest_is_justified(older, swept.until, used)
            self.forgotten |= {key for key, at in used.items() if swept.until - at >= older - DAY / 2}
        assert not [key for key in self.bucket.content if key.startswith("notices/")]

    def _sweep(self, older: timedelta, keep: int | None) -> Swept:
        self.bucket.step = lambda operation, key: None  # a sweep's own looks are no use
        store = self.bucket.store()
        one = Sweep(
            self.bucket,
            lambda: Roots(store),
            older=older,
            keep_bytes=keep,
            clock=self.bucket.seconds,
            sleep=self.bucket.sleep,
        )
        swept = one.run(delete=True)
        self.bucket.step = self._note
        return swept

    def _check_that_the_rest_is_justified(self, older: timedelta, until: datetime, used: dict[str, datetime]) -> None:
        """Every blob is of what is shipped, pinned, or was used within the age."""
        named: dict[str, list[str]] = {}
        for key, content in self.bucket.content.items():
            if key.startswith("artifacts/"):
                named[key] = [f"blobs/{one['sha256'].replace(':', '/')}" for one in json.loads(content)["files"]]
        needed = {_key(ref) for refs in (*self.shipped.values(), *self.pinned.values()) for ref in refs}
        needed |= {key for run, _ in self.running for key in run.touched}
        for key, blobs in sorted(named.items()):
            if key in needed or until - used[key] < older:
                needed |= {key, *blobs}
        for key in self.bucket.content:
            assert not key.startswith("blobs/") or key in needed or until - used[key] < older

    @invariant()
    def what_is_needed_is_whole(self) -> None:
        """Looked at from the side: a look of the store's would count on it."""
        running = [run.found for run, _ in self.running]
        for refs in (*self.shipped.values(), *self.pinned.values(), *running):
            for ref in refs:
                assert _key(ref) in self.bucket.content, ref
        for key, content in list(self.bucket.content.items()):
            if key.startswith("artifacts/"):
                for entry in json.loads(content)["files"]:
                    assert f"blobs/{entry['sha256'].replace(':', '/')}" in self.bucket.content, (key, entry)


def _key(ref: ArtifactRef) -> str:
    return f"artifacts/{ref.kind}/{ref.fingerprint}.json"


def test_a_search_for_what_is_to_be_pinned_keeps_nothing_else() -> None:
    """A walk's own example: what a killed run has left goes a day after that, though a pin's search has read it since."""
    nights = Nights()
    nights.a_run_starts(model=0)
    nights.time_passes(hours=1)
    nights.a_run_starts(model=0)
    nights.a_run_goes_on(which=0, steps=3)
    left = [key for key in nights.bucket.content if key.startswith("artifacts/")]
    assert [key.split("/")[1] for key in left] == ["checkpoint", "group"]
    nights.somebody_releases(model=0, shard=0)
    nights.a_run_is_killed(which=0)
    nights.time_passes(hours=24)
    nights.a_run_goes_on(which=0, steps=9)
    nights.somebody_pins(which=0)
    nights.a_sweep(days=1, keep=None)
    nights.what_is_needed_is_whole()
    assert not [key for key in left if key in nights.bucket.content]
    pinned = {_key(ref) for refs in nights.pinned.values() for ref in refs}
    assert pinned
    assert pinned.isdisjoint(left)
    assert pinned < nights.bucket.content.keys()


def test_a_sweep_forgets_claims_by_the_age_that_it_was_given() -> None:
    """A walk's own example: the next sweep, told to keep things longer, cannot know of them."""
    nights = Nights()
    nights.a_run_starts(model=1)
    nights.a_run_goes_on(which=0, steps=4)
    (source,) = [key for key in nights.bucket.content if key.startswith("artifacts/checkpoint/")]
    nights.time_passes(hours=24 * 4 + 1)
    nights.a_run_goes_on(which=0, steps=7)
    nights.time_passes(hours=24)
    nights.a_run_starts(model=0)
    nights.a_run_goes_on(which=0, steps=10)
    nights.a_sweep(days=1, keep=None)
    assert source in nights.bucket.content, "it is shipped"
    nights.somebody_releases(model=1, shard=0)
    nights.a_run_starts(model=1)
    nights.a_run_goes_on(which=0, steps=12)
    nights.a_sweep(days=3, keep=None)
    assert source not in nights.bucket.content
    nights.what_is_needed_is_whole()


def test_a_random_walk() -> None:
    run_state_machine_as_test(Nights, settings=settings(max_examples=60, stateful_step_count=40, deadline=None))


@pytest.mark.campaign
@pytest.mark.timeout(7200)
def test_a_long_random_walk() -> None:
    slow = settings(
        max_examples=3000,
        stateful_step_count=120,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        derandomize=False,
    )
    run_state_machine_as_test(Nights, settings=slow)
