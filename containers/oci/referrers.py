"""What is attached to an image without changing its digest: reports, cards, statements, bills of materials.

A referrer is a manifest with a `subject` (image specification 1.1, manifest.md); a repository lists the referrers of
a digest. The same files attached twice are the same manifest, so attaching again changes nothing.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from containers.digest import Digest
from containers.errors import BadInput
from containers.in_toto import PREDICATE_TYPE
from containers.labels import LABEL
from containers.oci.repository import Blob, found, read_small
from containers.oci.types import EMPTY, EMPTY_CONTENT, Descriptor, ImageManifest

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from containers.oci.repository import Repository

EVALUATION: Final = "application/vnd.carwright.evaluation.v1"
CARD: Final = "application/vnd.carwright.card.v1"
PROVENANCE: Final = "application/vnd.carwright.provenance.v1"  # before 0.3: read where it is, and no longer written
BOM: Final = "application/vnd.cyclonedx+json"  # the bill of materials as a file (iana.org, by CycloneDX)
SEQUENCE: Final = f"{LABEL}sequence"  # 1 for the first referrer of its type, and one more for each that follows
_REPORT_MAX: Final = 128 << 20  # bytes of all files of a referrer
TITLE: Final = "org.opencontainers.image.title"
MOST: Final = 200  # referrers of one type that are looked at
_NUMBER: Final = re.compile(r"[0-9]{1,9}")
_EMPTY: Final = Descriptor(media_type=EMPTY, digest=Digest.of(EMPTY_CONTENT), size=len(EMPTY_CONTENT))


@dataclass(frozen=True)
class Attachment:
    """One small file of a referrer."""

    title: str
    media_type: str
    content: bytes


def attach(
    repository: Repository,
    subject: Digest,
    artifact_type: str,
    files: Sequence[Attachment],
    annotations: Mapping[str, str] | None = None,
) -> tuple[Digest, bool]:
    """Attach `files` to the manifest `subject`; the referrer's digest, and whether it was there already."""
    blobs = [(one, Blob.of(one.content, one.title)) for one in files]
    target = found(repository, str(subject)).descriptor
    manifest = ImageManifest(
        artifact_type=artifact_type,
        config=_EMPTY,
        layers=tuple(
            Descriptor(
                media_type=one.media_type,
                digest=Digest.of(one.content),
                size=len(one.content),
                annotations={TITLE: one.title},
            )
            for one, _ in blobs
        )
        or (_EMPTY,),
        subject=target,
        annotations=dict(annotations or {}),
    )
    content = manifest.encode()
    digest = Digest.of(content)
    if any(one.digest == digest for one in repository.referrers(subject)):
        return digest, True
    for blob in (Blob.of(EMPTY_CONTENT, "{}"), *(blob for _, blob in blobs)):
        if blob.digest is None or repository.blob_size(blob.digest) != blob.size:
            repository.put_blob(blob, lambda _: None)
    repository.refer(content, manifest)
    return digest, False


def renew(
    repository: Repository,
    subject: Digest,
    artifact_type: str,
    files: Sequence[Attachment],
    annotations: Mapping[str, str] | None = None,
    *,
    predicate_type: str = "",
) -> tuple[Digest, bool]:
    """Attach `files` as the newest of their type, unless the newest says just that already; earlier ones stay.

    Statements share a type; with `predicate_type` only those with such a predicate are of one kind.
    """
    told = dict(annotations or {}) | ({PREDICATE_TYPE: predicate_type} if predicate_type else {})
    before = newest(repository, subject, artifact_type, predicate_type)
    number = 0
    if before is not None:
        last, manifest = before
        held = sorted(
            (one.annotations.get(TITLE, ""), one.digest) for one in manifest.layers if one.media_type != EMPTY
        )
        said = {name: value for name, value in manifest.annotations.items() if name != SEQUENCE}
        if held == sorted((one.title, Digest.of(one.content)) for one in files) and said == told:
            return last.digest, True
        number = sequence(manifest)
    return attach(repository, subject, artifact_type, files, {**told, SEQUENCE: str(number + 1)})


def newest(
    repository: Repository, subject: Digest, artifact_type: str, predicate_type: str = ""
) -> tuple[Descriptor, ImageManifest] | None:
    """The referrer of a type with the highest number, None when there is none.

    It only says what to number the next one: whoever may push can attach any number (`flows.release.statements`).
    """
    alike = (
        one
        for one in manifests(repository, subject, artifact_type)
        if predicate_type in ("", one[1].annotations.get(PREDICATE_TYPE))
    )
    return max(alike, key=lambda one: sequence(one[1]), default=None)


def manifests(
    repository: Repository, subject: Digest, artifact_type: str
) -> tuple[tuple[Descriptor, ImageManifest], ...]:
    """The referrers of a type with their manifests; raises BadInput when there are more than anybody attaches."""
    listed = attached(repository, subject, artifact_type)
    if len(listed) > MOST:
        raise BadInput(
            f"{subject} has {len(listed)} referrers of the type {artifact_type}, more than {MOST}",
            remedy="somebody fills the repository; remove them in the registry",
        )
    parsed = ((one, found(repository, str(one.digest)).parse()) for one in listed)
    return tuple((one, manifest) for one, manifest in parsed if isinstance(manifest, ImageManifest))


def sequence(manifest: ImageManifest) -> int:
    """The number of a referrer of ours; 0 for what is none."""
    said = manifest.annotations.get(SEQUENCE, "")
    return int(said) if _NUMBER.fullmatch(said) else 0


def attached(repository: Repository, subject: Digest, artifact_type: str = "") -> tuple[Descriptor, ...]:
    """The referrers of a manifest, all or those of one type, in the order of their digests."""
    every = sorted(repository.referrers(subject), key=lambda one: one.digest)
    return tuple(one for one in every if artifact_type in ("", one.artifact_type))


def fetch(repository: Repository, referrer: Descriptor) -> tuple[Attachment, ...]:
    """The files of a referrer, verified; raises BadInput when one is too large to be a report."""
    manifest = found(repository, str(referrer.digest)).parse()
    if not isinstance(manifest, ImageManifest):
        raise BadInput(f"the referrer {referrer.digest} is an index")
    if sum(layer.size for layer in manifest.layers) > _REPORT_MAX:
        raise BadInput(f"the referrer {referrer.digest} has more than {_REPORT_MAX} bytes, which no report has")
    return tuple(
        Attachment(layer.annotations.get(TITLE, layer.digest.hex), layer.media_type, read_small(repository, layer))
        for layer in manifest.layers
        if layer.media_type != EMPTY
    )
