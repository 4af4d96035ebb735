"""Everything that can be found out, and refused, before a weight is read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from containers.architectures import recipe_of
from containers.errors import BadInput
from containers.foreign_values import shown
from containers.quantize.checkpoint import read_checkpoint
from containers.quantize.groups import plan_groups
from containers.quantize.obstacles import Obstacles
from containers.quantize.recipe import Recipe, check_entries, default_ignore
from containers.quantize.schemes import scheme_named
from containers.quantize.servable import find_obstacles

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from containers.architectures import ArchitectureRecipe
    from containers.parameters import QuantizeParameters
    from containers.quantize.checkpoint import Checkpoint, Files
    from containers.quantize.groups import Group, Part

_KERNEL_MULTIPLE = 16  # cutlass and torch._scaled_mm take 8-bit matrices whose sides are multiples of 16


@dataclass(frozen=True)
class QuantizeJob:
    """A checkpoint, what to do with it, and what people should know before. `ignore` is the list for its config."""

    files: Files
    checkpoint: Checkpoint
    recipe: Recipe
    architecture: ArchitectureRecipe
    ignore: tuple[str, ...]
    groups: tuple[Group, ...]
    fingerprint_inputs: Mapping[str, str]
    warnings: tuple[str, ...]


def prepare(files: Files, parameters: QuantizeParameters, fingerprint_inputs: Mapping[str, str]) -> QuantizeJob:
    """Read the headers and decide everything; raises BadInput, with all reasons, for what cannot be quantized or served as
    asked.
    """
    scheme = scheme_named(parameters.scheme)
    check_entries(parameters.ignore)
    recipe = Recipe(scheme, parameters.ignore)
    checkpoint = read_checkpoint(files)
    check_not_quantized(checkpoint)
    architecture = recipe_of(checkpoint.config)
    obstacles = Obstacles()
    groups = plan_groups(checkpoint, recipe, obstacles)
    parts = {part.name: part for group in groups for part in group.parts}
    find_obstacles(recipe, parts, architecture, checkpoint.hidden, obstacles)
    obstacles.check()
    optional = [entry for entry in recipe.ignore if entry not in default_ignore() and architecture.part_of(entry)]
    return QuantizeJob(
        files,
        checkpoint,
        recipe,
        architecture,
        recipe.effective_ignore(parts, optional),
        groups,
        fingerprint_inputs,
        tuple(_warnings(checkpoint, architecture, parts)),
    )


def _warnings(checkpoint: Checkpoint, architecture: ArchitectureRecipe, parts: Mapping[str, Part]) -> Iterator[str]:
    if not architecture.known and checkpoint.config.get("architectures"):
        yield (
            f"there is no recipe for {architecture.architecture}: with the careful default, whatever looks like a tower, a "
            "router, a state or a head stays unquantized; --ignore-only takes a list of your own"
        )
    if checkpoint.left_out:
        yield f"left out, being the same weights in another layout: {', '.join(checkpoint.left_out)}"
    uneven = [
        f"{part.name} {list(part.shape)}"
        for part in parts.values()
        if part.kept is None and any(side % _KERNEL_MULTIPLE for side in part.shape)
    ]
    if uneven:
        yield (
            f"{len(uneven)} matrices have a side that is not a multiple of {_KERNEL_MULTIPLE}, which vLLM's fast "
            f"kernels do not support, such as {uneven[0]}"
        )


def check_not_quantized(checkpoint: Checkpoint) -> None:
    """Raises BadInput for a checkpoint that says it is quantized, or whose tensors say it."""
    for place in ("quantization_config", "compression_config"):
        config = checkpoint.setting(place)
        if config:
            named = config.get("quant_method", "an unnamed method") if isinstance(config, dict) else config
            method = shown(str(named))
            raise BadInput(
                f"the checkpoint is already quantized (config.json: {place}, {method})",
                remedy="use the unquantized checkpoint",
            )
    for name in checkpoint.names:
        if name.endswith((".weight_packed", ".weight_scale", ".weight_scale_inv", ".qweight")):
            raise BadInput(
                f"the checkpoint is already quantized: it has the tensor {name}",
                remedy="use the unquantized checkpoint",
            )
