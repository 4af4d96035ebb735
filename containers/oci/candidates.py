"""Candidates that were pushed and never promoted: found by their tag, dated by a referrer, removed by digest."""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final

from containers.errors import BadInput
from containers.foreign_json import parse_object
from containers.oci import referrers
from containers.oci.repository import ImmutableTag
from containers.oci.types import Index
from containers.verdict import VERDICT_FILE

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from containers.digest import Digest
    from containers.oci.repository import Repository
    from containers.oci.types import Descriptor

PUSHED: Final = "application/vnd.carwright.pushed.v1"
_CREATED: Final = "org.opencontainers.image.created"
_CANDIDATE: Final = re.compile(r"candidate-[0-9a-f]{12}")
_OWN: Final = re.compile(r"candidate-[0-9a-f]{12}(-raw)?|sha256-[0-9a-f]{64}")


@dataclass(frozen=True)
class Candidate:
    """An image that only its candidate tag keeps. `pushed` is None where nothing tells when."""

    tag: str
    digest: Digest
    pushed: datetime | None
    passed: bool
    referrers: tuple[Digest, ...]


def mark_pushed(repository: Repository, digest: Digest) -> None:
    """Attach the time of the first push, by the clock of the place, since neither the image (always 1970) nor an API tells it."""
    if not referrers.attached(repository, digest, PUSHED):
        now = repository.now().isoformat(timespec="seconds")
        with suppress(ImmutableTag):  # then nothing tells the age, and a candidate of unknown age is never removed
            referrers.attach(repository, digest, PUSHED, (), {_CREATED: now})


def find_candidates(repository: Repository, older: timedelta) -> tuple[Candidate, ...]:
    """Candidates that never passed and were pushed longer ago than `older`; never one that any other tag needs."""
    tags = repository.tags()
    kept = set(_kept(repository, [tag for tag in tags if not _OWN.fullmatch(tag)]))
    now = repository.now()
    found: list[Candidate] = []
    for tag in tags:
        stored = repository.get(tag) if _CANDIDATE.fullmatch(tag) else None
        if stored is None or stored.digest in kept:
            continue
        attached = referrers.attached(repository, stored.digest)
        pushed = _pushed(one.annotations.get(_CREATED) for one in attached if one.artifact_type == PUSHED)
        passed = any(_passed(repository, one) for one in attached if one.artifact_type == referrers.EVALUATION)
        if pushed is not None and now - pushed > older and not passed:
            found.append(Candidate(tag, stored.digest, pushed, passed, tuple(one.digest for one in attached)))
    return tuple(found)


def remove(repository: Repository, candidates: Sequence[Candidate]) -> None:
    """Delete candidates and what is attached to them; the registry frees the blobs at its next collection."""
    for one in candidates:
        for digest in one.referrers:
            repository.delete(digest)
        repository.delete(one.digest)
        fallback = repository.get(f"sha256-{one.digest.hex}")
        if fallback is not None:
            repository.delete(fallback.digest)


def _kept(repository: Repository, tags: Sequence[str]) -> Iterator[Digest]:
    """What the tags of releases need: their digests, and, of an index, those in it."""
    for tag in tags:
        stored = repository.get(tag)
        if stored is not None:
            yield stored.digest
            parsed = stored.parse()
            if isinstance(parsed, Index):
                yield from (one.digest for one in parsed.manifests)
            elif parsed.subject is not None:  # a tagged raw artifact keeps its modelcar
                yield parsed.subject.digest


def _pushed(times: Iterator[str | None]) -> datetime | None:
    parsed: list[datetime] = []
    for text in times:
        try:
            parsed.append(datetime.fromisoformat(text or ""))
        except ValueError:
            continue
    return max((one for one in parsed if one.tzinfo is not None), default=None)


def _passed(repository: Repository, referrer: Descriptor) -> bool:
    files = {one.title: one.content for one in referrers.fetch(repository, referrer)}
    if VERDICT_FILE not in files:
        return False
    try:
        return bool(parse_object(files[VERDICT_FILE], VERDICT_FILE)["decision"] == "pass")
    except (BadInput, KeyError):  # another version's: better kept than removed
        return True
