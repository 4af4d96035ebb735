"""A checkpoint to be quantized, known by its small files and its shards' headers: no weight is read."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol

from containers.checkpoint_files import CONFIG, INDEX_SUFFIX, SHARD_SUFFIX, CheckpointFile, never_belongs, weight_map
from containers.errors import BadInput
from containers.folder_files import SourceFolder
from containers.foreign_json import CONFIGURATION, TENSORS, parse_object, read_at_most
from containers.foreign_values import shown
from containers.safetensors import Header, read_header
from containers.sha256 import Verification

if TYPE_CHECKING:
    from collections.abc import Mapping
    from contextlib import AbstractContextManager
    from pathlib import Path

    from containers.foreign_json import JsonLimits
    from containers.store import FileEntry, Manifest, Store
    from containers.streams import Stream

_READERS: Final = 8  # headers read at once
_TENSORS_MAX: Final = 1 << 20  # of a checkpoint; the largest mixtures of experts have 140,000
_REMEDY: Final = "fetch the checkpoint again"
_DUPLICATES: Final = "consolidated"  # Mistral's own layout of the same weights, beside the Hugging Face one


class Files(Protocol):
    """Where a checkpoint's files are."""

    def listing(self) -> tuple[CheckpointFile, ...]: ...

    def open(self, file: CheckpointFile, offset: int = 0) -> AbstractContextManager[Stream]:
        """The file's bytes from `offset` on. Only from 0 to the end are they checked against a known digest."""

    def verification(self, file: CheckpointFile) -> Verification:
        """For who checks the bytes of a file with a known digest himself."""


class StoredFiles:
    """The files of an artifact in the store."""

    def __init__(self, store: Store, manifest: Manifest) -> None:
        self._store = store
        self._entries: dict[str, FileEntry] = {entry.path: entry for entry in manifest.files}

    def listing(self) -> tuple[CheckpointFile, ...]:
        return tuple(CheckpointFile(entry.path, entry.size, entry.sha256) for entry in self._entries.values())

    def open(self, file: CheckpointFile, offset: int = 0) -> AbstractContextManager[Stream]:
        entry = self._entries[file.path]
        return self._store.open_blob(entry.sha256, size=entry.size, offset=offset)

    def verification(self, file: CheckpointFile) -> Verification:
        entry = self._entries[file.path]
        return self._store.verification(entry.sha256, entry.size)


class FolderFiles:
    """The files below a folder by the rule of `containers.folder_files`, without what belongs in no checkpoint."""

    def __init__(self, folder: Path) -> None:
        self._folder = SourceFolder(folder)

    def listing(self) -> tuple[CheckpointFile, ...]:
        found = self._folder.files(skip=never_belongs)
        return tuple(CheckpointFile(file.path, file.state.st_size) for file in found)

    def open(self, file: CheckpointFile, offset: int = 0) -> AbstractContextManager[Stream]:
        return self._folder.open(file.path, offset)

    def verification(self, file: CheckpointFile) -> Verification:
        assert file.sha256 is not None
        return Verification(file.sha256, file.size)


@dataclass(frozen=True)
class Checkpoint:
    """What the headers and the small files say. `shards` is in the order of the file names.

    `index` is the path of the index, None for a checkpoint of one file without one. `left_out` are weights that the
    index does not name because they are the same ones in another layout.
    """

    files: tuple[CheckpointFile, ...]
    config: Mapping[str, Any]
    index: str | None
    shards: Mapping[CheckpointFile, Header]
    left_out: tuple[str, ...] = ()

    @property
    def names(self) -> list[str]:
        return [tensor.name for header in self.shards.values() for tensor in header.tensors]

    @property
    def hidden(self) -> int:
        """The size of the hidden state; 0 when the configuration does not say it."""
        size = self.setting("hidden_size") or self.setting("n_embd")
        return size if isinstance(size, int) else 0

    def setting(self, name: str) -> Any:
        """A value of config.json, of its text part in a multimodal one; None when it is in neither."""
        text = self.config.get("text_config")
        inner = text.get(name) if isinstance(text, dict) else None
        return self.config.get(name, inner)


def read_checkpoint(files: Files) -> Checkpoint:
    """Read config, index and headers, and hold them against each other.

    Raises BadInput: no config or no weights, a file that is not what it should be, a tensor in two shards, an index and
    shards that disagree.
    """
    listing = {file.path: file for file in files.listing()}
    if CONFIG not in listing:
        raise BadInput("the checkpoint has no config.json", remedy="quantize a checkpoint in Hugging Face layout")
    config = parse_object(read_small(files, listing[CONFIG], CONFIGURATION), CONFIG, CONFIGURATION, remedy=_REMEDY)
    found = [file for path, file in sorted(listing.items()) if path.endswith(SHARD_SUFFIX)]
    index = _find_index(listing)
    mapped = _weight_map(files, listing[index]) if index else None
    if mapped is None and [file.path for file in found] != ["model.safetensors"]:
        raise BadInput(
            f"the checkpoint has no index and these weights: {', '.join(file.path for file in found) or 'none'}",
            remedy="a checkpoint of several shards needs its model.safetensors.index.json, one of one file has model.safetensors",
        )
    left_out = tuple(file.path for file in found if mapped and _is_duplicate(file.path, mapped))
    shards = _read_headers(files, [file for file in found if file.path not in left_out])
    owners = _owners(shards)
    if mapped is not None and mapped != owners:
        raise _disagreement(index or "", mapped, owners)
    return Checkpoint(tuple(listing.values()), config, index, shards, left_out)


def read_small(files: Files, file: CheckpointFile, limits: JsonLimits) -> bytes:
    """All of a small file, up to what `parse_json` takes."""
    with files.open(file) as stream:
        return read_at_most(limits, stream.read)


def _find_index(listing: Mapping[str, CheckpointFile]) -> str | None:
    """The index of the Hugging Face layout, or else the only other one."""
    indexes = sorted(path for path in listing if path.endswith(INDEX_SUFFIX))
    preferred = f"model{INDEX_SUFFIX}"
    return preferred if preferred in indexes else next(iter(indexes), None)


def _weight_map(files: Files, index: CheckpointFile) -> dict[str, str]:
    mapped = weight_map(read_small(files, index, TENSORS), index.path)
    folder = index.path.rpartition("/")[0]
    return {name: f"{folder}/{path}" if folder else path for name, path in mapped.items()}


def _is_duplicate(path: str, mapped: Mapping[str, str]) -> bool:
    return path.startswith(_DUPLICATES) and path not in mapped.values()


def _read_headers(files: Files, shards: list[CheckpointFile]) -> dict[CheckpointFile, Header]:
    lock = threading.Lock()
    left = _TENSORS_MAX

    def read(file: CheckpointFile) -> Header:
        nonlocal left
        with files.open(file) as stream:
            header = read_header(stream, file.path, file.size)
        with lock:
            left -= len(header.tensors)
        if left < 0:
            raise BadInput(f"the checkpoint has more than {_TENSORS_MAX} tensors", remedy="quantize another checkpoint")
        return header

    with ThreadPoolExecutor(_READERS) as pool:
        try:
            return dict(zip(shards, pool.map(read, shards), strict=True))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _owners(shards: Mapping[CheckpointFile, Header]) -> dict[str, str]:
    owners: dict[str, str] = {}
    for file, header in shards.items():
        for tensor in header.tensors:
            other = owners.setdefault(tensor.name, file.path)
            if other != file.path:
                raise BadInput(
                    f"the tensor {tensor.name} is in {other} and in {file.path}",
                    remedy="remove the shards that do not belong to the checkpoint, or fetch it again",
                )
    return owners


def _disagreement(index: str, mapped: Mapping[str, str], owners: Mapping[str, str]) -> BadInput:
    name = next(name for name in sorted({*mapped, *owners}) if mapped.get(name) != owners.get(name))
    said = f"in {shown(mapped[name])}" if name in mapped else "nowhere"
    there = f"in {owners[name]}" if name in owners else "in no shard"
    return BadInput(
        f"{index} and the shards disagree: it has the tensor {shown(name)} {said}, but it is {there}",
        remedy="fetch the checkpoint again; index and shards are from different versions",
    )
