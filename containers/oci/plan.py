"""What a push will do, before it does it.

Which files share a layer is decided from paths and sizes alone, before a byte is read or a shard is written.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final

from containers.checkpoint_files import is_pickle
from containers.errors import BadInput
from containers.events import amount
from containers.foreign_values import shown
from containers.oci import card
from containers.oci.layer import Layer, LayerFile
from containers.oci.source import check_checkpoint, files_key
from containers.registry_limits import MODEL_LAYERS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from containers.checkpoint_files import CheckpointFile
    from containers.digest import Digest
    from containers.oci.base import Base
    from containers.oci.push_cache import PushCache
    from containers.oci.source import Source

SMALL: Final = 64 << 20  # bytes; files up to here are grouped first
_GROUP_MAX: Final = 1 << 30  # bytes of a layer of small files


@dataclass(frozen=True)
class PlannedLayer:
    """A layer before it is sent; `digest` where it is known without reading the files."""

    layer: Layer
    files: tuple[CheckpointFile, ...]
    digest: Digest | None

    @property
    def name(self) -> str:
        first = self.files[0].path
        return first if len(self.files) == 1 else f"{first} and {len(self.files) - 1} more"


@dataclass(frozen=True)
class PushPlan:
    """What a push will do, before anything is uploaded. `notes` are sentences for a person."""

    source: Source
    bases: tuple[Base, ...]
    layers: tuple[PlannedLayer, ...]
    card: bytes
    annotations: Mapping[str, str]
    config: Mapping[str, Any]
    raw: bool = False
    notes: tuple[str, ...] = ()

    @property
    def size(self) -> int:
        """Bytes of every layer of one platform's image."""
        return (
            sum(one.layer.size for one in self.layers)
            + sum(layer.size for layer in self.bases[0].layers)
            + Layer((LayerFile(card.PATH, len(self.card)),), root="").size
        )

    @property
    def raw_size(self) -> int:
        """Bytes that the raw artifact adds; 0 when it is not asked for."""
        return sum(file.size for file in self.source.files) if self.raw else 0

    def summary(self, target: str) -> str:
        """One line for a person."""
        files = len(self.source.files)
        raw_files = f", and {amount(self.raw_size, 'B')} as raw files" if self.raw else ""
        layers = f"{files} files in {self.layer_count} layers, {amount(self.size, 'B')}"
        return f"{target}: {layers}, base {self.bases[0].name}{raw_files}"

    @property
    def layer_count(self) -> int:
        return len(self.layers) + len(self.bases[0].layers) + 1


def make_plan(
    source: Source,
    bases: Sequence[Base],
    cache: PushCache,
    *,
    annotations: Mapping[str, str] | None = None,
    layer_limit: int = MODEL_LAYERS,
    layer_bytes: int = 0,
    also_raw: bool = False,
) -> PushPlan:
    """Check the checkpoint and decide its layers; reads config.json and the shard index and nothing else."""
    config = check_checkpoint(source)
    files = {file.path: file for file in source.files}
    groups = group_files(
        (LayerFile(file.path, file.size) for file in source.files), limit=layer_limit, layer_bytes=layer_bytes
    )
    layers = tuple(_planned(tuple(files[one.path] for one in group), cache) for group in groups)
    notes: list[str] = []
    if not card.legal_files(source.files):
        notes.append("the checkpoint has no licence file, so users of the image cannot see its terms")
    if any(len(one.files) > 1 for one in layers):
        notes.append(f"{len(files)} files share {len(layers)} layers (the limit is {layer_limit})")
    if source.left_out:
        more = f" and {len(source.left_out) - 5} more" if len(source.left_out) > 5 else ""
        notes.append(f"left out, since they belong in no checkpoint: {shown(', '.join(source.left_out[:5]))}{more}")
    pickles = [path for path in files if is_pickle(path)]
    if pickles:
        notes.append(f"{len(pickles)} pickle file(s) will be in the image: {', '.join(pickles[:3])}")
    if bases[0].name == "none":
        notes.append("without a base the image can only be used as an image volume, because nothing in it can run")
    annotations = dict(annotations or {})
    if also_raw:
        notes.append(f"the raw artifact doubles what is stored: {amount(sum(file.size for file in source.files), 'B')}")
    return PushPlan(
        source,
        tuple(bases),
        layers,
        card.render(config, source.files, annotations),
        annotations,
        config,
        also_raw,
        tuple(notes),
    )


def _planned(files: tuple[CheckpointFile, ...], cache: PushCache) -> PlannedLayer:
    layer = Layer(tuple(LayerFile(file.path, file.size) for file in files))
    digest = files[0].layer if len(files) == 1 else None
    key = files_key(files)
    if key is None:  # the annotations need every file's digest too, so the files must be read in any case
        return PlannedLayer(layer, files, None)
    return PlannedLayer(layer, files, digest or cache.layer(key))


def group_files(
    files: Iterable[LayerFile], *, limit: int = MODEL_LAYERS, layer_bytes: int = 0
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
                f"{file.path} has {file.size} bytes, more than the {layer_bytes} that the registry accepts in one layer",
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
            remedy="push to a registry that accepts more or larger layers",
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
            raise BadInput(f"{after.path} occurs twice")
