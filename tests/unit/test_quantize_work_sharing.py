"""Dealing groups to workers: fair, complete, and again when a worker dies or lags."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from containers.errors import BadInput, StepFailed, Temporary
from containers.work_sharing import Dealer, Workers

if TYPE_CHECKING:
    import random
    from collections.abc import Callable


def nothing(paths):
    return ()


def test_first_lists_are_fair():
    """Two workers and eight groups of one size: four each."""
    dealer = Dealer({f"{at}": 100 for at in range(8)}, 2)
    first, second = dealer.deal(0, nothing), dealer.deal(1, nothing)
    assert len(first) == len(second) == 4
    assert set(first) | set(second) == {f"{at}" for at in range(8)}


def test_large_groups_are_spread():
    """Nobody gets both large ones."""
    dealer = Dealer({"a": 100, "b": 100, "c": 10, "d": 10}, 2)
    assert sum(name in "ab" for name in dealer.deal(0, nothing)) == 1


def test_what_a_dead_worker_left_goes_to_another():
    """Only what is not in the store."""
    dealer = Dealer({f"{at}": 1 for at in range(8)}, 2)
    mine, _ = dealer.deal(0, nothing), dealer.deal(1, nothing)
    dealer.died(0, mine[:1])
    assert sorted(dealer.deal(0, nothing)) == sorted(mine[1:])


def test_an_idle_worker_takes_half_of_what_a_slow_one_has_left():
    """From its end, and never the last one, which the slow worker has in hand."""
    dealer = Dealer({f"{at}": 1 for at in range(8)}, 2)
    slow = dealer.deal(0, nothing)
    dealer.deal(1, nothing)
    dealer.finished(1)
    assert dealer.deal(1, lambda paths: slow[:1]) == slow[3:]
    dealer.finished(1)
    assert dealer.deal(1, lambda paths: [*slow[:2], slow[3]]) == []


def test_groups_that_are_not_worth_a_start_stay_where_they_are():
    """Whoever deals knows what a start costs."""
    asked = []
    dealer = Dealer({f"{at}": 1 for at in range(8)}, 2, worth=lambda paths: asked.append(paths) or len(paths) > 2)
    slow = dealer.deal(0, nothing)
    dealer.deal(1, nothing)
    dealer.finished(1)
    assert dealer.deal(1, nothing) == []
    assert asked == [slow[2:]]
    assert dealer.hands[0] == slow


def test_a_group_that_kills_its_workers_is_given_up():
    """The third time; the others went on meanwhile."""
    dealer = Dealer({"bad": 1}, 1)
    for _ in range(2):
        dealer.deal(0, nothing)
        dealer.died(0, ())
    dealer.deal(0, nothing)
    with pytest.raises(Temporary, match="bad"):
        dealer.died(0, ())


@given(
    st.dictionaries(st.text(min_size=1, max_size=4), st.integers(1, 1000), min_size=1, max_size=30),
    st.integers(1, 6),
    st.randoms(),
)
def test_every_group_is_done_whatever_happens(sizes, workers, fate: random.Random):
    """Workers end well, die with a part of their list, or lag, in any order."""
    dealer = Dealer(sizes, workers)
    store: set[str] = set()

    def stored(paths):
        return store.intersection(paths)

    deaths = 0
    hands: dict[int, list[str]] = {}
    for _ in range(2000):
        for worker in range(workers):
            if worker not in hands:
                hand = dealer.deal(worker, stored)
                if hand:
                    hands[worker] = list(hand)
        if not hands:
            break
        worker = fate.choice(sorted(hands))
        hand = hands.pop(worker)
        if deaths < 2 and fate.random() < 0.5:
            deaths += 1
            store.update(hand[: fate.randint(0, len(hand) - 1)])
            dealer.died(worker, store & set(dealer.hands[worker]))
        else:
            store.update(hand)
            dealer.finished(worker)
    assert store == sizes.keys()


@dataclass
class Team:
    """Plays the workers: each does one group a look, and `fate` may end it before."""

    fate: Callable[[One], None] = lambda one: None
    store: set[str] = field(default_factory=set)
    started: list[One] = field(default_factory=list)
    lost: list[tuple[int, str]] = field(default_factory=list)

    def workers(self, groups: int, workers: int) -> Workers[One]:
        dealer = Dealer({f"{at}": 1 for at in range(groups)}, workers)
        return Workers(
            dealer,
            self.start,
            self.store.intersection,
            self.hear_of_loss,
            final=(BadInput.exit_code,),
        )

    def run(self, groups: int, workers: int) -> None:
        with self.workers(groups, workers) as at_work:
            while at_work.poll():
                pass

    def hear_of_loss(self, number, error):
        assert [one for one in self.started if one.number == number][-1].ended, (
            "its groups are dealt out while it works"
        )
        self.lost.append((number, error.message))

    def start(self, number, dealt):
        self.started.append(One(self, number, list(dealt)))
        return self.started[-1]


@dataclass
class One:
    team: Team
    number: int
    left: list[str]
    ended: int = 0

    def poll(self):
        self.team.fate(self)
        if not self.left:
            return "done"
        self.team.store.add(self.left.pop(0))
        return None

    def end(self):
        self.ended += 1


def test_workers_are_watched_until_every_group_is_done():
    """Each is ended once, and nobody is started when nothing is left."""
    team = Team()
    team.run(8, 2)
    assert team.store == {f"{at}" for at in range(8)}
    assert [one.ended for one in team.started] == [1, 1]
    assert team.lost == []


def test_what_a_worker_that_failed_had_left_is_done_by_another():
    """Once it is ended for certain."""

    def fail(one):
        if one is team.started[0] and len(one.left) == 2:
            raise StepFailed("quantize", 75, "gone")

    team = Team(fail)
    team.run(8, 2)
    assert team.lost == [(0, "gone")]
    assert team.store == {f"{at}" for at in range(8)}
    assert all(one.ended == 1 for one in team.started)


def test_without_room_nobody_is_started():
    """Not even when groups wait."""
    team = Team()
    with team.workers(8, 2) as workers:
        assert not workers.poll(full=True)
        assert team.started == []
        assert workers.poll()
        assert len(team.started) == 2


def test_a_final_error_is_raised_at_once_and_all_are_ended_together():
    """None waits for another's end: here each ends only when all have been told to."""

    def refuse(one):
        raise BadInput("the tensor is bad")

    told = threading.Barrier(3, timeout=10)

    def end(one):
        told.wait()
        one.ended += 1

    team = Team(refuse)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(One, "end", end)
        with pytest.raises(BadInput, match="the tensor is bad"), team.workers(8, 3) as workers:
            workers.poll()
    assert [one.ended for one in team.started] == [1, 1, 1]
    assert team.lost == []


def test_workers_that_keep_failing_are_given_up_with_the_last_reason():
    """The cause says what became of the last one."""

    def fail(one):
        raise StepFailed("quantize", 75, "gone")

    team = Team(fail)
    with pytest.raises(Temporary, match="3 workers ended") as caught:
        team.run(1, 1)
    assert str(caught.value.__cause__) == "gone"
    assert len(team.lost) == 3
