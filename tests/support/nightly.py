"""Nightly rebuilds on a store in memory: what each step of the chain does to a store, with tiny models."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from containers.contract import ArtifactRef, Kind
from containers.digest import Digest
from containers.store import FileEntry, Manifest
from flows.watching import records
from flows.watching.records import ShipRecord

if TYPE_CHECKING:
    from collections.abc import Generator

    from containers.store import Store
    from containers.store.claims import Claims
    from tests.support.memory_bucket import MemoryBucket

SHARD = 1000  # bytes of a shard; quantized, half of it


@dataclass
class Model:
    """A model whose shards have revisions; those of some are shared with other models."""

    name: str
    shards: list[int]
    commits: int = 0

    def change(self, number: int) -> None:
        """A new commit, in which one shard is another one."""
        self.commits += 1
        self.shards[number % len(self.shards)] += 1

    @property
    def commit(self) -> str:
        return hashlib.sha1(f"{self.name} {self.commits}".encode(), usedforsecurity=False).hexdigest()


def content(name: str, size: int) -> bytes:
    return (hashlib.sha256(name.encode()).digest() * (size // 32 + 1))[:size]


def fingerprint(*parts: object) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()


@dataclass
class Run:
    """One run of the chain; each step opens the store as a process of its own, beside that of the flow.

    `found` is what it has made or found, `alive` the claims of the living processes, `touched` the keys
    that they had to do with.
    """

    bucket: MemoryBucket
    model: Model
    found: list[ArtifactRef] = field(default_factory=list)
    shipped: ShipRecord | None = None
    touched: set[str] = field(default_factory=set)
    alive: list[Claims] = field(default_factory=list)
    flow: Store = field(init=False)

    def __post_init__(self) -> None:
        self.flow, claims = self.bucket.process()
        self.alive.append(claims)

    def _process(self) -> Store:
        """The next step's; the one before has ended."""
        store, claims = self.bucket.process()
        self.alive[1:] = [claims]
        return store

    def steps(self) -> Generator[str, None, None]:
        """Yields after every operation that a kill may follow."""
        shards, commit = list(self.model.shards), self.model.commit
        source = yield from self._checkpoint(
            fingerprint("download", self.model.name, commit),
            [content(f"{self.model.name} shard {n} at {at}", SHARD) for n, at in enumerate(shards)],
            {"source": f"hf://org/{self.model.name}@{commit}", "commit": commit},
        )
        quantized = yield from self._quantize(source)
        measured = []
        for subject in (source, quantized):
            one = yield from self._small(Kind.MEASUREMENT, subject.digest)
            measured.append(one.digest)
        verdict = yield from self._small(Kind.VERDICT, *measured)
        yield from self._small(Kind.CARD, verdict.digest)
        self.shipped = ship_record(self.model, commit, quantized.digest, tuple(self.found))
        records.write_shipped(self.flow, self.shipped)

    def _checkpoint(self, name: str, shards: list[bytes], metadata: dict[str, str]) -> Generator[str, None, Manifest]:
        store = self._process()
        if (known := store.find(Kind.CHECKPOINT, name)) is not None:
            return self._has(known)
        entries = []
        for number, shard in enumerate(shards):
            digest = Digest.of(shard)
            if not store.has_blob(digest, len(shard)):
                store.put_bytes(shard)
            entries.append(FileEntry(path=f"{number:03}.safetensors", size=len(shard), sha256=digest))
            yield "shard"
        return self._commit(store, Kind.CHECKPOINT, name, entries, metadata)

    def _quantize(self, source: Manifest) -> Generator[str, None, Manifest]:
        store = self._process()
        name = fingerprint("quantize", source.digest)
        if (known := store.find(Kind.CHECKPOINT, name)) is not None:
            return self._has(known)
        source = store.load(source.ref)
        entries = []
        for entry in source.files:
            group = fingerprint("group", entry.sha256)
            made = store.find(Kind.GROUP, group)
            if made is None:
                half = store.put_bytes(store.read_bytes(entry.sha256)[: SHARD // 2])
                shard = FileEntry(path=entry.path, size=SHARD // 2, sha256=half)
                made = self._commit(store, Kind.GROUP, group, [shard], {})
            entries.append(made.files[0].model_copy(update={"path": entry.path}))
            yield "group"
        return self._commit(store, Kind.CHECKPOINT, name, entries, dict(source.metadata))

    def _small(self, kind: Kind, *subjects: Digest) -> Generator[str, None, Manifest]:
        store = self._process()
        name = fingerprint(kind, subjects)
        if (known := store.find(kind, name)) is not None:
            return self._has(known)
        text = f"{kind} of {subjects}".encode()
        entry = FileEntry(path="file", size=len(text), sha256=store.put_bytes(text))
        yield kind
        return self._commit(store, kind, name, [entry], {})

    def _commit(
        self, store: Store, kind: Kind, name: str, entries: list[FileEntry], metadata: dict[str, object]
    ) -> Manifest:
        made = Manifest(kind=kind, fingerprint=name, files=tuple(entries), metadata=metadata)
        store.commit(made)
        return self._has(made)

    def _has(self, manifest: Manifest) -> Manifest:
        if manifest.kind is not Kind.GROUP:
            self.flow.load(manifest.ref)
            self.found.append(manifest.ref)
        return manifest


def ship_record(model: Model, commit: str, digest: Digest, artifacts: tuple[ArtifactRef, ...]) -> ShipRecord:
    return ShipRecord.model_validate(
        {
            "model": f"hf://org/{model.name}", "scheme": "FP8_DYNAMIC", "to": f"registry.example.com/{model.name}",
            "commit": commit, "reference": f"registry.example.com/{model.name}@{digest}", "digest": digest,
            "tags": (commit[:12],), "decision": "pass", "measures": {}, "base_digest": "", "tools": {},
            "shipped": datetime.now(UTC), "run": "run", "artifacts": artifacts,
        }
    )  # fmt: skip
