"""The store: blobs by digest, and manifests that are written last and name only blobs that are there."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Final

from containers.digest import Digest
from containers.errors import BadInput
from containers.sha256 import Sha256
from containers.store.catalog import UnreadableManifest, listed_manifests, manifest_key, read_manifest
from containers.store.claims import Claims
from containers.store.client import Bucket
from containers.store.failures import translated
from containers.store.files import digest_of, remove_leftovers, replacing
from containers.store.folder import FolderBucket
from containers.store.links import link_checked
from containers.store.midstates import verification, write_midstates
from containers.store.sweep import Sweep
from containers.store.transfer import BlobReader, damaged, download, key_of, missing, upload

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator
    from datetime import timedelta
    from pathlib import Path

    from containers.contract import ArtifactRef, Kind, StoreLocation
    from containers.settings import StoreSettings
    from containers.sha256 import Verification
    from containers.store.client import Seen
    from containers.store.manifest import FileEntry, Manifest
    from containers.store.sweep import Needed, Swept
    from containers.streams import Stream

_STREAMS: Final = 4  # ranges or files on the wire at once
_PIECE: Final = 1 << 20
_KEYS: Final = ("results/", "watch/")


class Store:
    """Content-addressed artifacts on S3; safe to use from several threads.

    Keys: `blobs/sha256/<hex>` for contents, `artifacts/<kind>/<fingerprint>.json` for manifests, `results/<name>` for
    what Prefect remembers, `watch/<name>` for what was shipped, pinned and seen by the watcher; `claims/` and `notices/` keep
    sweeps off what is in use (`containers.store.claims`), and `midstates/sha256/<hex>` lets all cores check a large blob
    (`containers.sha256`). What was found here stays for as long as a run may take. Besides what each method
    says, all raise Temporary (the store cannot be reached), DiskFull and BadInput (keys, permission, settings).
    """

    def __init__(self, bucket: Bucket, claims: Claims | None = None) -> None:
        self._bucket = bucket
        self._claims = claims or Claims(bucket)

    @classmethod
    def open(cls, location: StoreLocation, settings: StoreSettings) -> Store:
        """The store at a location; its bucket is created when it is missing."""
        here = settings.direct and settings.folder is not None and settings.folder.is_dir()
        bucket = FolderBucket(location, settings) if here else Bucket(location, settings)
        bucket.ensure()
        return cls(bucket, Claims(bucket, renewing=True))

    def has_blob(self, digest: Digest, size: int) -> bool:
        """Whether a blob of that size is there, and stays; its bytes are checked when they are read."""
        seen = self._claims.look([key_of(digest)])[key_of(digest)]
        return seen is not None and seen.size == size

    def put_bytes(self, content: bytes) -> Digest:
        """Store a small blob."""
        digest = Digest.of(content)
        if not self.has_blob(digest, len(content)):
            with self._making(key_of(digest)) as key:
                self._bucket.write(key, content)
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
                    with self._making(key_of(known)):
                        upload(self._bucket, file, known, size, on_bytes)
        return known

    def take_file(
        self, path: Path, digest: Digest, on_bytes: Callable[[int], None] | None = None, *, midstates: bytes = b""
    ) -> None:
        """Store a file that its writer hashed and needs no longer: where the store is a folder here, it is moved in.

        With its midstates (`containers.sha256`) later checks use all cores.
        """
        size = path.stat().st_size
        if isinstance(self._bucket, FolderBucket) and not self.has_blob(digest, size):
            with self._making(key_of(digest)) as key:
                self._bucket.move_in(key, path)
            write_midstates(self._bucket, digest, midstates)
            if on_bytes is not None and size:
                on_bytes(size)
        else:
            self.put_file(path, digest=digest, on_bytes=on_bytes)

    def share_file(self, path: Path, digest: Digest, *, midstates: bytes = b"") -> None:
        """Store a file that was just hashed and stays where it is: where the store is a folder here, without a copy."""
        if isinstance(self._bucket, FolderBucket):
            if not self.has_blob(digest, path.stat().st_size):
                self._claims.claim([key_of(digest)])  # a hard link is as old as the file
                self._bucket.share(key_of(digest), path)
                write_midstates(self._bucket, digest, midstates)
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
        with self._making(key_of(digest)):
            upload(self._bucket, stream, digest, size, on_bytes)

    def open_blob(self, digest: Digest, *, size: int, offset: int = 0, checked: bool = True) -> BlobReader:
        """Read a blob from `offset` on, as a stream; the digest is checked when it is read from the start to the end, unless
        the reader says that he does that himself (and calls `recheck` if he finds other bytes).

        Raises BadInput when the blob is missing, and, like every read, DamagedBlob when its bytes are wrong.
        """
        if not 0 <= offset <= size:
            raise ValueError(f"offset {offset} is not within a blob of {size} bytes")
        return BlobReader(self._bucket, digest, size, offset, checked=checked)

    def recheck(self, digest: Digest, size: int) -> None:
        """Read a blob once more, for who has met other bytes in it: raises DamagedBlob if it holds them."""
        with self.open_blob(digest, size=size) as stream:
            while stream.read(_PIECE):
                pass

    def verification(self, digest: Digest, size: int) -> Verification:
        """Checks the bytes of a blob that are read in pieces, in order; with its midstates on all cores."""
        return verification(self._bucket, digest, size)

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
        """The artifact with this fingerprint, which stays; None when it, or any of its blobs, is missing or of another size."""
        key = manifest_key(kind, fingerprint)
        try:
            there = self._claims.look([key])[key] is not None
            manifest = read_manifest(self._bucket, kind, fingerprint) if there else None
        except UnreadableManifest:  # treated as missing: the next run writes it again
            return None
        return manifest if manifest is not None and not self._absent(manifest, self._claims.glance) else None

    def load(self, ref: ArtifactRef) -> Manifest:
        """The manifest that a reference names; BadInput when it is absent or its contents are others."""
        with suppress(BadInput):  # who may only read is not kept from it
            self._claims.look([manifest_key(ref.kind, ref.fingerprint)])
        manifest = read_manifest(self._bucket, ref.kind, ref.fingerprint)
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
        returned: what others have read under a fingerprint does not change under their hands. Of two that are made at one
        moment, too, where the store knows conditional writes; elsewhere the later one counts, and the other's reference is
        refused when it is loaded.
        """
        if absent := self._absent(manifest, self._claims.look):
            names = ", ".join(f"{entry.path} ({entry.sha256.short})" for entry in absent[:3])
            raise BadInput(
                f"{len(absent)} of {len(manifest.files)} blobs of the {manifest.kind} are not in the store: {names}",
                remedy="store every blob before the manifest; run the step again",
            )
        content = manifest.model_dump_json(indent=1, exclude_none=True).encode() + b"\n"
        present = self.find(manifest.kind, manifest.fingerprint)
        if present is None:
            key = manifest_key(manifest.kind, manifest.fingerprint)
            self._claims.wait([key])
            if self._bucket.write_new(key, content):
                self._claims.written(key)
                return manifest.ref
            present = self.find(manifest.kind, manifest.fingerprint)  # made just now, or one that is not whole
        if present is not None and present.digest != manifest.digest:
            return present.ref
        with self._making(manifest_key(manifest.kind, manifest.fingerprint)) as key:
            self._bucket.write(key, content)
        return manifest.ref

    def forget(self, ref: ArtifactRef) -> None:
        """Remove a manifest, so that its artifact is made again; its blobs stay until they are swept."""
        self._bucket.delete(manifest_key(ref.kind, ref.fingerprint))

    def manifests(self, kind: Kind | None = None) -> Iterator[Manifest]:
        """Every manifest, or those of one kind; BadInput at one that cannot be read."""
        for _, of_kind, fingerprint in listed_manifests(self._bucket, kind):
            manifest = read_manifest(self._bucket, of_kind, fingerprint)
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

        def restore(entry: FileEntry) -> None:
            path = folder / entry.path
            with translated(f"reading {path}", self._bucket.name):
                kept = path.is_file() and path.stat().st_size == entry.size and digest_of(path) == entry.sha256
            if not kept:
                self._fetch(entry, path, on_bytes, _STREAMS // at_once)
            elif on_bytes is not None:
                on_bytes(entry.size)

        with ThreadPoolExecutor(at_once, thread_name_prefix="store-files") as pool:
            futures = [pool.submit(restore, entry) for entry in manifest.files]
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
        """The file of a blob, not checked; None where the store is not a folder here, or has no such blob of that size."""
        if not isinstance(self._bucket, FolderBucket) or not self.has_blob(digest, size):
            return None
        return self._bucket.path(key_of(digest))

    @property
    def here(self) -> bool:
        """Whether its blobs are files of this machine."""
        return isinstance(self._bucket, FolderBucket)

    def sweep(
        self,
        needed: Callable[[], Needed],
        *,
        older: timedelta,
        keep_bytes: int | None = None,
        delete: bool = False,
    ) -> Swept:
        """Find, and with `delete` remove, what nothing needs; `needed` and what is raised: `containers.store.sweep.Sweep`."""
        return Sweep(self._bucket, needed, older=older, keep_bytes=keep_bytes).run(delete=delete)

    def link(self, entry: FileEntry, *, days: int = 7, media_type: str = "text/html") -> str:
        """A URL under which a browser reads one file of an artifact for some days, without credentials."""
        return self._bucket.link(key_of(entry.sha256), seconds=days * 86_400, media_type=media_type)

    def keys(self, prefix: str) -> list[str]:
        """The keys below a prefix that starts with `results/` or `watch/`, in order."""
        return sorted(listed.key for listed in self._bucket.listing(_key(prefix.rstrip("/")) + "/"))

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

    def delete_key(self, key: str) -> None:
        """No error when it is gone already."""
        self._bucket.delete(_key(key))

    def _absent(self, manifest: Manifest, look: Callable[[Collection[str]], dict[str, Seen | None]]) -> list[FileEntry]:
        """The files whose blobs are missing or have another size."""
        blobs = {key_of(entry.sha256): entry for entry in manifest.files}
        found = look(blobs.keys()) if blobs else {}
        return [entry for key, entry in blobs.items() if (seen := found[key]) is None or seen.size != entry.size]

    @contextmanager
    def _making(self, key: str) -> Iterator[str]:
        """Write a key in the block: no sweep is about to take it, and none takes it then."""
        self._claims.wait([key])
        yield key
        self._claims.written(key)

    def _fetch(self, entry: FileEntry, path: Path, on_bytes: Callable[[int], None] | None, streams: int) -> None:
        with translated(f"writing {path}", self._bucket.name), replacing(path) as file:
            checked = self.verification(entry.sha256, entry.size)
            for piece in download(self._bucket, entry.sha256, entry.size, streams):
                file.write(piece)
                checked.update(piece)
                if on_bytes is not None:
                    on_bytes(len(piece))
            if checked.right():
                return
            file.seek(0)
            hashed = Sha256()  # once more in one pass, which is right or says what the blob holds
            for piece in download(self._bucket, entry.sha256, entry.size, streams):
                file.write(piece)
                hashed.update(piece)
            if (found := hashed.digest()) != entry.sha256:
                raise damaged(self._bucket, entry.sha256, found)


def _key(key: str) -> str:
    if not key.startswith(_KEYS) or any(part in {"", ".", ".."} for part in key.split("/")):
        raise BadInput(f"not a key: {key!r}", remedy=f"a key starts with one of {', '.join(_KEYS)} and has no '..'")
    return key
