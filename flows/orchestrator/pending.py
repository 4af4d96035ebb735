"""Work whose result is needed later: done beside other work of the run, or when it is asked for."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from contextvars import copy_context
from typing import TYPE_CHECKING, Final, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

T = TypeVar("T")
_PATIENCE: Final = 15.0  # seconds for stopped work to end before the run goes on failing without it


class Pending(Generic[T]):
    """`beside` says whether it runs beside other work. Use it as `with pending.beginning(now=...)`."""

    def __init__(self, work: Callable[[], T]) -> None:
        self.beside = False
        self._work = work
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()
        self._stopped = False
        self._ends: list[Callable[[], None]] = []
        self._results: list[T] = []
        self._error: BaseException | None = None

    @contextmanager
    def beginning(self, *, now: bool) -> Iterator[None]:
        """With `now` the work begins, in the context of the caller. It is stopped if the block fails."""
        if now:
            self.beside = True
            # A daemon: a run that fails or is interrupted ends without it, and its steps end with the process.
            self._thread = threading.Thread(target=copy_context().run, args=(self._run,), daemon=True, name="pending")
            self._thread.start()
        try:
            yield
        except BaseException:
            self._stop()
            raise

    def ensure(self) -> None:
        """Do the work now unless it has begun."""
        if not self.beside and not self._results:
            self._results.append(self._work())

    def result(self) -> T:
        """The result of the work, which is done now if it has not begun; raises its error."""
        self.ensure()
        if self._thread is not None:
            self._thread.join()
        if self._error is not None:
            raise self._error
        return self._results[0]

    def on_stop(self, end: Callable[[], None]) -> None:
        """Call this if the work is to be stopped; at once if it already is. For use by the work itself."""
        with self._lock:
            if not self._stopped:
                self._ends.append(end)
                return
        end()

    def _run(self) -> None:
        try:
            self._results.append(self._work())
        except BaseException as error:  # noqa: BLE001 - raised again by `result`
            self._error = error

    def _stop(self) -> None:
        with self._lock:
            self._stopped = True
            ends = list(self._ends)
        for end in ends:
            end()
        if self._thread is not None:
            self._thread.join(_PATIENCE)
