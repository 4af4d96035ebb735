"""Links to blobs of a store that is a folder of this machine, for programs that read files: each blob is checked first."""

from __future__ import annotations

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Final

from containers.digest import Digest
from containers.sha256 import verify_file
from containers.store.failures import translated
from containers.store.files import link_or_copy
from containers.store.midstates import discard_midstates, read_midstates
from containers.store.transfer import damaged, key_of, missing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from containers.store.folder import FolderBucket
    from containers.store.manifest import FileEntry

_PIECE: Final = 1 << 20


def link_checked(
    bucket: FolderBucket,
    entries: Iterable[FileEntry],
    folder: Path,
    on_bytes: Callable[[int], None] | None = None,
) -> None:
    """Put links to the blobs below a folder, as many at once as there are processors, which also share in large ones.

    `on_bytes` is called from several threads. Raises DamagedBlob for other bytes than the digest promises, BadInput for a
    blob that is not there.
    """

    def link(entry: FileEntry) -> None:
        _check(bucket, entry, on_bytes)
        with translated(f"writing to {folder}", bucket.name):
            path = folder / entry.path
            path.parent.mkdir(parents=True, exist_ok=True)
            link_or_copy(bucket.path(key_of(entry.sha256)), path)

    with ThreadPoolExecutor(os.cpu_count() or 1, thread_name_prefix="store-check") as pool:
        for future in [pool.submit(link, entry) for entry in entries]:
            future.result()


def _check(bucket: FolderBucket, entry: FileEntry, on_bytes: Callable[[int], None] | None) -> None:
    found = hashlib.sha256()
    try:
        with bucket.open(key_of(entry.sha256)) as file:
            midstates = read_midstates(bucket, entry.sha256, entry.size)
            if midstates:
                if verify_file(file.fileno(), entry.size, entry.sha256, midstates, on_bytes):
                    return
                on_bytes = None  # all bytes are counted
            while piece := file.read(_PIECE):
                found.update(piece)
                if on_bytes is not None:
                    on_bytes(len(piece))
    except FileNotFoundError as error:
        raise missing(entry.sha256, bucket.name) from error
    if (digest := Digest(found.hexdigest())) != entry.sha256:
        raise damaged(bucket, entry.sha256, digest)
    if midstates:
        discard_midstates(bucket, entry.sha256)  # the bytes are right, so these are not
