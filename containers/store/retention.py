"""Which artifacts of a store stay and which go: rules alone, nothing here reads a store.

An artifact stays that is needed (shipped, pinned), that a run counts on, or that is younger than `older`. A quantized shard
also stays while a checkpoint that stays holds it. With `keep_bytes` artifacts that nobody needs go before their time, the
oldest first, until no more than that is left; never what is younger than a day.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from containers.contract import Kind
from containers.store.catalog import manifest_key
from containers.store.claims import YOUTH

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable
    from datetime import datetime, timedelta


@dataclass(frozen=True)
class Artifact:
    """A manifest in short: `blobs` are (digest, bytes), each once; `why` says why it is needed, or why it goes."""

    kind: Kind
    fingerprint: str
    modified: datetime
    name: str
    blobs: tuple[tuple[bytes, int], ...]
    why: str = ""

    @property
    def key(self) -> str:
        return manifest_key(self.kind, self.fingerprint)


def digests(artifacts: Iterable[Artifact]) -> set[bytes]:
    return {digest for one in artifacts for digest, _ in one.blobs}


def decide(
    artifacts: Iterable[Artifact],
    claimed: Collection[str],
    *,
    until: datetime,
    older: timedelta,
    keep_bytes: int | None = None,
) -> tuple[list[Artifact], list[Artifact]]:
    """Those that stay and those that go. `claimed` are the keys that runs count on; ages are counted to `until`."""
    kept: list[Artifact] = []
    going: list[Artifact] = []
    shards: list[Artifact] = []
    for one in artifacts:
        if one.why or one.key in claimed:
            kept.append(replace(one, why=one.why or "a run counts on it"))
        elif one.kind is Kind.GROUP:
            shards.append(one)
        elif until - one.modified < older:
            kept.append(one)
        else:
            going.append(replace(one, why="nothing needs it"))
    held = digests(kept)
    parts = [one for one in shards if digests([one]) <= held]  # of checkpoints that stay, and stay with them
    for one in shards:
        if not digests([one]) <= held:
            young = until - one.modified < older
            (kept if young else going).append(one if young else replace(one, why="no checkpoint holds it"))
    if keep_bytes is not None:
        kept, out = _make_room(kept, until, keep_bytes)
        held = digests(kept)
        out += [one for one in parts if not digests([one]) <= held and until - one.modified >= YOUTH]
        going += [replace(one, why="more than is to be kept") for one in out]
    gone = {one.key for one in going}
    return [*kept, *(one for one in parts if one.key not in gone)], going


def _make_room(kept: list[Artifact], until: datetime, keep_bytes: int) -> tuple[list[Artifact], list[Artifact]]:
    """The same artifacts, without the oldest ones that nobody needs, and those."""
    users: dict[bytes, int] = {}
    sizes: dict[bytes, int] = {}
    for one in kept:
        for digest, size in one.blobs:
            users[digest], sizes[digest] = users.get(digest, 0) + 1, size
    total, out = sum(sizes.values()), []
    free = [one for one in kept if not one.why and until - one.modified >= YOUTH]
    for one in sorted(free, key=lambda one: (one.modified, one.key)):
        if total <= keep_bytes:
            break
        out.append(one)
        for digest, size in one.blobs:
            users[digest] -= 1
            total -= 0 if users[digest] else size
    gone = {one.key for one in out}
    return [one for one in kept if one.key not in gone], out
