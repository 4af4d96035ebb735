"""A bucket in memory whose clock is set by hand, and stores on it that wait on that clock."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from containers.store import Store
from containers.store.claims import Claims
from containers.store.client import Listed, Seen

if TYPE_CHECKING:
    from collections.abc import Callable

BEGINNING = datetime(2020, 1, 1, tzinfo=UTC)  # long before any clock of a machine that runs this


class MemoryBucket:
    """As `containers.store.client.Bucket`. `step` is called before every operation, with its name and the key."""

    name = "memory"
    settle = 0.0

    def __init__(self) -> None:
        self.content: dict[str, bytes] = {}
        self.written: dict[str, datetime] = {}
        self.now = BEGINNING
        self.retries = False  # whether the answer to every deletion is lost, and the client sends it again
        self.conditions = True  # whether it knows conditional writes
        self.step: Callable[[str, str], None] = lambda operation, key: None

    def size(self, key: str) -> int | None:
        seen = self.look(key)
        return None if seen is None else seen.size

    def look(self, key: str) -> Seen | None:
        self.step("look", key)
        if key not in self.content:
            return None
        return Seen(len(self.content[key]), self.written[key], self.now - self.written[key])

    def read(self, key: str) -> bytes | None:
        self.step("read", key)
        return self.content.get(key)

    def write(self, key: str, content: bytes) -> None:
        self.step("write", key)
        self.content[key] = content
        self.written[key] = self.now

    def write_new(self, key: str, content: bytes) -> bool:
        if self.conditions and key in self.content:
            return False
        self.step("write", key)
        self.content[key] = content
        self.written[key] = self.now
        return True

    def delete(self, key: str) -> None:
        self.step("delete", key)
        self.content.pop(key, None)
        if self.retries:
            self.step("delete again", key)
            self.content.pop(key, None)

    def listing(self, prefix: str) -> list[Listed]:
        self.step("list", prefix)
        keys = [key for key in self.content if key.startswith(prefix)]
        return [Listed(key, len(self.content[key]), self.written[key]) for key in keys]

    def seconds(self) -> float:
        return (self.now - BEGINNING).total_seconds()

    def sleep(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)

    def store(self) -> Store:
        """The store as one more process opens it."""
        return self.process()[0]

    def process(self) -> tuple[Store, Claims]:
        """A store, and what its process renews while it lives."""
        claims = Claims(self, clock=self.seconds, sleep=self.sleep)
        return Store(self, claims), claims

    @property
    def blob_bytes(self) -> int:
        return sum(len(content) for key, content in self.content.items() if key.startswith("blobs/"))
