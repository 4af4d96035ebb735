"""Takes out of a store what nothing needs, beside running runs and other sweeps (`containers.store.claims` says why it may).

Which artifacts go is said in `containers.store.retention`. A blob goes that no artifact names that stays, and that is older
than `older` or was named by an artifact that goes.

Ages are counted to the last time that anything was written to the store, or to its clock or this machine's if one of these is
behind. So a clock that has jumped ahead makes nothing old, and a store in which nothing happens does not age; each sweep
writes down that it was.
"""

from __future__ import annotations

import json
import time
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

from containers.errors import BadInput, Temporary
from containers.store.catalog import listed_manifests, read_manifest
from containers.store.claims import CLAIMS, NOTICE_LIFE, NOTICES, YOUTH, steady
from containers.store.midstates import MIDSTATES
from containers.store.retention import Artifact, decide, digests

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from containers.contract import Kind
    from containers.store.client import Bucket
    from containers.store.manifest import Manifest

    Needed = Callable[[Manifest], str]

SWEPT: Final = "watch/swept.json"
_BLOBS: Final = "blobs/sha256/"
_RESULTS: Final = "results/"
_LASTING: Final = "results/services/"  # endpoints of what still serves
_BATCH: Final = 1000  # names in one notice
_MOST: Final = 200_000  # orphans that one sweep removes: they are held in memory
_SETTLE: Final = (
    6.0  # seconds until a server in front of a folder shows what was written there (infra/objectstore.py: 5 s)
)


@dataclass(frozen=True)
class Fate:
    """An artifact and whether it goes. `own` are the bytes that go with it; `shared` those that other artifacts, runs or
    files outside of the store keep.
    """

    kind: Kind
    fingerprint: str
    name: str
    age: timedelta
    own: int
    shared: int
    goes: bool
    why: str


@dataclass(frozen=True)
class Swept:
    """What a sweep removed, or would remove. `orphans` are blobs that no artifact names, of `orphaned` bytes; `before` and
    `after` are the bytes of all blobs. `until` is what ages were counted to; None for an empty store.
    """

    fates: tuple[Fate, ...] = ()
    orphans: int = 0
    orphaned: int = 0
    before: int = 0
    after: int = 0
    until: datetime | None = None

    @property
    def gone(self) -> list[Fate]:
        return [one for one in self.fates if one.goes]


class Sweep:
    """One sweep. `needed` gives, each time anew, what says of a manifest why it must stay, "" if nothing says so.

    Raises BadInput, before anything is removed, for `older` below a day, for a manifest that cannot be read and for whatever
    `needed` raises; Temporary when the store lists too slowly for anything to be removed safely.
    """

    def __init__(
        self,
        bucket: Bucket,
        needed: Callable[[], Needed],
        *,
        older: timedelta,
        keep_bytes: int | None = None,
        clock: Callable[[], float] = steady,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        if older < YOUTH:
            raise BadInput(
                f"an age of {older / timedelta(hours=1):g} h is too short: what runs are making is protected by its age",
                remedy="give at least 24h",
            )
        self._bucket, self._needed, self._older, self._keep_bytes = bucket, needed, older, keep_bytes
        self._clock, self._sleep = clock, sleep
        self._known: dict[str, tuple[datetime, int, Artifact]] = {}

    def run(self, *, delete: bool) -> Swept:
        """Decide, and with `delete` remove."""
        until = self._until()
        if until is None:
            return Swept()
        claimed = self._claimed(until)
        artifacts = list(self._artifacts(self._needed()))
        kept, going = decide(artifacts, claimed, until=until, older=self._older, keep_bytes=self._keep_bytes)
        stays = digests(kept) | {digest for key in claimed if (digest := _digest(key)) is not None}
        before, orphans, linked = self._blobs(stays | digests(artifacts), digests(going) - stays, until)
        fates = _fates(kept, going, stays | linked, until)
        if delete:
            self._remove_all(going, list(orphans), until)
            self._remove_midstates(stays, until)
        freed = {digest: size for one in going for digest, size in one.blobs if digest not in stays}
        orphaned = sum(orphans.values())
        swept = Swept(fates, len(orphans), orphaned, before, before - orphaned - sum(freed.values()), until)
        if delete:
            said = {"artifacts": len(going), "blobs": len(orphans), "before": before, "after": swept.after}
            self._bucket.write(SWEPT, json.dumps(said).encode())
        return swept

    def _until(self) -> datetime | None:
        places = ("artifacts/", "watch/", CLAIMS)
        noted = (one for place in places for one in self._bucket.listing(place))
        newest = max(noted, default=None, key=lambda one: one.modified)
        if newest is None:
            newest = max(self._bucket.listing(_BLOBS), default=None, key=lambda one: one.modified)
        if newest is None:
            return None
        seen = self._bucket.look(newest.key)
        its = [seen.modified + seen.age] if seen is not None and seen.age is not None else []
        return min(newest.modified, datetime.now(UTC), *its)

    def _artifacts(self, needed: Needed | None = None) -> Iterator[Artifact]:
        """Every artifact; each manifest is read once, and again when it has changed."""
        for listed, kind, fingerprint in listed_manifests(self._bucket):
            known = self._known.get(listed.key)
            if known is None or known[:2] != (listed.modified, listed.size):
                manifest = read_manifest(self._bucket, kind, fingerprint)
                if manifest is None:  # removed since it was listed
                    continue
                sizes = {bytes.fromhex(entry.sha256.hex): entry.size for entry in manifest.files}
                why = needed(manifest) if needed is not None else ""
                one = Artifact(kind, fingerprint, listed.modified, _name(manifest), tuple(sizes.items()), why)
                known = self._known[listed.key] = (listed.modified, listed.size, one)
            yield known[2]

    def _blobs(self, named: set[bytes], going: set[bytes], until: datetime) -> tuple[int, dict[bytes, int], set[bytes]]:
        """Bytes of all blobs, the old ones that nobody names with their bytes, and which of those that go are files of
        somebody else's, too.
        """
        before = 0
        orphans: dict[bytes, int] = {}
        linked: set[bytes] = set()
        for listed in self._bucket.listing(_BLOBS):
            digest = _digest(listed.key)
            if digest is None:  # not ours to remove
                continue
            before += listed.size
            if digest in going:
                linked |= {digest} if listed.shared else set()
            elif digest not in named and until - listed.modified >= self._older and len(orphans) < _MOST:
                orphans[digest] = listed.size
        return before, orphans, linked

    def _remove_all(self, going: list[Artifact], orphans: list[bytes], until: datetime) -> None:
        for artifacts, blobs in _batches(going, orphans):
            self._remove(artifacts, blobs, until)
        for place, age in ((CLAIMS, self._older), (NOTICES, YOUTH), (_RESULTS, self._older)):
            for listed in self._bucket.listing(place):
                if until - listed.modified >= age and not listed.key.startswith(_LASTING):
                    self._bucket.delete(listed.key)

    def _remove_midstates(self, stays: set[bytes], until: datetime) -> None:
        """Those of blobs that are in no artifact; nobody counts on them."""
        for listed in self._bucket.listing(MIDSTATES):
            digest = _digest(_BLOBS + listed.key.removeprefix(MIDSTATES))
            if digest is not None and digest not in stays and until - listed.modified >= self._older:
                self._bucket.delete(listed.key)

    def _remove(self, artifacts: list[Artifact], blobs: set[bytes], until: datetime) -> None:
        """Remove what is still old and not wanted when everybody could know of it: manifests, then blobs that none names.

        The notice is taken back only if all went well: after an error a deletion may still be on its way.
        """
        began = self._clock()
        names = {_blob(digest): digest for digest in sorted(blobs)}
        notice = f"{NOTICES}{uuid.uuid4().hex}.json"
        self._bucket.write(notice, json.dumps([*(one.key for one in artifacts), *names]).encode())
        if self._bucket.settle:
            self._sleep(self._bucket.settle)
        claimed, needed = self._claimed(until), self._needed()

        def remove(key: str) -> bool:
            seen = self._bucket.look(key)
            if seen is None or until - seen.modified < YOUTH or key in claimed:
                return seen is None
            if self._clock() - began > NOTICE_LIFE / 2:
                raise Temporary(
                    f"the store took more than {NOTICE_LIFE / 2:.0f} s to list its artifacts ({self._bucket.name})",
                    remedy="run it again when the store is less busy; what was removed by then is gone",
                )
            self._bucket.delete(key)
            return True

        gone = set()
        for one in artifacts:
            manifest = read_manifest(self._bucket, one.kind, one.fingerprint)
            if (manifest is None or not needed(manifest)) and remove(one.key):
                gone.add(one.key)
        named = digests(one for one in self._artifacts() if one.key not in gone)
        for key, digest in names.items():
            if digest not in named:
                remove(key)
        self._bucket.delete(notice)

    def _claimed(self, until: datetime) -> set[str]:
        """The keys that runs count on."""
        found: set[str] = set()
        for listed in self._bucket.listing(CLAIMS):
            if until - listed.modified < self._older and (content := self._bucket.read(listed.key)) is not None:
                try:
                    found.update(json.loads(content))
                except (ValueError, TypeError) as error:
                    raise BadInput(
                        f"{listed.key} is not a claim that this version can read ({self._bucket.name})",
                        remedy="use the version of Carwright that wrote it, or remove it when no run goes on",
                    ) from error
        return found


def _fates(kept: list[Artifact], going: list[Artifact], stays: set[bytes], until: datetime) -> tuple[Fate, ...]:
    """Bytes that several take along count once, for the first."""
    counted = set(stays)
    fates: list[Fate] = []
    for goes, artifacts in ((True, going), (False, kept)):
        for one in artifacts:
            total = sum(size for _, size in one.blobs)
            own = sum(size for digest, size in one.blobs if digest not in counted)
            counted |= digests([one])
            age = max(until - one.modified, timedelta())
            fates.append(Fate(one.kind, one.fingerprint, one.name, age, own, total - own, goes, one.why))
    return tuple(fates)


def _batches(going: list[Artifact], orphans: list[bytes]) -> Iterator[tuple[list[Artifact], set[bytes]]]:
    """What is removed under one notice; a blob that two batches share goes with the second."""
    artifacts: list[Artifact] = []
    blobs: set[bytes] = set()
    for one in going:
        artifacts.append(one)
        blobs |= digests([one])
        if len(artifacts) + len(blobs) >= _BATCH:
            yield artifacts, blobs
            artifacts, blobs = [], set()
    for start in range(0, len(orphans), _BATCH):
        part = orphans[start : start + _BATCH]
        yield artifacts, blobs | set(part)
        artifacts, blobs = [], set()
    if artifacts:
        yield artifacts, blobs


def _blob(digest: bytes) -> str:
    return f"{_BLOBS}{digest.hex()}"


def _digest(key: str) -> bytes | None:
    name = key.removeprefix(_BLOBS)
    try:
        digest = bytes.fromhex(name)
    except ValueError:
        return None
    return digest if key.startswith(_BLOBS) and len(digest) == 32 and digest.hex() == name else None


def _name(manifest: Manifest) -> str:
    """What people know it by."""
    source = str(manifest.metadata.get("source") or "")
    quantization = manifest.metadata.get("quantization")
    if isinstance(quantization, dict):
        return f"{source} to {quantization.get('scheme')}"
    return source or (manifest.files[0].path if len(manifest.files) == 1 else "")
