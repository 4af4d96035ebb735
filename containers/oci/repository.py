"""What a layout and a registry have in common: a place that holds blobs, manifests and tags."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Protocol, Self

from containers.digest import Digest
from containers.errors import BadInput
from containers.oci.types import Descriptor, ImageConfig, ImageManifest, Index, Platform, parse_manifest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager
    from datetime import datetime

    from containers.oci.reference import Reference


_PLATFORMS_MAX: Final = 64  # images of one index


class ImmutableTag(BadInput):
    """The place does not let a tag be moved."""


@dataclass(frozen=True)
class Blob:
    """Bytes to be put somewhere: `chunks(offset)` gives them from any byte on, as often as it is asked.

    Without a digest it is computed while the bytes pass by. `mount_from` are repositories of the same registry that
    are believed to hold the blob. `recheck` is called when other bytes come than the digest promises: it raises what is wrong
    with where they come from, if that can be told.
    """

    size: int
    chunks: Callable[[int], Iterator[bytes]] = field(compare=False)
    digest: Digest | None = None
    name: str = ""
    mount_from: tuple[str, ...] = ()
    recheck: Callable[[], None] = field(default=lambda: None, compare=False)

    @classmethod
    def of(cls, content: bytes, name: str = "") -> Blob:
        """A blob that is already in memory."""
        return cls(len(content), lambda offset: iter((content[offset:],)), Digest.of(content), name)


@dataclass(frozen=True)
class StoredManifest:
    """A manifest or an index as a repository has it, byte for byte."""

    content: bytes
    media_type: str
    digest: Digest

    def parse(self) -> ImageManifest | Index:
        return parse_manifest(self.content, f"the manifest {self.digest}")

    @property
    def descriptor(self) -> Descriptor:
        return Descriptor(media_type=self.media_type, digest=self.digest, size=len(self.content))


class Repository(Protocol):
    """A layout or a repository of a registry; every method may raise Temporary and BadInput.

    A blob or manifest that is read is verified against its digest. A manifest is put after everything it names.
    """

    reference: Reference

    def blob_size(self, digest: Digest) -> int | None:
        """Size in bytes of a blob that is there, None when it is not."""

    def read_blob(self, digest: Digest, offset: int = 0) -> AbstractContextManager[Iterator[bytes]]:
        """The bytes of a blob from `offset` on, unverified: `containers.oci.validate.verified` checks a stream."""

    def put_blob(self, blob: Blob, on_bytes: Callable[[int], None]) -> Digest:
        """Store a blob; `on_bytes` gets the number of bytes sent, negative when some must be sent again."""

    def get(self, what: str) -> StoredManifest | None:
        """The manifest under a tag or a digest, None when there is none."""

    def put(self, content: bytes, media_type: str, tag: str = "") -> Digest:
        """Store a manifest, under a tag too if one is given."""

    def now(self) -> datetime:
        """What time it is there: ages are counted by one clock, whoever asks from which machine."""

    def tags(self) -> tuple[str, ...]:
        """Every tag, sorted."""

    def referrers(self, subject: Digest) -> tuple[Descriptor, ...]:
        """Manifests whose subject is `subject`."""

    def refer(self, content: bytes, manifest: ImageManifest) -> Digest:
        """Store a manifest that has a subject, so that `referrers` finds it."""

    def delete(self, digest: Digest) -> None:
        """Remove a manifest and every tag on it."""

    def close(self) -> None: ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...


def read_small(repository: Repository, descriptor: Descriptor, limit: int = 32 << 20) -> bytes:
    """A small blob, whole and verified; raises BadInput when it is too large, missing or not what its digest says."""
    if descriptor.size > limit:
        raise BadInput(f"{descriptor.digest} has {descriptor.size} bytes, more than the {limit} that are read at once")
    parts: list[bytes] = []
    left = descriptor.size
    with repository.read_blob(descriptor.digest) as chunks:
        for chunk in chunks:
            left -= len(chunk)
            if left < 0:
                break
            parts.append(chunk)
    content = b"".join(parts)
    if left != 0 or Digest.of(content) != descriptor.digest:
        raise BadInput(
            f"{repository.reference} gave other bytes than {descriptor.digest} names",
            remedy="the stored content is damaged or was tampered with; push it again",
        )
    return content


def found(repository: Repository, what: str) -> StoredManifest:
    """The manifest under a tag or digest; raises BadInput when there is none."""
    stored = repository.get(what)
    if stored is None:
        raise BadInput(
            f"{repository.reference.target} has no tag or digest {what}",
            remedy="check the name, the tag and the digest",
        )
    return stored


def image(repository: Repository, what: str, platform: str = "linux/amd64") -> tuple[StoredManifest, ImageManifest]:
    """The image manifest under a tag or digest; of an index, the one for `platform` or else the first image in it."""
    stored = found(repository, what)
    parsed = stored.parse()
    if isinstance(parsed, ImageManifest):
        return stored, parsed
    wanted = Platform.named(platform)
    entries = _entries(repository, stored, parsed)
    fitting = [one for one in entries if one.platform is not None and str(one.platform) == str(wanted)]
    return _inner(repository, stored, (fitting or entries)[0])


def images(repository: Repository, what: str) -> tuple[tuple[StoredManifest, ImageManifest], ...]:
    """The image manifest under a tag or digest; of an index, those of all platforms, `image`'s first."""
    stored = found(repository, what)
    parsed = stored.parse()
    if isinstance(parsed, ImageManifest):
        return ((stored, parsed),)
    first = image(repository, what)
    entries = _entries(repository, stored, parsed)
    if len(entries) > _PLATFORMS_MAX:
        raise BadInput(
            f"{repository.reference.target}: the index {stored.digest} holds {len(entries)} images",
            remedy=f"name one of them by its digest; up to {_PLATFORMS_MAX} platforms are looked at together",
        )
    others = [_inner(repository, stored, one) for one in entries]
    return tuple({one.digest: (one, manifest) for one, manifest in (first, *others)}.values())


def _entries(repository: Repository, stored: StoredManifest, index: Index) -> list[Descriptor]:
    """The entries of an index that are images and no attestations."""
    entries = [one for one in index.manifests if one.platform is None or one.platform.os != "unknown"]
    if not entries:
        raise BadInput(f"{repository.reference.target}: the index {stored.digest} holds no image")
    return entries


def _inner(repository: Repository, stored: StoredManifest, entry: Descriptor) -> tuple[StoredManifest, ImageManifest]:
    inner = found(repository, str(entry.digest))
    manifest = inner.parse()
    if not isinstance(manifest, ImageManifest):
        raise BadInput(f"{repository.reference.target}: the index {stored.digest} holds an index, not an image")
    return inner, manifest


def read_config(repository: Repository, manifest: ImageManifest) -> ImageConfig:
    """The image's configuration; raises BadInput when it has none (an artifact, not an image)."""
    return ImageConfig.parse(
        read_small(repository, manifest.config), f"the configuration {manifest.config.digest} of {repository.reference}"
    )
