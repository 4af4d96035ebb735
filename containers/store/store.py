"""The store: blobs by digest, and manifests that are written last and name only blobs that are there."""

from __future__ import annotations

import hashlib
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

from pydantic import ValidationError

from containers.contract import ArtifactRef, Kind
from containers.digest import Digest
from containers.errors import BadInput
from containers.store.client import CONNECTIONS, Bucket
from containers.store.failures import translated
from containers.store.files import digest_of, remove_leftovers, replacing
from containers.store.folder import FolderBucket
from containers.store.links import link_checked
from containers.store.manifest import FileEntry, Manifest
from containers.store.transfer import BlobReader, damaged, download, key_of, missing, upload

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from containers.contract import StoreLocation
    from containers.settings import StoreSettings
    from containers.streams import Stream

_STREAMS: Final = 4  # ranges or files on the wire at once
_KEYS: Final = ("results/", "watch/")
_BLOBS: Final = "blobs/sha256/"
_BLOB: Final = re.compile(r"blobs/sha256/[0-9a-f]{64}")
_MANIFEST: Final = re.compile(r"artifacts/(?P<kind>[a-z-]+)/(?P<fingerprint>[0-9a-f]{64})\.json")
_DAY: Final = timedelta(days=1)


class UnreadableManifest(BadInput):
    """A manifest that is damaged or of another version."""


@dataclass(frozen=True)
class Orphan:
    """A blob that no artifact needs; `size` in bytes, `modified` with a time zone."""

    digest: Digest
    size: int
    modified: datetime


class Store:
    """Content-addressed artifacts on S3; safe to use from several threads.

    Keys: `blobs/sha256/<hex>` for contents, `artifacts/<kind>/<fingerprint>.json` for manifests, `results/<name>` for
    what Prefect remembers, `watch/<name>` for what was shipped and what the watcher has seen. Besides what each method
    says, all raise Temporary (the store cannot be reached), DiskFull and BadInput (keys, permission, settings).
    """

    def __init__(self, bucket: Bucket) -> None:
        self._bucket = bucket

    @classmethod
    def open(cls, location: StoreLocation, settings: StoreSettings) -> Store:
        """The store at a location; its bucket is created when it is missing."""
        here = settings.direct and settings.folder is not None and settings.folder.is_dir()
        bucket = FolderBucket(location, settings) if here else Bucket(location, settings)
        bucket.ensure()
        return cls(bucket)

    def has_blob(self, digest: Digest, size: int) -> bool:
        """Whether a blob of that size is there; its bytes are checked when they are read."""
        return self._bucket.size(key_of(digest)) == size

    def put_bytes(self, content: bytes) -> Digest:
        """Store a small blob."""
        digest = Digest.of(content)
        if not self.has_blob(digest, len(content)):
            self._bucket.write(key_of(digest), content)
        return digest

    def put_file(
        self, path: Path, *, digest: Digest | None = None, on_bytes: Callable[[int], None] | None = None
    ) -> Digest:
        """Store a file; nothing is sent when the blob is there.

        With its digest the file is read once and hashed on the way, without it twice. `on_bytes` gets the bytes of each
        piece that is done. Raises BadInput when the file has other bytes than `digest`; nothing is stored then.
        """
        with translated(f"storing {path}", self._bucket.name):
            known = digest if digest is not None else digest_of(path)
            with path.open("rb", buffering=0) as file:
                size = path.stat().st_size
                if self.has_blob(known, size):
                    if on_bytes is not None and size:
                        on_bytes(size)
                else:
                    upload(self._bucket, file, known, size, on_bytes)
        return known

    def take_file(self, path: Path, digest: Digest, on_bytes: Callable[[int], None] | None = None) -> None:
        """Store a file that its writer hashed and needs no longer: where the store is a folder here, it is moved in."""
        size = path.stat().st_size
        if isinstance(self._bucket, FolderBucket) and not self.has_blob(digest, size):
            self._bucket.move_in(key_of(digest), path)
            if on_bytes is not None and size:
                on_bytes(size)
        else:
            self.put_file(path, digest=digest, on_bytes=on_bytes)

    def share_file(self, path: Path, digest: Digest) -> None:
        """Store a file that was just hashed and stays where it is: where the store is a folder here, without a copy."""
        if isinstance(self._bucket, FolderBucket):
            if not self.has_blob(digest, path.stat().st_size):
                self._bucket.share(key_of(digest), path)
        else:
            self.put_file(path, digest=digest)

    def put_stream(
        self, stream: Stream, *, digest: Digest, size: int, on_bytes: Callable[[int], None] | None = None
    ) -> None:
        """Store what a stream gives, unless the blob is there (the stream is then left unread).

        Raises BadInput when other bytes arrive or their number is wrong; nothing is stored then.
        """
        if self.has_blob(digest, size):
            if on_bytes is not None and size:
                on_bytes(size)
            return
        upload(self._bucket, stream, digest, size, on_bytes)

    def open_blob(self, digest: Digest, *, size: int, offset: int = 0) -> BlobReader:
        """Read a blob from `offset` on, as a stream; the digest is checked when it is read from the start to the end.

        Raises BadInput when the blob is missing, and, like every read, DamagedBlob when its bytes are wrong.
        """
        if not 0 <= offset <= size:
            raise ValueError(f"offset {offset} is not within a blob of {size} bytes")
        return BlobReader(self._bucket, digest, size, offset)

    def read_bytes(self, digest: Digest) -> bytes:
        """All of a small blob, checked; raises as `open_blob` does."""
        content = self._bucket.read(key_of(digest))
        if content is None:
            raise missing(digest, self._bucket.name)
        if (found := Digest.of(content)) != digest:
            raise damaged(self._bucket, digest, found)
        return content

    def get_file(self, entry: FileEntry, destination: Path, on_bytes: Callable[[int], None] | None = None) -> None:
        """Write a blob to a file, which appears whole and checked or not at all."""
        self._fetch(entry, destination, on_bytes, _STREAMS)

    def discard_blob(self, digest: Digest) -> None:
        """Remove a blob, so that whoever made it makes it again. No error when it is gone already."""
        self._bucket.delete(key_of(digest))

    def find(self, kind: Kind, fingerprint: str) -> Manifest | None:
        """The artifact with this fingerprint; None when it, or any of its blobs, is missing or of another size."""
        try:
            manifest = self._read(kind, fingerprint)
        except UnreadableManifest:  # treated as missing: the next run writes it again
            return None
        return manifest if manifest is not None and not self._absent(manifest) else None

    def load(self, ref: ArtifactRef) -> Manifest:
        """The manifest that a reference names; BadInput when it is absent or its contents are others."""
        manifest = self._read(ref.kind, ref.fingerprint)
        if manifest is None:
            raise BadInput(
                f"the {ref.kind} {ref.fingerprint[:12]} is not in the store ({self._bucket.name})",
                remedy="check the store's settings, or run the step that makes it",
            )
        if manifest.digest != ref.digest:
            raise BadInput(
                f"the {ref.kind} {ref.fingerprint[:12]} holds {manifest.digest.short} and not {ref.digest.short}",
                remedy="it was made again since; use its new reference",
            )
        return manifest

    def commit(self, manifest: Manifest) -> ArtifactRef:
        """Make an artifact known, after all of its blobs; raises BadInput and writes nothing when one is missing.

        When an artifact with that fingerprint is there, whole and with other contents, it stays and its reference is
        returned: what others have read under a fingerprint does not change under their hands.
        """
        if absent := self._absent(manifest):
            names = ", ".join(f"{entry.path} ({entry.sha256.short})" for entry in absent[:3])
            raise BadInput(
                f"{len(absent)} of {len(manifest.files)} blobs of the {manifest.kind} are not in the store: {names}",
                remedy="store every blob before the manifest; run the step again",
            )
        present = self.find(manifest.kind, manifest.fingerprint)
        if present is not None and present.digest != manifest.digest:
            return present.ref
        content = manifest.model_dump_json(indent=1, exclude_none=True).encode() + b"\n"
        self._bucket.write(_manifest_key(manifest.kind, manifest.fingerprint), content)
        return manifest.ref

    def forget(self, ref: ArtifactRef) -> None:
        """Remove a manifest, so that its artifact is made again; its blobs stay until they are swept."""
        self._bucket.delete(_manifest_key(ref.kind, ref.fingerprint))

    def manifests(self, kind: Kind | None = None) -> Iterator[Manifest]:
        """Every manifest, or those of one kind; BadInput at one that cannot be read."""
        for listed in self._bucket.listing("artifacts/" if kind is None else f"artifacts/{kind}/"):
            match = _MANIFEST.fullmatch(listed.key)
            if match is None or match["kind"] not in set(Kind):
                raise UnreadableManifest(
                    f"{listed.key} is not the name of a manifest that this version knows ({self._bucket.name})",
                    remedy="remove it, or use the version of Carwright that wrote it",
                )
            manifest = self._read(Kind(match["kind"]), match["fingerprint"])
            if manifest is not None:  # else it was forgotten since it was listed
                yield manifest

    def materialize(self, ref: ArtifactRef, folder: Path, on_bytes: Callable[[int], None] | None = None) -> Manifest:
        """All files of an artifact below a folder, several at once; other files there are left alone.

        A file that is there with the right bytes is kept, so that a second call goes on where the first was killed.
        `on_bytes` may be called from several threads.
        """
        manifest = self.load(ref)
        with translated(f"writing to {folder}", self._bucket.name):
            folder.mkdir(parents=True, exist_ok=True)
            remove_leftovers(folder)
        at_once = min(_STREAMS, max(1, len(manifest.files)))

        def bring(entry: FileEntry) -> None:
            path = folder / entry.path
            with translated(f"reading {path}", self._bucket.name):
                kept = path.is_file() and path.stat().st_size == entry.size and digest_of(path) == entry.sha256
            if not kept:
                self._fetch(entry, path, on_bytes, _STREAMS // at_once)
            elif on_bytes is not None:
                on_bytes(entry.size)

        with ThreadPoolExecutor(at_once, thread_name_prefix="store-files") as pool:
            futures = [pool.submit(bring, entry) for entry in manifest.files]
            try:
                for future in futures:
                    future.result()
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        return manifest

    def expose(self, ref: ArtifactRef, folder: Path, on_bytes: Callable[[int], None] | None = None) -> Manifest:
        """As `materialize`, for reading alone: where the store is a folder here, the files are links to its blobs, each checked."""
        if not isinstance(self._bucket, FolderBucket):
            return self.materialize(ref, folder, on_bytes)
        manifest = self.load(ref)
        link_checked(self._bucket, manifest.files, folder, on_bytes)
        return manifest

    def path(self, digest: Digest, size: int) -> Path | None:
        """The file of a blob, not checked; None where the store is no folder here, or has no such blob of that size."""
        if not isinstance(self._bucket, FolderBucket) or not self.has_blob(digest, size):
            return None
        return self._bucket.path(key_of(digest))

    @property
    def here(self) -> bool:
        """Whether its blobs are files of this machine."""
        return isinstance(self._bucket, FolderBucket)

    def sweep(self, *, older: timedelta = _DAY, delete: bool = False) -> list[Orphan]:
        """The blobs that no artifact needs and that were last written before `older` ago.

        A quantized shard that no checkpoint holds was left by a run that never came to its end: once it is that old it
        needs nothing any more. They are removed, with the manifests of such shards, only with `delete`, and none when a
        manifest cannot be read (BadInput). The age protects runs that have stored blobs and not yet their manifest; one that
        found an old orphan and counts on it is refused at its commit and stores it again on its next try.
        """
        before = datetime.now(UTC) - older
        # Blobs are listed first: what a manifest written meanwhile names is then either known or too young.
        old = {
            digest: Orphan(digest, listed.size, listed.modified)
            for listed in self._bucket.listing(_BLOBS)
            if listed.modified < before and _BLOB.fullmatch(listed.key)  # other names are not ours to remove
            for digest in [Digest(listed.key.rpartition("/")[2])]
        }
        shards: list[Manifest] = []
        needed: set[Digest] = set()
        for manifest in self.manifests():
            digests = {entry.sha256 for entry in manifest.files}
            if manifest.kind is Kind.GROUP and digests <= old.keys():
                shards.append(manifest)
            else:
                needed |= digests
        orphans = [orphan for digest, orphan in old.items() if digest not in needed]
        if delete:
            for shard in shards:
                if any(entry.sha256 not in needed for entry in shard.files):
                    self.forget(shard.ref)
            for orphan in orphans:
                self.discard_blob(orphan.digest)
        return orphans

    def link(self, entry: FileEntry, *, days: int = 7, media_type: str = "text/html") -> str:
        """A URL under which a browser reads one file of an artifact for some days, without credentials."""
        return self._bucket.link(key_of(entry.sha256), seconds=days * 86_400, media_type=media_type)

    def has_key(self, key: str) -> bool:
        return self._bucket.size(_key(key)) is not None

    def read_key(self, key: str) -> bytes:
        """The value under a key that starts with `results/` or `watch/`; KeyError when there is none."""
        content = self._bucket.read(_key(key))
        if content is None:
            raise KeyError(key)
        return content

    def write_key(self, key: str, content: bytes) -> None:
        self._bucket.write(_key(key), content)

    def keys(self, folder: str) -> list[str]:
        """The keys of values below `folder`, such as `results/name`."""
        return [listed.key for listed in self._bucket.listing(f"{_key(folder)}/")]

    def delete_key(self, key: str) -> None:
        """No error when it is gone already."""
        self._bucket.delete(_key(key))

    def _read(self, kind: Kind, fingerprint: str) -> Manifest | None:
        key = _manifest_key(kind, fingerprint)
        content = self._bucket.read(key)
        if content is None:
            return None
        try:
            manifest = Manifest.model_validate_json(content)
        except ValidationError as error:
            raise UnreadableManifest(
                f"{key} is not a manifest that this version can read: {error}",
                remedy="delete it and run again, or use the version of Carwright that wrote it",
            ) from error
        if (manifest.kind, manifest.fingerprint) != (kind, fingerprint):
            raise UnreadableManifest(f"{key} describes another artifact", remedy="delete it and run again")
        return manifest

    def _absent(self, manifest: Manifest) -> list[FileEntry]:
        """The files whose blobs are missing or have another size."""
        blobs = {entry.sha256: entry for entry in manifest.files}
        with ThreadPoolExecutor(min(CONNECTIONS // 2, len(blobs) or 1), thread_name_prefix="store-look") as pool:
            there = pool.map(lambda entry: self.has_blob(entry.sha256, entry.size), blobs.values())
            return [entry for entry, found in zip(blobs.values(), there, strict=True) if not found]

    def _fetch(self, entry: FileEntry, path: Path, on_bytes: Callable[[int], None] | None, streams: int) -> None:
        hashed = hashlib.sha256()
        with translated(f"writing {path}", self._bucket.name), replacing(path) as file:
            for piece in download(self._bucket, entry.sha256, entry.size, streams):
                file.write(piece)
                hashed.update(piece)
                if on_bytes is not None:
                    on_bytes(len(piece))
            if (found := Digest(hashed.hexdigest())) != entry.sha256:
                raise damaged(self._bucket, entry.sha256, found)


def _manifest_key(kind: Kind, fingerprint: str) -> str:
    return f"artifacts/{kind}/{fingerprint}.json"


def _key(key: str) -> str:
    if not key.startswith(_KEYS) or any(part in {"", ".", ".."} for part in key.split("/")):
        raise BadInput(f"not a key: {key!r}", remedy=f"a key starts with one of {', '.join(_KEYS)} and has no '..'")
    return key
