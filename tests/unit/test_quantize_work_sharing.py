"""Dealing groups to workers: fair, complete, and again when a worker dies or lags."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from containers.errors import Temporary
from containers.work_sharing import Dealer

if TYPE_CHECKING:
    import random


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
