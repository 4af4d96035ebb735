"""Where the files of a modelcar come from: an artifact in the store, or any folder."""

from __future__ import annotations

import hashlib
import os
from dataclasses import replace
from typing import TYPE_CHECKING, Final, Protocol

from containers.checkpoint_files import (
    CheckpointFile,
    never_belongs,
    weight_map,
)
from containers.digest import Digest, canonical_json
from containers.errors import BadInput, Temporary
from containers.folder_files import SourceFolder
from containers.foreign_json import CONFIGURATION, TENSORS, parse_object, read_at_most
from containers.foreign_values import shown
from containers.git_lfs import POINTER_MAX, is_lfs_pointer, lfs_pointer
from containers.oci.layer import LayerFile, check_path

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from containers.foreign_json import JsonLimits
    from containers.oci.push_cache import PushCache
    from containers.store import Manifest, Store
    from containers.streams import OpenStream

INDEX_FILE: Final = "model.safetensors.index.json"


class Source(Protocol):
    """Files by path. `files` is sorted by path; `left_out` are paths of files, or of whole folders, that are not packed."""

    files: tuple[CheckpointFile, ...]
    left_out: tuple[str, ...]

    def open(self, path: str, offset: int = 0, *, checked: bool = True) -> OpenStream:
        """The bytes of a file from `offset` on. Not `checked` is for who takes a digest of them and knows what it must be."""

    def learned(self, path: str, sha256: Digest) -> None:
        """Take note of the digest of a file that was just read from its first byte to its last."""

    def recheck(self, path: str) -> None:
        """Read a file again in which other bytes were met, and raise what is wrong with it, if anything is."""


class StoredCheckpoint:
    """An artifact of the store: every digest is known."""

    def __init__(self, store: Store, manifest: Manifest) -> None:
        self._store = store
        self._entries = {entry.path: entry for entry in manifest.files}
        self.left_out: tuple[str, ...] = ()  # a download takes none
        self.files: tuple[CheckpointFile, ...] = tuple(
            CheckpointFile(entry.path, entry.size, entry.sha256, entry.layer)
            for entry in sorted(manifest.files, key=lambda entry: entry.path)
        )

    def open(self, path: str, offset: int = 0, *, checked: bool = True) -> OpenStream:
        entry = self._entries[path]
        return self._store.open_blob(entry.sha256, size=entry.size, offset=offset, checked=checked)

    def learned(self, path: str, sha256: Digest) -> None:
        if self._entries[path].sha256 != sha256:
            self.recheck(path)
            raise Temporary(
                f"{path} was first read with other bytes than its digest promises, then correctly",
                remedy="run it again; if this comes back, check this machine's memory and disks",
            )

    def recheck(self, path: str) -> None:
        entry = self._entries[path]
        self._store.recheck(entry.sha256, entry.size)


class CheckpointFolder:
    """A folder in Hugging Face layout, read by the rule of `containers.folder_files`, without what belongs in no checkpoint."""

    def __init__(self, root: Path, cache: PushCache) -> None:
        if not root.is_dir():
            raise BadInput(f"{root} is not a folder", remedy="give a checkpoint folder or an artifact's fingerprint")
        self._folder = SourceFolder(root)
        self._cache = cache
        self._stats: dict[str, os.stat_result] = {}
        left_out: list[str] = []
        self.files: tuple[CheckpointFile, ...] = tuple(self._look(left_out))
        self.left_out: tuple[str, ...] = tuple(sorted(left_out))

    def _look(self, left_out: list[str]) -> Iterator[CheckpointFile]:
        def skip(name: str) -> bool:
            if never_belongs(name):
                left_out.append(name)
                return True
            return False

        for file in self._folder.files(skip):
            check_path(file.path)
            self._stats[file.path] = file.state
            yield CheckpointFile(file.path, file.state.st_size, self._cache.file(file.state))

    def open(self, path: str, offset: int = 0, *, checked: bool = True) -> OpenStream:
        file = self._folder.open(path, offset)
        if not _same(os.fstat(file.fileno()), self._stats[path]):
            file.close()
            raise _changed(path)
        return file

    def learned(self, path: str, sha256: Digest) -> None:
        if not _same(self._folder.state(path), self._stats[path]):
            raise _changed(path)
        self._cache.remember_file(self._stats[path], sha256)

    def recheck(self, path: str) -> None:
        """Nothing can be told: whoever met them says that the file changed."""


def read_small(source: Source, path: str, limits: JsonLimits) -> bytes:
    """A file of the checkpoint, up to what `parse_json` takes; raises BadInput when it is missing."""
    if not any(one.path == path for one in source.files):
        raise BadInput(f"the checkpoint has no {path}", remedy="give a checkpoint folder in Hugging Face layout")
    stream = source.open(path)
    try:
        return read_at_most(limits, stream.read)
    finally:
        stream.close()


def check_checkpoint(source: Source) -> dict[str, object]:
    """The checkpoint's config.json; raises BadInput unless it and every shard that the index names are there, and no file
    is a pointer to what git-LFS has not fetched.
    """
    paths = {file.path for file in source.files}
    for file in source.files:
        if file.size <= POINTER_MAX and is_lfs_pointer(_front(source, file.path)):
            raise lfs_pointer(shown(file.path))
    config = parse_object(read_small(source, "config.json", CONFIGURATION), "config.json", CONFIGURATION)
    if not any(path.endswith(".safetensors") for path in paths):
        raise BadInput(
            "the checkpoint has no safetensors file",
            remedy="Carwright ships safetensors only; convert pickles (.bin, .pth, .pt) first",
        )
    if INDEX_FILE in paths:
        weights = weight_map(read_small(source, INDEX_FILE, TENSORS), INDEX_FILE)
        missing = sorted(set(weights.values()) - paths)
        if missing:
            raise BadInput(
                f"{INDEX_FILE} names {len(missing)} missing shard(s): {shown(', '.join(missing[:5]))}",
                remedy="finish the download; a modelcar with incomplete weights would not load",
            )
    return config


def _front(source: Source, path: str) -> bytes:
    stream = source.open(path)
    try:
        return stream.read(POINTER_MAX)
    finally:
        stream.close()


def files_key(files: tuple[CheckpointFile, ...]) -> str | None:
    """Canonical JSON of what decides a layer's bytes; None while a digest is unknown."""
    if any(file.sha256 is None for file in files):
        return None
    return canonical_json([[file.path, file.size, str(file.sha256)] for file in files]).decode()


class Hashing:
    """Opens the files of one layer and takes the digest of each while a single pass goes by, broken off or not."""

    def __init__(self, source: Source, files: tuple[CheckpointFile, ...]) -> None:
        self._source = source
        self._hashes = {file.path: (hashlib.sha256(), [0]) for file in files}
        self._files = files

    def open(self, file: LayerFile, offset: int) -> OpenStream:
        digest, position = self._hashes[file.path]
        # A resumed upload can only go back: the far end never has more than was sent.
        return _Tee(self._source.open(file.path, offset, checked=False), digest.update, position, offset)

    def result(self) -> tuple[CheckpointFile, ...]:
        """The files with their digests; call it when every byte has gone by."""
        done: list[CheckpointFile] = []
        for file in self._files:
            digest = Digest(self._hashes[file.path][0].hexdigest())
            self._source.learned(file.path, digest)
            done.append(replace(file, sha256=digest))
        return tuple(done)


class _Tee:
    def __init__(self, stream: OpenStream, update: Callable[[bytes], None], position: list[int], offset: int) -> None:
        self._stream = stream
        self._update = update
        self._position = position
        self._at = offset

    def read(self, size: int = -1, /) -> bytes:
        chunk = self._stream.read(size)
        fresh = chunk[max(self._position[0] - self._at, 0) :]
        if fresh:
            self._update(fresh)
            self._position[0] += len(fresh)
        self._at += len(chunk)
        return chunk

    def close(self) -> None:
        self._stream.close()


def _same(one: os.stat_result, other: os.stat_result) -> bool:
    return (one.st_ino, one.st_size, one.st_mtime_ns, one.st_ctime_ns) == (
        other.st_ino,
        other.st_size,
        other.st_mtime_ns,
        other.st_ctime_ns,
    )


def _changed(path: str) -> BadInput:
    return BadInput(
        f"{path} changed while it was read", remedy="stop anything that writes to the checkpoint, then start again"
    )
