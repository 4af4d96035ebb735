"""Who does which group: lists for workers, and what becomes of the list of one that died or is slow. No processes here."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from containers.errors import Temporary

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

_ATTEMPTS: Final = 3  # workers that may die with a group in hand before it is given up


@dataclass
class Dealer:
    """Deals groups (by path) to numbered workers; `sizes` are bytes of work.

    A worker that asks gets a fair part of what nobody has, else half of what the busiest other one has not yet
    finished, from its end: a group that two workers have done is the same bytes, and the second finds it in the store.
    `worth` may say that some groups are not worth the start of a worker; they then stay where they are.
    """

    sizes: Mapping[str, int]
    workers: int
    worth: Callable[[list[str]], bool] = lambda paths: True
    waiting: list[str] = field(init=False)
    hands: dict[int, list[str]] = field(init=False, default_factory=dict)
    _lost: dict[str, int] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self.waiting = sorted(self.sizes, key=lambda path: (-self.sizes[path], path))

    def deal(self, worker: int, done: Callable[[Collection[str]], Collection[str]]) -> list[str]:
        """The next list for an idle worker, empty when nothing is left for it.

        `done` says which of some groups are in the store; it is asked only when there is nothing else to deal.
        """
        if self.waiting:
            idle = self.workers - sum(bool(hand) for other, hand in self.hands.items() if other != worker)
            fair = sum(self.sizes[path] for path in self.waiting) / max(idle, 1)
            taken: list[str] = []
            # Largest first, so that the fair parts come out about even.
            for path in self.waiting[:: max(idle, 1)]:
                if taken and sum(self.sizes[one] for one in taken) + self.sizes[path] > fair * 1.1:
                    break
                taken.append(path)
            self.waiting = [path for path in self.waiting if path not in taken]
            self.hands[worker] = sorted(taken)
            return self.hands[worker]
        busy = {other: hand for other, hand in self.hands.items() if other != worker and hand}
        for other, hand in sorted(busy.items(), key=lambda item: -len(item[1])):
            finished = done(hand)
            left = [path for path in hand if path not in finished]
            self.hands[other] = left
            half = left[(len(left) + 1) // 2 :]
            if half and self.worth(half):
                self.hands[worker] = half
                return half
        return []

    def finished(self, worker: int) -> None:
        """The worker has done its whole list."""
        self.hands[worker] = []

    def died(self, worker: int, done: Collection[str]) -> None:
        """Take back what a dead worker had not finished; raises Temporary for a group that kills whoever takes it."""
        left = [path for path in self.hands.get(worker, []) if path not in done]
        self.hands[worker] = []
        for path in left:
            self._lost[path] = self._lost.get(path, 0) + 1
        hopeless = [path for path in left if self._lost[path] >= _ATTEMPTS]
        if hopeless:
            raise Temporary(
                f"{_ATTEMPTS} workers ended while they had {hopeless[0]}",
                remedy="look for the reason in the log (memory?); finished shards are kept",
            )
        self.waiting += [path for path in left if path not in self.waiting]
