"""One layer of a modelcar: an uncompressed GNU tar whose every byte follows from the paths, sizes and contents.

Header fields are fixed: uid and gid 0 without names, files 0664, directories 0775, mtime 0, entries in the order
given, each directory once and before what is in it, two zero blocks at the end and no further padding. GNU format,
not pax: sizes above 8 GiB are written in base 256 (scanners fail on pax sizes), and a name above 100 bytes as a
`././@LongLink` entry. That is what `tar --format=gnu --blocking-factor=1` writes; tests/golden/modelcar.sh holds us
to it.
"""

from __future__ import annotations

import hashlib
import tarfile
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Final

from containers.digest import Digest
from containers.errors import BadInput

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from containers.streams import OpenStream

ROOT: Final = "models"
CHUNK: Final = 1 << 20  # bytes read at a time
_BLOCK: Final = 512
_NAME_MAX: Final = 255  # bytes of one path component, Linux
_PATH_MAX: Final = 1024  # bytes of a whole path: well inside PATH_MAX below /proc/<pid>/root/models
_DEPTH_MAX: Final = 32  # folders in folders; each is a header in every layer that holds something of it


@dataclass(frozen=True, slots=True, order=True)
class LayerFile:
    """A file in a layer: its path relative to the layer's root, with `/`, and its size in bytes."""

    path: str
    size: int


@dataclass(frozen=True)
class Layer:
    """The tar of some files under one root, in the order given.

    The stream is glue[0], file 0, glue[1], file 1, ... glue[n]: `glue` is everything that is not a file's content
    (headers, padding, the end marker), so the digest can be computed by whoever has the contents in hand.
    """

    files: tuple[LayerFile, ...]
    root: str = ROOT

    @cached_property
    def glue(self) -> tuple[bytes, ...]:
        """Raises BadInput for a path that cannot be in a layer."""
        pieces: list[bytes] = []
        seen: set[str] = set()
        before = b""
        for file in self.files:
            check_path(file.path)
            head = [before]
            for folder in _folders(self.root, file.path):
                if folder not in seen:
                    seen.add(folder)
                    head.append(_header(folder, 0, tarfile.DIRTYPE))
            name = f"{self.root}/{file.path}" if self.root else file.path
            head.append(_header(name, file.size, tarfile.REGTYPE))
            pieces.append(b"".join(head))
            before = bytes(-file.size % _BLOCK)
        return (*pieces, before + bytes(2 * _BLOCK))

    @cached_property
    def members(self) -> tuple[tarfile.TarInfo, ...]:
        """The headers of the tar, as a reader sees them."""
        found: list[tarfile.TarInfo] = []
        seen: set[str] = set()
        for file in self.files:
            new = [folder for folder in _folders(self.root, file.path) if folder not in seen]
            seen.update(new)
            found += [_member(folder, 0, tarfile.DIRTYPE) for folder in new]
            found.append(_member(f"{self.root}/{file.path}" if self.root else file.path, file.size, tarfile.REGTYPE))
        return tuple(found)

    @cached_property
    def size(self) -> int:
        """Bytes of the whole tar, without making it: a manifest may list what would not fit into memory."""
        total = 2 * _BLOCK
        seen: set[str] = set()
        for file in self.files:
            check_path(file.path)
            folders = [folder for folder in _folders(self.root, file.path) if folder not in seen]
            seen.update(folders)
            name = f"{self.root}/{file.path}" if self.root else file.path
            total += sum(_header_size(f"{folder}/") for folder in folders) + _header_size(name)
            total += file.size + -file.size % _BLOCK
        return total

    def chunks(self, open_file: Callable[[LayerFile, int], OpenStream], offset: int = 0) -> Iterator[bytes]:
        """The tar from byte `offset` on, in pieces of at most 1 MiB.

        `open_file(file, offset)` opens a file's content from that offset. Raises BadInput when it has fewer or more
        bytes than planned: it changed while it was read.
        """
        for index, glue in enumerate(self.glue):
            if offset < len(glue):
                yield glue[offset:]
            offset = max(offset - len(glue), 0)
            if index == len(self.files):
                return
            file = self.files[index]
            if offset < file.size or offset == file.size == 0:
                yield from _content(file, open_file, offset)
            offset = max(offset - file.size, 0)


class FileLayer(Layer):
    """The layer of a single file: `header()`, the file's bytes, and the end of the archive."""

    def __init__(self, path: str, size: int) -> None:
        super().__init__((LayerFile(path, size),))

    def header(self) -> bytes:
        return self.glue[0]


class LayerHasher:
    """The digest of a layer, computed while the bytes of its files pass by in order; nothing is read for it."""

    def __init__(self, path: str = "", size: int = 0, *, layer: Layer | None = None) -> None:
        self._layer = layer or FileLayer(path, size)
        self._hash = hashlib.sha256(self._layer.glue[0])
        self._index = 0
        self._left = self._layer.files[0].size if self._layer.files else 0
        self._turn()

    @classmethod
    def of(cls, files: Sequence[LayerFile], root: str = ROOT) -> LayerHasher:
        """For a layer of several files: `update` then takes their contents one after the other."""
        return cls(layer=Layer(tuple(files), root))

    def _turn(self) -> None:
        while self._left == 0 and self._index < len(self._layer.files):
            self._index += 1
            self._hash.update(self._layer.glue[self._index])
            if self._index < len(self._layer.files):
                self._left = self._layer.files[self._index].size

    def update(self, chunk: bytes | memoryview) -> None:
        """Take the next bytes of the files; raises BadInput when there are more than the sizes said."""
        view = memoryview(chunk)
        while view:
            if self._left == 0:
                raise BadInput(f"{self._layer.files[-1].path} has more bytes than planned")
            taken = view[: self._left]
            self._hash.update(taken)
            self._left -= len(taken)
            view = view[len(taken) :]
            self._turn()

    def digest(self) -> Digest:
        """The layer's digest; raises BadInput when bytes are missing."""
        if self._index < len(self._layer.files):
            raise BadInput(f"{self._layer.files[self._index].path} has {self._left} bytes less than planned")
        return Digest(self._hash.hexdigest())


def check_path(path: str) -> None:
    """Raises BadInput unless `path` is relative, normal, UTF-8 and short enough to be unpacked anywhere."""
    wrong = None
    try:
        raw = path.encode()
    except UnicodeEncodeError:
        raw, wrong = b"", "is not UTF-8"
    parts = path.split("/")
    if wrong is None:
        if not path or path.startswith("/"):
            wrong = "is not a relative path"
        elif any(part in ("", ".", "..") for part in parts):
            wrong = "leaves the checkpoint or is not a plain path"
        elif any(ord(letter) < 32 or letter == "\x7f" for letter in path):
            wrong = "holds a control character"
        elif len(raw) > _PATH_MAX or any(len(part.encode()) > _NAME_MAX for part in parts):
            wrong = f"is too long (at most {_NAME_MAX} bytes a name, {_PATH_MAX} in all)"
        elif len(parts) > _DEPTH_MAX:
            wrong = f"is in more than {_DEPTH_MAX} folders"
    if wrong is not None:
        raise BadInput(f"the file name {path!r} {wrong}", remedy="rename the file; a modelcar cannot hold this name")


def _folders(root: str, path: str) -> Iterator[str]:
    parts = [*filter(None, root.split("/")), *path.split("/")[:-1]]
    for end in range(1, len(parts) + 1):
        yield "/".join(parts[:end])


def _header_size(name: str) -> int:
    """Bytes of the headers of a member; a name that does not fit into its own comes in an entry before it."""
    length = len(name.encode())
    return _BLOCK if length <= tarfile.LENGTH_NAME else 2 * _BLOCK + length + 1 + -(length + 1) % _BLOCK


def _header(name: str, size: int, kind: bytes) -> bytes:
    return _member(name, size, kind).tobuf(tarfile.GNU_FORMAT, "utf-8", "strict")


def _member(name: str, size: int, kind: bytes) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type = kind
    info.size = size
    info.mode = 0o775 if kind == tarfile.DIRTYPE else 0o664
    return info


def _content(file: LayerFile, open_file: Callable[[LayerFile, int], OpenStream], offset: int) -> Iterator[bytes]:
    left = file.size - offset
    stream = open_file(file, offset)
    try:
        while chunk := stream.read(CHUNK):
            left -= len(chunk)
            if left < 0:
                break
            yield chunk
    finally:
        stream.close()
    if left != 0:
        raise BadInput(
            f"{file.path} changed while it was read: {'more' if left < 0 else 'fewer'} bytes than the {file.size} planned",
            remedy="stop anything that writes to the checkpoint, then start again",
        )
