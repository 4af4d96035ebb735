"""What is attached to an image as a file, and whose statement it is.

Anyone who may push to a repository can attach a report or a card to any digest in it, with any sequence number; nothing is
signed. So a number decides nothing here. What a run of this folder attached when it promoted the image is known by its
digest, from the run's record. Without a record, one statement is shown with the words that nobody vouches for it, and of
several that differ none is shown until a person chooses.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from containers.digest import Digest
from containers.errors import BadInput
from containers.foreign_text import one_line
from containers.oci import referrers
from containers.oci.access import open_repository, read_manifest
from containers.oci.repository import read_small
from flows.runners.process.run_folders import summaries

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from containers.oci.repository import Repository
    from containers.oci.types import Descriptor
    from infra.settings import Settings


@dataclass(frozen=True)
class AttachedStatement:
    """A file, the digest of its referrer and that of the image; `run` is the run of this folder that attached it, if one did."""

    content: bytes
    digest: Digest
    subject: Digest
    run: str = ""

    @property
    def whose(self) -> str:
        """A sentence for people."""
        if self.run:
            return f"attached by the run {self.run} of this folder ({self.digest})"
        return f"attached by somebody who may push there, unsigned, and by no run of this folder ({self.digest})"


@dataclass(frozen=True)
class _FoundReferrer:
    digest: Digest
    file: Descriptor
    sequence: int


def of_reference(
    reference: str,
    settings: Settings,
    artifact_type: str,
    title: str,
    *,
    name: str,
    chosen: str = "",
    before: tuple[str, str] | None = None,
) -> AttachedStatement:
    """A file attached to an image; `name` is what promotion calls its referrer, `chosen` the referrer's digest.

    `before` are the type and the title that an older version attached it under, which are looked for where there is no other.
    Raises BadInput if there is none, or if there are several that differ and neither a record nor `chosen` decides.
    """
    wanted = Digest.parse(chosen) if chosen else None
    with open_repository(reference, settings) as repository:
        subject = read_manifest(repository).digest
        found = _find(repository, subject, artifact_type, title)
        if not found and before is not None:
            found = _find(repository, subject, *before)
        if not found:
            raise BadInput(
                f"{reference} has no {title} attached to it ({subject})",
                remedy="promotion attaches it: `carwright ship` promotes what passes the gate",
            )
        recorded = dict(_recorded(settings.home, subject, name))
        pick = _pick(found, recorded, wanted, reference, title)
        return AttachedStatement(read_small(repository, pick.file), pick.digest, subject, recorded.get(pick.digest, ""))


def _find(repository: Repository, subject: Digest, artifact_type: str, title: str) -> list[_FoundReferrer]:
    return [
        _FoundReferrer(one.digest, layer, referrers.sequence(manifest))
        for one, manifest in referrers.manifests(repository, subject, artifact_type)
        for layer in manifest.layers
        if layer.annotations.get(referrers.TITLE) == title
    ]


def _pick(
    found: list[_FoundReferrer], recorded: dict[Digest, str], wanted: Digest | None, reference: str, title: str
) -> _FoundReferrer:
    if wanted is not None:
        for one in found:
            if one.digest == wanted:
                return one
        raise BadInput(f"{wanted} is attached to {reference} with no {title}", remedy=_choose(found))
    for digest in recorded:  # the latest run first
        for one in found:
            if one.digest == digest:
                return one
    if recorded:
        run = next(iter(recorded.values()))
        raise BadInput(
            f"the {title} that the run {run} attached to {reference} is gone, and others are there",
            remedy=_choose(found),
        )
    if len({one.file.digest for one in found}) > 1:
        raise BadInput(
            f"{reference} has {len(found)} attached {title}, which differ; no run of this folder attached any, and none is signed",
            remedy=_choose(found),
        )
    return found[0]


def _choose(found: list[_FoundReferrer]) -> str:
    listed = sorted(found, key=lambda one: (one.sequence, one.digest))
    lines = [f"--attached {one.digest}  (number {one.sequence}, {one.file.size} bytes)" for one in listed[:20]]
    return "choose one that you know, by its digest:\n" + "\n".join(lines)


def _recorded(home: Path, subject: Digest, name: str) -> Iterator[tuple[Digest, str]]:
    """The referrers that runs of this folder attached to an image when they promoted it, with the run; the latest first."""
    for path in summaries(home):
        try:
            shipped: Any = json.loads(path.read_text()).get("shipped") or {}
            if shipped.get("digest") == str(subject) and (digest := (shipped.get("attached") or {}).get(name)):
                yield Digest.parse(digest), one_line(path.parent.name)
        except (OSError, ValueError, AttributeError, BadInput):
            continue
