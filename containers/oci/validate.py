"""Is an image what it says: every digest, size, diff id and annotation, and, on demand, every byte."""

from __future__ import annotations

import hashlib
import tarfile
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from containers.digest import Digest
from containers.errors import BadInput
from containers.foreign_json import INT64_MAX, parse_json
from containers.labels import FILES
from containers.oci.headers import HeaderBudget, members, open_tar
from containers.oci.inflate import inflated, largest_inflated
from containers.oci.layer import Layer, LayerFile, check_path
from containers.oci.types import TAR, ImageConfig, ImageManifest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from containers.oci.repository import Repository
    from containers.oci.types import Descriptor


@dataclass(frozen=True, slots=True)
class ListedFile:
    """A file of a modelcar as its manifest lists it."""

    path: str
    size: int
    sha256: Digest


def listed_files(layer: Descriptor) -> tuple[ListedFile, ...]:
    """The files that a layer's annotation lists; empty without one. Raises BadInput when it is not well formed."""
    text = layer.annotations.get(FILES)
    if text is None:
        return ()
    where = f"the annotation {FILES} of the layer {layer.digest}"
    value = parse_json(text, where)
    return tuple(_listed_file(entry, where) for entry in (value if isinstance(value, list) else [None]))


def _listed_file(entry: Any, where: str) -> ListedFile:
    odd = BadInput(f"{where} cannot be read", remedy="push the image again")
    if not isinstance(entry, list) or len(entry) != 3:
        raise odd
    path, size, digest = entry
    if not isinstance(path, str) or type(size) is not int or not 0 <= size <= INT64_MAX or not isinstance(digest, str):
        raise odd
    check_path(path)
    return ListedFile(path, size, Digest.parse(digest))


def check_image(manifest: ImageManifest, config: bytes) -> ImageConfig:
    """The image's parts agree with each other; no layer is read. Raises BadInput with the first thing that does not."""
    if Digest.of(config) != manifest.config.digest or len(config) != manifest.config.size:
        raise BadInput(f"the configuration is not the one that the manifest names ({manifest.config.digest})")
    parsed = ImageConfig.parse(config, "the configuration")
    if len(parsed.rootfs.diff_ids) != len(manifest.layers):
        raise BadInput(f"{len(manifest.layers)} layers and {len(parsed.rootfs.diff_ids)} diff ids")
    with_layer = sum(1 for one in parsed.history if not one.empty_layer)
    if parsed.history and with_layer != len(manifest.layers):
        raise BadInput(f"{len(manifest.layers)} layers and {with_layer} entries of history")
    seen: set[str] = set()
    for layer, diff_id in zip(manifest.layers, parsed.rootfs.diff_ids, strict=True):
        if layer.media_type == TAR and layer.digest != diff_id:
            raise BadInput(f"the uncompressed layer {layer.digest} has another diff id: {diff_id}")
        for file in listed_files(layer):
            if file.path in seen:
                raise BadInput(f"{file.path} is in two layers")
            seen.add(file.path)
        _check_size(layer)
    return parsed


def _check_size(layer: Descriptor) -> None:
    files = listed_files(layer)
    if files and Layer(tuple(LayerFile(one.path, one.size) for one in files)).size != layer.size:
        raise BadInput(f"the layer {layer.digest} is not as long as the tar of the files that it lists")


def verified(chunks: Iterator[bytes], descriptor: Descriptor, what: str) -> Iterator[bytes]:
    """The same chunks; raises BadInput at the end when they are not what the descriptor says."""
    digest = hashlib.sha256()
    size = 0
    for chunk in chunks:
        digest.update(chunk)
        size += len(chunk)
        if size > descriptor.size:
            break
        yield chunk
    if size != descriptor.size or digest.hexdigest() != descriptor.digest.hex:
        raise BadInput(
            f"{what} gave other bytes than {descriptor.digest} names ({size} bytes of {descriptor.size})",
            remedy="the stored content is damaged or was tampered with; push it again",
        )


class ChunkReader:
    """A readable file over chunks, for tarfile's stream mode; keeps at most one chunk."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._rest = memoryview(b"")

    def read(self, size: int = -1, /) -> bytes:
        parts: list[bytes] = []
        left = size
        while left != 0:
            if not self._rest:
                self._rest = memoryview(next(self._chunks, b""))
                if not self._rest:
                    break
            taken = self._rest[:left] if left > 0 else self._rest
            parts.append(bytes(taken))
            self._rest = self._rest[len(taken) :]
            left -= len(taken) if left > 0 else 0
        return b"".join(parts)

    def close(self) -> None:
        """Whoever gave the chunks closes what is behind them."""

    def drain(self) -> None:
        """Read to the end, so that the digest of everything is checked."""
        self._rest = memoryview(b"")
        for _ in self._chunks:
            pass


def read_layer(
    repository: Repository,
    layer: Descriptor,
    diff_id: Digest | None,
    on_file: Callable[[tarfile.TarInfo, Any], None],
    budget: HeaderBudget | None = None,
) -> None:
    """Read a layer from the repository, every digest checked; `on_file` gets each member and its bytes, if it has any.

    Raises BadInput for damage, for a layer that inflates to more than is plausible, and when the headers go beyond
    `budget`, which the layers of an image share. What `on_file` was given is unverified until this returns.
    """
    what = str(repository.reference.target)
    with repository.read_blob(layer.digest) as raw:
        checked = verified(raw, layer, what)
        plain = inflated(checked, layer)
        if diff_id is not None and layer.digest != diff_id:
            plain = _diffed(plain, diff_id, what)
        reader = ChunkReader(plain)
        try:
            with open_tar(reader, "r|") as tar:
                for member in members(tar, largest_inflated(layer), budget or HeaderBudget()):
                    on_file(member, tar.extractfile(member) if member.isreg() else None)
        except tarfile.TarError as error:
            reader.drain()  # wrong bytes are a better explanation than a bad tar
            raise BadInput(f"the layer {layer.digest} of {what} is not a tar: {error}") from error
        reader.drain()
        for _ in checked:
            pass


def _diffed(chunks: Iterator[bytes], diff_id: Digest, what: str) -> Iterator[bytes]:
    digest = hashlib.sha256()
    for chunk in chunks:
        digest.update(chunk)
        yield chunk
    if digest.hexdigest() != diff_id.hex:
        raise BadInput(f"a layer of {what} does not unpack to its diff id {diff_id}", remedy="push it again")
