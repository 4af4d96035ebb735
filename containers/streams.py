"""Where bytes come from: a file, a blob of the store, an answer."""

from __future__ import annotations

from typing import Protocol


class Stream(Protocol):
    """Bytes in order. `read` may return fewer than asked for, and nothing only at the end."""

    def read(self, size: int = -1, /) -> bytes: ...


class OpenStream(Stream, Protocol):
    """One that has to be closed."""

    def close(self) -> None: ...
