"""Limits of time: a deadline for a whole answer, and a least rate for files of any size.

The clients' own timeouts bound the silence between two bytes, so a server that sends one byte a minute, or one interim answer
(1xx) after the other, holds them for ever. Here every read and write on the network is bounded by the `Watch` of the exchange
it belongs to.

httpx hands no network backend on to httpcore, which has a parameter for it (`httpcore.ConnectionPool(network_backend=)`), so
`guard` puts ours into the pools of a client that was made. It works on httpx and on httpx2, the hub's client, alike.
"""

from __future__ import annotations

import math
import time
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from containers.errors import Temporary
from containers.events import amount

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_LEAST: Final = 0.001  # seconds: a timeout of 0 would mean "do not block"
_PIECE: Final = 64 << 10  # bytes written in one go, so that a slow reader is noticed
_READ: Final = 1 << 20  # bytes: of a fast line the clients' own 64 KiB cost more than the bytes


class TooSlow(Temporary):
    """The other side takes longer than it may, although it is not silent."""


@dataclass
class Watch:
    """Bounds one exchange: by `seconds` in all, and to at least `rate` bytes per second over each `window` seconds.

    Only time spent in network calls counts for the rate: a disk or a store that is slow to take the bytes is not the
    sender's fault.
    """

    who: str
    seconds: float = math.inf
    rate: float = 0.0
    window: float = math.inf
    _ends: float = field(init=False)
    _waited: float = field(init=False, default=0.0)
    _moved: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        self._ends = time.monotonic() + self.seconds
        if self.rate <= 0:
            self.window = math.inf

    def timeout(self, asked: float | None) -> float | None:
        """The timeout of the next network call, in seconds; raises TooSlow when there is no time left."""
        left = self._ends - time.monotonic()
        if left <= 0:
            raise self.too_slow(0.0)
        if self.window < math.inf and self._moved >= self.rate * self.window:
            self._moved, self._waited = 0, 0.0  # this window has what it needs: the next begins
        left = min(left, self.window - self._waited, math.inf if asked is None else asked)
        return None if left == math.inf else max(left, _LEAST)

    def moved(self, size: int, seconds: float) -> None:
        """Count what a network call brought; raises TooSlow at the end of a window with too little."""
        self._moved += size
        self._waited += seconds
        if self._waited < self.window:
            return
        if self._moved < self.rate * self.window:
            raise self.too_slow(0.0)
        self._moved, self._waited = 0, 0.0

    def too_slow(self, seconds: float) -> TooSlow:
        """The error, when the last network call, of so many seconds, brought nothing in the time that was left."""
        if self.window == math.inf or time.monotonic() >= self._ends:
            return TooSlow(f"{self.who} did not finish its answer within {self.seconds:g} s", remedy=_REMEDY)
        return TooSlow(
            f"{self.who} moves {amount(self._moved, 'B')} in {self._waited + seconds:.0f} s, less than "
            f"{amount(self.rate, 'B')} a second",
            remedy=_REMEDY,
        )


_REMEDY: Final = "try again later; CARWRIGHT_HTTP__DEADLINE, __MIN_RATE and __RATE_WINDOW set what is too slow"
_WATCH: ContextVar[Watch | None] = ContextVar("watch", default=None)


@contextmanager
def watched(watch: Watch) -> Iterator[None]:
    """Every network call in the block, by a guarded client in this thread, is bounded by `watch`."""
    before = _WATCH.set(watch)
    try:
        yield
    finally:
        _WATCH.reset(before)


def paced(chunks: Iterable[bytes], watch: Watch) -> Iterator[bytes]:
    """The same chunks; the network calls behind each are bounded by `watch`, what the caller does between them is not."""
    iterator = iter(chunks)
    while True:
        with watched(watch):
            chunk = next(iterator, None)
        if chunk is None:
            return
        yield chunk


def guard(client: Any) -> Any:
    """The same `httpx.Client` or `httpx2.Client`, whose network calls are bounded from now on. Doing it again changes nothing."""
    for transport in (client._transport, *client._mounts.values()):  # noqa: SLF001 - see the module's docstring
        if transport is not None and (pool := getattr(transport, "_pool", None)) is not None:
            inner = pool._network_backend  # noqa: SLF001
            pool._network_backend = inner if isinstance(inner, _Backend) else _Backend(inner)  # noqa: SLF001
    return client


class _Backend:
    """httpcore's NetworkBackend around another one."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def connect_tcp(self, *place: Any, timeout: float | None = None, **more: Any) -> _Stream:
        with _timed(timeout) as (allowed, _):
            return _Stream(self._inner.connect_tcp(*place, timeout=allowed, **more))

    def connect_unix_socket(self, *place: Any, timeout: float | None = None, **more: Any) -> _Stream:
        with _timed(timeout) as (allowed, _):
            return _Stream(self._inner.connect_unix_socket(*place, timeout=allowed, **more))

    def sleep(self, seconds: float) -> None:
        self._inner.sleep(seconds)


class _Stream:
    """httpcore's NetworkStream around another one."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        with _timed(timeout) as (allowed, sizes):
            found = bytes(self._inner.read(max(max_bytes, _READ), timeout=allowed))
            sizes.append(len(found))
            return found

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        for start in range(0, len(buffer), _PIECE):
            piece = buffer[start : start + _PIECE]
            with _timed(timeout) as (allowed, sizes):
                self._inner.write(piece, timeout=allowed)
                sizes.append(len(piece))

    def close(self) -> None:
        self._inner.close()

    def start_tls(self, *how: Any, timeout: float | None = None, **more: Any) -> _Stream:
        with _timed(timeout) as (allowed, _):
            return _Stream(self._inner.start_tls(*how, timeout=allowed, **more))

    def get_extra_info(self, info: str) -> Any:
        return self._inner.get_extra_info(info)


@contextmanager
def _timed(asked: float | None) -> Iterator[tuple[float | None, list[int]]]:
    """The timeout of one network call, and a list that takes the number of bytes that it moved."""
    watch = _WATCH.get()
    sizes: list[int] = []
    if watch is None:
        yield asked, sizes
        return
    started = time.monotonic()
    allowed = watch.timeout(asked)
    try:
        yield allowed, sizes
    except Exception as error:
        # Of either client: what it takes for silence is the end of the time that there was.
        if type(error).__name__.endswith("Timeout") and (asked is None or (allowed or asked) < asked):
            raise watch.too_slow(time.monotonic() - started) from error
        raise
    watch.moved(sum(sizes), time.monotonic() - started)
