"""Layer groups: what becomes of every tensor of a shard, and the layout of what is written, before a weight is read."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import TYPE_CHECKING, Final

from containers.digest import canonical_json
from containers.errors import BadInput
from containers.quantize.layout import arrange
from containers.quantize.recipe import Reason

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from containers.checkpoint_files import CheckpointFile
    from containers.quantize.checkpoint import Checkpoint
    from containers.quantize.obstacles import Obstacles
    from containers.quantize.recipe import Recipe
    from containers.quantize.schemes import Scheme
    from containers.safetensors import Header, Tensor

QUANTIZABLE: Final = ("BF16", "F16", "F32")
_EXPERTS_MAX: Final = 4096  # in one tensor; published models have up to 512
_PARTS_MAX: Final = 1 << 20  # tensors of what is written
STACKED: Final = {
    "input_linear": "experts.0.w1",
    "output_linear": "experts.0.w2",
}  # Granite's experts: in vLLM, the first's
EXPERTS: Final = {"gate_up_proj": ("gate_proj", "up_proj"), "down_proj": ("down_proj",)}


@dataclass(frozen=True, slots=True)
class Part:
    """A tensor of the source, or one expert's part of it, under the name that it gets.

    `start` and `stop` are bytes after the source's header. `kept` says why it is copied; None means quantized.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int
    kept: Reason | None

    @property
    def scale_name(self) -> str:
        return f"{self.name}_scale"

    @property
    def elements(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True)
class Group:
    """One shard and what it becomes. `parts` is in the order of the source's bytes and covers them all."""

    source: CheckpointFile
    data_start: int
    parts: tuple[Part, ...]
    scheme: Scheme

    @property
    def path(self) -> str:
        return self.source.path

    @cached_property
    def output(self) -> Header:
        """The layout of the quantized shard; its size is known from here on."""
        return arrange(self._outputs())

    def fingerprint(self, fingerprint_inputs: Mapping[str, str]) -> str:
        """64 hex digits that name the quantized shard: source, recipe as far as it concerns this shard, and what else
        can change the bytes. The path counts too: it is in the layer's tar header.
        """
        if self.source.sha256 is None:
            raise BadInput(
                f"{self.path} has no digest yet", remedy="download the checkpoint into the store before quantizing it"
            )
        identity = {
            "kind": "group",
            "path": self.path,
            "source": str(self.source.sha256),
            "scheme": self.scheme.name,
            "quantized": [part.name for part in self.parts if part.kept is None],
            "determinants": dict(fingerprint_inputs),
        }
        return hashlib.sha256(canonical_json(identity)).hexdigest()

    def _outputs(self) -> Iterator[tuple[str, str, tuple[int, ...]]]:
        for part in self.parts:
            if part.kept is None:
                rows, columns = part.shape
                yield part.name, self.scheme.weight_dtype, part.shape
                yield part.scale_name, part.dtype, self.scheme.scale_shape(rows, columns)
            else:
                yield part.name, part.dtype, part.shape


def plan_groups(checkpoint: Checkpoint, recipe: Recipe, obstacles: Obstacles) -> tuple[Group, ...]:
    """The groups of a checkpoint in the order of their file names.

    A tensor that the recipe means to quantize and that cannot be is added to the obstacles. Raises BadInput for tensors that
    would have the same name, and for too many.
    """
    groups: list[Group] = []
    left = _PARTS_MAX
    for file, header in checkpoint.shards.items():
        made = (part for tensor in header.tensors for part in _parts(tensor, recipe, checkpoint.hidden, obstacles))
        parts = tuple(islice(made, left + 1))
        left -= len(parts)
        if left < 0:
            raise BadInput(
                f"the checkpoint would get more than {_PARTS_MAX} tensors", remedy="quantize another checkpoint"
            )
        groups.append(Group(file, header.data_start, parts, recipe.scheme))
        _check_parts(groups[-1], obstacles)
    return tuple(groups)


def _parts(tensor: Tensor, recipe: Recipe, hidden: int, obstacles: Obstacles) -> Iterator[Part]:
    """The tensor itself, or, for experts fused into three dimensions, a part for each one's matrix.

    The split and its names are llm-compressor's (`split_fused_moe_experts`): an expert's `gate_up_proj` holds the rows
    of `gate_proj` and then those of `up_proj`.
    """
    fused = [leaf for leaf in EXPERTS if leaf in tensor.name]
    if len(tensor.shape) != 3 or not fused:
        kept = recipe.kept(tensor.name) or (Reason.VECTOR if len(tensor.shape) == 1 else None)
        yield Part(tensor.name, tensor.dtype, tensor.shape, tensor.start, tensor.stop, kept)
        return
    leaf, leaves = fused[0], EXPERTS[fused[0]]
    experts, rows, columns = tensor.shape
    if experts > _EXPERTS_MAX or 0 in tensor.shape:
        raise BadInput(
            f"the tensor {tensor.name} of shape {list(tensor.shape)} does not hold up to {_EXPERTS_MAX} experts",
            remedy="quantize another checkpoint",
        )
    if rows % len(leaves) or (
        hidden and hidden in (rows, columns) and hidden != (columns if len(leaves) == 2 else rows)
    ):
        obstacles.add(
            f"the tensor {tensor.name} of shape {list(tensor.shape)} holds its experts transposed",
            "llm-compressor would split them along the wrong side; ignore them with 're:.*experts.*' cannot help "
            "either, because it splits ignored experts too: unfuse them with the model's own tools first",
        )
        yield Part(tensor.name, tensor.dtype, tensor.shape, tensor.start, tensor.stop, Reason.RECIPE)
        return
    size = tensor.size // (experts * len(leaves))
    start = tensor.start
    for expert in range(experts):
        for name in leaves:
            key = tensor.name.replace(leaf, f"{expert}.{name}")
            key = key if key.endswith(".weight") else f"{key}.weight"
            yield Part(key, tensor.dtype, (rows // len(leaves), columns), start, start + size, recipe.kept(key))
            start += size


def _check_parts(group: Group, obstacles: Obstacles) -> None:
    """Raises BadInput for two tensors that would have one name; what cannot be quantized is an obstacle."""
    seen: set[str] = set()
    for part in group.parts:
        names = (part.name,) if part.kept is not None else (part.name, part.scale_name)
        for name in names:
            if name in seen:
                raise BadInput(f"{group.path} would hold the tensor {name} twice")
            seen.add(name)
        if part.kept is None:
            _check_quantizable(group.path, part, group.scheme, obstacles)


def _check_quantizable(path: str, part: Part, scheme: Scheme, obstacles: Obstacles) -> None:
    module = part.name.removesuffix(".weight")
    if part.dtype.startswith("F8") or part.dtype == "I8":
        obstacles.add(
            f"the tensor {part.name} in {path} is already quantized ({part.dtype})",
            "quantize the unquantized checkpoint, or ignore this module",
        )
    elif part.dtype not in QUANTIZABLE:
        obstacles.add(
            f"the tensor {part.name} in {path} has the type {part.dtype}, and only {', '.join(QUANTIZABLE)} can be quantized",
            f"convert it, or add {module!r} to the ignore list",
        )
    elif len(part.shape) != 2 or 0 in part.shape:
        obstacles.add(
            f"the tensor {part.name} in {path} has the shape {list(part.shape)}, and only a matrix can be quantized",
            _ignoring(module),
        )
    elif scheme.strategy == "block" and part.shape[1] % scheme.block[1]:
        obstacles.add(
            f"the tensor {part.name} in {path} has {part.shape[1]} columns, and {scheme.name} needs a multiple of "
            f"{scheme.block[1]}",
            f"take FP8_DYNAMIC, or add {module!r} to the ignore list",
        )


def _ignoring(module: str) -> str:
    """What to ignore so that vLLM, which calls stacked experts by other names, leaves them alone, too."""
    parent, _, leaf = module.rpartition(".")
    if leaf in STACKED:
        block = parent.rpartition(".")[2]
        return f"ignore 're:.*{block}.*': vLLM asks for the experts of a layer by the name of their block"
    return f"add {module!r}, or a regex after 're:' that matches it, to the ignore list"
