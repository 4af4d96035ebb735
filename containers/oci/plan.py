"""Which files share a layer, decided from paths and sizes alone, before a byte is read or a shard is written."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Final

from containers.errors import BadInput

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from containers.oci.layer import LayerFile

LAYER_LIMIT: Final = 120  # model layers; overlay file systems mount about 127, and base and card need some
SMALL: Final = 64 << 20  # bytes; files up to here are grouped first
_GROUP_MAX: Final = 1 << 30  # bytes of a layer of small files


def group_files(
    files: Iterable[LayerFile], *, limit: int = LAYER_LIMIT, layer_bytes: int = 0
) -> tuple[tuple[LayerFile, ...], ...]:
    """The files of each layer, in the image's order: a function of paths, sizes and limits and of nothing else.

    Up to `limit` files each is a layer of its own, in the order of the paths' bytes. Beyond that the small files share
    layers of up to 1 GiB, and only if that is not enough, as many neighbouring shards as needed share one.
    `layer_bytes` is the most that a registry takes in one layer, 0 without such a limit. Raises BadInput when no plan
    fits.
    """
    ordered = sorted(files, key=lambda file: file.path.encode())
    _check_duplicates(ordered)
    if limit < 1:
        raise BadInput("an image needs at least one layer", remedy="raise the layer limit")
    for file in ordered:
        if layer_bytes and file.size > layer_bytes:
            raise BadInput(
                f"{file.path} has {file.size} bytes, more than the {layer_bytes} that the registry takes in one layer",
                remedy="split the checkpoint into smaller shards, or push to another registry",
            )
    if len(ordered) <= limit:
        return tuple((file,) for file in ordered)
    small = list(_packed([file for file in ordered if file.size <= SMALL], _GROUP_MAX, len(ordered)))
    large = [file for file in ordered if file.size > SMALL]
    room = limit - len(small)
    if large and room < 1:
        raise BadInput(f"{len(ordered)} files do not fit into {limit} layers", remedy="raise the layer limit")
    each = -(-len(large) // room) if large else 1
    groups = [*small, *_packed(large, layer_bytes, each)]
    if len(groups) > limit:
        raise BadInput(
            f"{len(ordered)} files do not fit into {limit} layers of at most {layer_bytes} bytes",
            remedy="push to a registry that takes more or larger layers",
        )
    return tuple(sorted(groups, key=lambda group: group[0].path.encode()))


def _packed(files: Sequence[LayerFile], most_bytes: int, most_files: int) -> Iterator[tuple[LayerFile, ...]]:
    group: list[LayerFile] = []
    size = 0
    for file in files:
        full = most_bytes and size + file.size > most_bytes
        if group and (full or len(group) == most_files):
            yield tuple(group)
            group, size = [], 0
        group.append(file)
        size += file.size
    if group:
        yield tuple(group)


def _check_duplicates(files: Sequence[LayerFile]) -> None:
    for before, after in pairwise(files):
        if before.path == after.path:
            raise BadInput(f"{after.path} is there twice")
