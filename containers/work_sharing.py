"""Who does which group: lists for workers, and what becomes of the list of one that died or is slow.

`Dealer` decides, `Workers` starts and watches them. What a worker is, a process or a child run, only its caller knows.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Generic, Protocol, Self, TypeVar

from containers.errors import Error, Temporary

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


class Worker(Protocol):
    """One that was started with a list."""

    def poll(self) -> object | None:
        """None while it works, anything else once its list is done. Raises the error that it ended with."""
        ...

    def end(self) -> None:
        """Stop it if it still works, and clear up after it."""
        ...


W = TypeVar("W", bound=Worker)


@dataclass
class Workers(Generic[W]):
    """Starts workers with what is dealt to them and watches them; after the block none is left.

    `start` gets a worker's number and its list, `stored` says which of some groups are done, `finished` is called with a worker
    before its list is struck off, `lost` of one whose groups go to the others. An error whose exit code is in `final` ends
    all of them.
    """

    dealer: Dealer
    start: Callable[[int, list[str]], W]
    stored: Callable[[Collection[str]], Collection[str]]
    lost: Callable[[int, Error], None]
    final: Collection[int]
    finished: Callable[[int, W], None] = lambda number, worker: None
    working: dict[int, W] = field(init=False, default_factory=dict)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        # All at once: each may take its time to end, and none should work on meanwhile.
        with ThreadPoolExecutor(len(self.working) or 1, thread_name_prefix="end") as pool:
            list(pool.map(lambda worker: worker.end(), self.working.values()))

    def poll(self, *, full: bool = False) -> bool:
        """Start whoever is idle, unless there is no room, and poll each once; False when every group is done.

        Raises a final error of a worker, and Temporary when workers keep dying.
        """
        for number in range(self.dealer.workers) if not full else ():
            if number not in self.working and (dealt := self.dealer.deal(number, self.stored)):
                self.working[number] = self.start(number, dealt)
        if not self.working:
            return False
        for number, worker in list(self.working.items()):
            self._check(number, worker)
        return True

    def _check(self, number: int, worker: W) -> None:
        try:
            if worker.poll() is None:
                return
        except Error as error:
            if error.exit_code in self.final:
                raise
            self.working.pop(number).end()
            self.lost(number, error)
            try:
                self.dealer.died(number, self.stored(self.dealer.hands[number]))
            except Error as hopeless:
                raise hopeless from error
        else:
            self.working.pop(number).end()
            self.finished(number, worker)
            self.dealer.finished(number)
