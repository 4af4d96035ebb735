"""The plan of a quantization: what `carwright quantize --plan` shows, as a value that goes into JSON."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Final

from pydantic import Field

from containers.architectures import everywhere
from containers.contract import Frozen
from containers.quantize.assemble import copied_files
from containers.quantize.recipe import Reason
from containers.quantize.resources import disk_needed, gpu_memory_needed, lanes_for, memory_needed
from containers.registry_limits import MODEL_LAYERS, may_refuse
from containers.safetensors import ITEM_SIZE

if TYPE_CHECKING:
    from collections.abc import Collection

    from containers.quantize.groups import Part
    from containers.quantize.preflight import QuantizeJob

_EXAMPLES: Final = 3


class KeptTensors(Frozen):
    """Tensors that are copied as they are, for one reason; `examples` are some of their names."""

    reason: str
    why: str = Field(default="", description="what the recipe says of it")
    tensors: int
    size: int = Field(description="bytes")
    examples: tuple[str, ...]


class PlannedGroup(Frozen):
    """One layer group: the shard at `path`. `stored`: an earlier run has done it, and it will not be done again."""

    path: str
    fingerprint: str = Field(default="", description="empty for a checkpoint that is not in the store")
    quantized: int = Field(description="tensors")
    kept: int = Field(description="tensors")
    size_before: int
    size_after: int
    stored: bool = False


class QuantizationPlan(Frozen):
    """Sizes in bytes. `layers` counts those of the modelcar, its base included.

    `known`: the architecture has a recipe of its own, or else the careful default. `linear_layers` are the matrices that get quantized and `parameters` their elements. `disk_needed`, `memory_needed`
    and `gpu_memory_needed` are for one worker with `lanes` groups in hand.
    """

    architecture: str
    known: bool
    scheme: str
    ignore: tuple[str, ...]
    tied_head: bool = Field(description="the output head is the embedding, and so stays unquantized")
    linear_layers: int
    parameters: int
    kept: tuple[KeptTensors, ...]
    groups: tuple[PlannedGroup, ...]
    size_before: int
    size_after: int
    layers: int
    largest_layer: int
    lanes: int
    disk_needed: int
    memory_needed: int
    gpu_memory_needed: int
    warnings: tuple[str, ...]


def make_plan(job: QuantizeJob, stored: Collection[str] = (), lanes: int = 0) -> QuantizationPlan:
    """The plan of a job; `stored` are the paths of shards whose quantized form the store has."""
    parts = [part for group in job.groups for part in group.parts]
    quantized = [part for part in parts if part.kept is None]
    others = {file.path: file.size for file in job.checkpoint.files}
    copied = [others[path] for path in copied_files(job.checkpoint)]
    largest = max(group.output.size for group in job.groups)
    at_once = lanes_for(lanes, len(job.groups))
    files = len(job.groups) + len(copied) + 2  # config and index
    return QuantizationPlan(
        architecture=job.architecture.architecture,
        known=job.architecture.known,
        scheme=job.recipe.scheme.name,
        ignore=job.ignore,
        tied_head=bool(job.checkpoint.setting("tie_word_embeddings")),
        linear_layers=len(quantized),
        parameters=sum(part.elements for part in quantized),
        kept=_kept(job, parts),
        groups=tuple(
            PlannedGroup(
                path=group.path,
                fingerprint=group.fingerprint(job.fingerprint_inputs) if group.source.sha256 is not None else "",
                quantized=sum(part.kept is None for part in group.parts),
                kept=sum(part.kept is not None for part in group.parts),
                size_before=group.source.size,
                size_after=group.output.size,
                stored=group.path in stored,
            )
            for group in job.groups
        ),
        size_before=sum(others.values()),
        size_after=sum(group.output.size for group in job.groups) + sum(copied),
        layers=1 + min(files, MODEL_LAYERS),
        largest_layer=largest,
        lanes=at_once,
        disk_needed=disk_needed(job.groups, at_once),
        memory_needed=memory_needed(at_once),
        gpu_memory_needed=gpu_memory_needed(at_once),
        warnings=(*job.warnings, *_registry_warnings(largest)),
    )


def _kept(job: QuantizeJob, parts: list[Part]) -> tuple[KeptTensors, ...]:
    by_reason: dict[tuple[str, str], list[Part]] = defaultdict(list)
    for part in parts:
        if part.kept is not None:
            by_reason[_reason(job, part.name, part.kept)].append(part)
    return tuple(
        KeptTensors(
            reason=reason,
            why=why,
            tensors=len(same),
            size=sum(part.elements * ITEM_SIZE[part.dtype] for part in same),
            examples=tuple(part.name for part in same[:_EXAMPLES]),
        )
        for (reason, why), same in sorted(by_reason.items())
    )


def _reason(job: QuantizeJob, name: str, kept: Reason) -> tuple[str, str]:
    """Why a tensor stays, and more of that where the recipe of the architecture says it."""
    if kept is Reason.ROUTER:
        return kept.value, everywhere()["routers"].why
    if kept is Reason.RECIPE:
        entry = job.recipe.entry_for(name.rpartition(".")[0])
        if entry and (named := job.architecture.part_of(entry)):
            return named[0], named[1].why
    return kept.value, ""


def _registry_warnings(largest: int) -> list[str]:
    return [f"the largest layer has {largest / 1e9:.1f} GB: too large for {one}" for one in may_refuse(largest)]
