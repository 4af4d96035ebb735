"""An OCI image layout (image-layout.md of the image specification 1.1): a folder with blobs and an index.json.

Blobs are written under a name of their own and renamed, index.json is written last and replaced in one step, and one
writer at a time changes it (a lock on `.carwright/lock`): a reader sees the old index or the new one, and everything
that either names is there.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import stat
import uuid
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, BinaryIO, Final, Self

from containers.digest import Digest, canonical_json
from containers.errors import BadInput, DiskFull, Temporary
from containers.foreign_json import DOCUMENT, read_at_most
from containers.oci.layer import CHUNK
from containers.oci.reference import check_tag
from containers.oci.repository import Blob, StoredManifest
from containers.oci.types import INDEX, REF_NAME, Descriptor, ImageManifest, Index, parse_manifest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from containers.oci.reference import Reference

_VERSION: Final = {"imageLayoutVersion": "1.0.0"}
FULL: Final = (errno.ENOSPC, errno.EDQUOT)
_REFUSED: Final = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.ENOENT, errno.ENAMETOOLONG)


class Layout:
    """A `Repository` in a folder; created on the first write."""

    def __init__(self, reference: Reference) -> None:
        if reference.layout is None:
            raise BadInput(f"{reference} is not a layout", remedy="write oci:DIR")
        self.reference = reference
        self._root: Path = reference.layout
        self._work = self._root / ".carwright"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Nothing is held open."""

    def blob_size(self, digest: Digest) -> int | None:
        try:
            return self._path(digest).stat().st_size
        except FileNotFoundError:
            return None

    @contextmanager
    def read_blob(self, digest: Digest, offset: int = 0) -> Iterator[Iterator[bytes]]:
        try:
            file = _open(self._path(digest))
        except FileNotFoundError as error:
            raise BadInput(
                f"{self.reference.target}: the blob {digest} is missing", remedy="the layout is damaged; push it again"
            ) from error
        except OSError as error:
            raise self._unreadable(error) from error
        with file:
            file.seek(offset)
            yield iter(lambda: file.read(CHUNK), b"")

    def put_blob(self, blob: Blob, on_bytes: Callable[[int], None]) -> Digest:
        if blob.digest is not None and self.blob_size(blob.digest) == blob.size:
            return blob.digest
        with self._writing() as temporary:
            digest = hashlib.sha256()
            with temporary.open("xb") as file:
                for chunk in blob.chunks(0):
                    file.write(chunk)
                    digest.update(chunk)
                    on_bytes(len(chunk))
                size = file.tell()
                file.flush()
                os.fsync(file.fileno())
            actual = Digest(digest.hexdigest())
            if size != blob.size or (blob.digest is not None and actual != blob.digest):
                blob.recheck()
                raise BadInput(
                    f"{blob.name or blob.digest} changed while it was read, or does not match its digest",
                    remedy="stop anything that writes to the checkpoint, then start again",
                )
            temporary.replace(self._path(actual))
        return actual

    def get(self, what: str) -> StoredManifest | None:
        by_digest = (
            ":" in what
        )  # no tag holds a colon, but an entry of somebody else's index.json may be called by a digest
        entries = self._index().manifests
        entry = next((one for one in entries if what == (str(one.digest) if by_digest else _name(one))), None)
        if entry is None and by_digest:  # a manifest of an index is a blob that index.json does not name
            digest = Digest.parse(what)
            if self.blob_size(digest) is None:
                return None
            content = self._read(digest)
            return StoredManifest(content, parse_manifest(content, f"the manifest {digest}").media_type, digest)
        if entry is None:
            return None
        return StoredManifest(self._read(entry.digest), entry.media_type, entry.digest)

    def put(self, content: bytes, media_type: str, tag: str = "") -> Digest:
        digest = self.put_blob(Blob.of(content), lambda _: None)
        entry = Descriptor(media_type=media_type, digest=digest, size=len(content))
        self._change(lambda entries: _with(entries, entry, check_tag(tag) if tag else ""))
        return digest

    def now(self) -> datetime:
        return datetime.now(UTC)

    def tags(self) -> tuple[str, ...]:
        return tuple(sorted({name for one in self._index().manifests if (name := _name(one))}))

    def only(self) -> str:
        """The digest of the one image in the layout; raises BadInput when there is none or a choice."""
        images: dict[Digest, str] = {}
        for entry in self._index().manifests:
            if parse_manifest(self._read(entry.digest), f"the manifest {entry.digest}").subject is None:
                images.setdefault(entry.digest, _name(entry))
        if len(images) != 1:
            names = ", ".join(name or str(digest) for digest, name in images.items()) or "nothing"
            raise BadInput(
                f"{self.reference.target} holds {names}", remedy="name the image: oci:DIR:TAG or oci:DIR@DIGEST"
            )
        return str(next(iter(images)))

    def referrers(self, subject: Digest) -> tuple[Descriptor, ...]:
        found: dict[Digest, Descriptor] = {}
        for entry in self._index().manifests:
            manifest = parse_manifest(self._read(entry.digest), f"the manifest {entry.digest}")
            if manifest.subject is not None and manifest.subject.digest == subject:
                kind = manifest.artifact_type or (
                    manifest.config.media_type if isinstance(manifest, ImageManifest) else None
                )
                found[entry.digest] = Descriptor(
                    media_type=entry.media_type,
                    digest=entry.digest,
                    size=entry.size,
                    artifact_type=kind,
                    annotations=manifest.annotations,
                )
        return tuple(found.values())

    def refer(self, content: bytes, manifest: ImageManifest) -> Digest:
        return self.put(content, manifest.media_type)

    def delete(self, digest: Digest) -> None:
        self._change(lambda entries: tuple(one for one in entries if one.digest != digest))

    def _path(self, digest: Digest) -> Path:
        return self._root / "blobs" / "sha256" / digest.hex

    def _read(self, digest: Digest) -> bytes:
        try:
            with _open(self._path(digest)) as file:
                content = read_at_most(DOCUMENT, file.read)
        except FileNotFoundError as error:
            raise BadInput(
                f"{self.reference.target}: the manifest {digest} is missing", remedy="the layout is damaged; push again"
            ) from error
        except OSError as error:
            raise self._unreadable(error) from error
        if Digest.of(content) != digest:
            raise BadInput(
                f"{self.reference.target}: the manifest {digest} is damaged", remedy="remove the folder and push again"
            )
        return content

    def _index(self) -> Index:
        try:
            with _open(self._root / "index.json") as file:
                content = read_at_most(DOCUMENT, file.read)
        except FileNotFoundError:
            return Index(manifests=())
        except OSError as error:
            raise self._unreadable(error) from error
        return Index.parse(content, f"{self._root}/index.json")

    def _unreadable(self, error: OSError) -> BadInput:
        return BadInput(f"{self.reference.target} is not an image layout: {error.strerror}")

    def _change(self, change: Callable[[tuple[Descriptor, ...]], tuple[Descriptor, ...]]) -> None:
        """Replace index.json by what `change` makes of its entries; one writer at a time."""
        with self._writing() as temporary, (self._work / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            marker = self._root / "oci-layout"
            if not marker.exists():
                temporary.write_bytes(canonical_json(_VERSION))
                temporary.replace(marker)
            before = self._index()
            after = before.model_copy(update={"manifests": change(before.manifests)})
            if after == before and (self._root / "index.json").exists():
                return
            temporary.write_bytes(after.model_copy(update={"media_type": INDEX}).encode())
            temporary.replace(self._root / "index.json")

    @contextmanager
    def _writing(self) -> Iterator[Path]:
        """A temporary name in the layout's own file system, removed at the end; a full disk becomes DiskFull.

        Every writer holds a lock on its own temporary file's name through the kernel, so that what a killed writer left
        is told from what another is writing now.
        """
        temporary = self._work / f"{uuid.uuid4().hex}.partial"
        claim = temporary.with_suffix(".claim")
        try:
            (self._root / "blobs" / "sha256").mkdir(parents=True, exist_ok=True)
            self._work.mkdir(exist_ok=True)
            with claim.open("w") as held:
                fcntl.flock(held, fcntl.LOCK_EX)
                self._sweep()
                try:
                    yield temporary
                finally:
                    temporary.unlink(missing_ok=True)
                    claim.unlink(missing_ok=True)
        except OSError as error:
            claim.unlink(missing_ok=True)
            if error.errno in FULL:
                raise DiskFull(
                    f"no space is left for {self.reference.target}; nothing was published",
                    remedy="free some space and start again: finished blobs are not written twice",
                ) from error
            if error.errno in _REFUSED:
                raise BadInput(f"cannot write to {self.reference.target}: {error.strerror}") from error
            raise Temporary(f"cannot write to {self.reference.target}: {error.strerror}") from error

    def _sweep(self) -> None:
        """Remove the unfinished files of writers that are gone."""
        for claim in self._work.glob("*.claim"):
            with suppress(OSError), claim.open("r+") as held:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
                claim.with_suffix(".partial").unlink(missing_ok=True)
                claim.unlink(missing_ok=True)


def _open(path: Path) -> BinaryIO:
    """A file of the layout, which somebody else may have made: a pipe does not block, and only files are read."""
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise OSError(errno.EINVAL, f"{path.name} is not a file")
    return os.fdopen(handle, "rb")


def _name(entry: Descriptor) -> str:
    return entry.annotations.get(REF_NAME, "")


def _with(entries: tuple[Descriptor, ...], entry: Descriptor, tag: str) -> tuple[Descriptor, ...]:
    """With `entry` under `tag`: the tag moves to it; without a tag it is added unless it is there under any name."""
    if not tag:
        return entries if any(one.digest == entry.digest for one in entries) else (*entries, entry)
    kept = tuple(one for one in entries if _name(one) != tag and not (one.digest == entry.digest and not _name(one)))
    if any(one.digest == entry.digest and _name(one) == tag for one in entries):
        return entries
    return (*kept, entry.model_copy(update={"annotations": {REF_NAME: tag}}))
