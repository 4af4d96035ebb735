"""Where the files of a modelcar come from: an artifact in the store, or any folder."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

from containers.checkpoint_files import CheckpointFile
from containers.digest import Digest, canonical_json
from containers.errors import BadInput
from containers.oci.layer import LayerFile, check_path

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from containers.oci.push_cache import PushCache
    from containers.store import Manifest, Store
    from containers.streams import OpenStream

INDEX_FILE: Final = "model.safetensors.index.json"
_JSON_MAX: Final = 64 << 20  # bytes; the index of a 191-shard checkpoint has about 200 kB
_SKIPPED: Final = (".git", ".cache", ".huggingface", "__pycache__")  # folders that tools leave in a checkpoint


class Source(Protocol):
    """Files by path. `files` is sorted by path."""

    files: tuple[CheckpointFile, ...]

    def open(self, path: str, offset: int = 0) -> OpenStream:
        """The bytes of a file from `offset` on."""

    def learned(self, path: str, sha256: Digest) -> None:
        """Take note of the digest of a file that was just read from its first byte to its last."""


class StoredCheckpoint:
    """An artifact of the store: every digest is known."""

    def __init__(self, store: Store, manifest: Manifest) -> None:
        self._store = store
        self._entries = {entry.path: entry for entry in manifest.files}
        self.files: tuple[CheckpointFile, ...] = tuple(
            CheckpointFile(entry.path, entry.size, entry.sha256, entry.layer)
            for entry in sorted(manifest.files, key=lambda entry: entry.path)
        )

    def open(self, path: str, offset: int = 0) -> OpenStream:
        entry = self._entries[path]
        return self._store.open_blob(entry.sha256, size=entry.size, offset=offset)

    def learned(self, path: str, sha256: Digest) -> None:
        entry = self._entries[path]
        if entry.sha256 != sha256:
            self._store.discard_blob(entry.sha256)
            raise BadInput(
                f"{path} in the store did not match its digest {entry.sha256} and was removed",
                remedy="run the whole pipeline again: it makes the file again",
            )


class CheckpointFolder:
    """A folder in Hugging Face layout. Links are followed inside the folder and refused when they lead out of it."""

    def __init__(self, root: Path, cache: PushCache) -> None:
        self._root = root
        self._cache = cache
        self._stats: dict[str, os.stat_result] = {}
        if not root.is_dir():
            raise BadInput(f"{root} is not a folder", remedy="give a checkpoint folder or an artifact's fingerprint")
        self.files: tuple[CheckpointFile, ...] = tuple(self._walk())

    def _walk(self) -> Iterator[CheckpointFile]:
        real = self._root.resolve()
        found: list[str] = []
        for folder, folders, names in os.walk(self._root, onerror=_unreadable):
            folders[:] = sorted(name for name in folders if name not in _SKIPPED)
            here = Path(folder)
            links = [name for name in folders if (here / name).is_symlink()]
            found += [str((here / name).relative_to(self._root)) for name in [*names, *links]]
        for path in sorted(found, key=os.fsencode):
            check_path(path)
            full = self._root / path
            if full.is_symlink() and not full.resolve().is_relative_to(real):
                raise BadInput(
                    f"{path} is a link that leads out of {self._root}",
                    remedy="copy the file into the folder (for a hub snapshot: `cp -rL`, or give hf://org/name)",
                )
            try:
                status = full.stat()
            except OSError as error:
                raise BadInput(f"cannot read {full}: {error.strerror}") from error
            if stat.S_ISDIR(status.st_mode):
                raise BadInput(f"{path} is a link to a folder", remedy="replace the link with a copy of the folder")
            if not stat.S_ISREG(status.st_mode):
                raise BadInput(f"{path} is not a regular file", remedy="remove it from the checkpoint")
            self._stats[path] = status
            yield CheckpointFile(path, status.st_size, self._cache.file(status))

    def open(self, path: str, offset: int = 0) -> OpenStream:
        try:
            file = (self._root / path).open("rb", buffering=0)
        except OSError as error:
            raise BadInput(f"cannot read {self._root / path}: {error.strerror}") from error
        if not _same(os.fstat(file.fileno()), self._stats[path]):
            file.close()
            raise _changed(path)
        file.seek(offset)
        return file

    def learned(self, path: str, sha256: Digest) -> None:
        if not _same((self._root / path).stat(), self._stats[path]):
            raise _changed(path)
        self._cache.remember_file(self._stats[path], sha256)


def read_json(source: Source, path: str) -> dict[str, object]:
    """A JSON object of the checkpoint; raises BadInput when the file is missing or something else."""
    file = next((one for one in source.files if one.path == path), None)
    if file is None:
        raise BadInput(f"the checkpoint has no {path}", remedy="give a checkpoint folder in Hugging Face layout")
    if file.size > _JSON_MAX:
        raise BadInput(f"{path} has {file.size} bytes: not a configuration file")
    stream = source.open(path)
    try:
        parts = iter(lambda: stream.read(1 << 20), b"")
        value = json.loads(b"".join(parts))
    except ValueError as error:
        raise BadInput(f"{path} is not JSON: {error}") from error
    finally:
        stream.close()
    if not isinstance(value, dict):
        raise BadInput(f"{path} is not a JSON object")
    return value


def check_checkpoint(source: Source) -> dict[str, object]:
    """The checkpoint's config.json; raises BadInput unless it and every shard that the index names are there."""
    paths = {file.path for file in source.files}
    config = read_json(source, "config.json")
    if not any(path.endswith(".safetensors") for path in paths):
        raise BadInput(
            "the checkpoint has no safetensors file",
            remedy="Carwright ships safetensors only; convert pickles (.bin, .pth, .pt) first",
        )
    if INDEX_FILE in paths:
        weights = read_json(source, INDEX_FILE).get("weight_map")
        if not isinstance(weights, dict):
            raise BadInput(f"{INDEX_FILE} has no weight_map")
        missing = sorted({str(shard) for shard in weights.values()} - paths)
        if missing:
            raise BadInput(
                f"{INDEX_FILE} names {len(missing)} missing shard(s): {', '.join(missing[:5])}",
                remedy="finish the download; a modelcar with incomplete weights would not load",
            )
    return config


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
        return _Tee(self._source.open(file.path, offset), digest.update, position, offset)

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


def _unreadable(error: OSError) -> None:
    raise BadInput(f"cannot read {error.filename}: {error.strerror}") from error
