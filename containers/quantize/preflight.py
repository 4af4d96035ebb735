"""Everything that can be found out, and refused, before a weight is read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from containers.errors import BadInput
from containers.foreign_values import shown
from containers.quantize.checkpoint import read_checkpoint
from containers.quantize.groups import plan_groups
from containers.quantize.recipe import Recipe, check_coverage, check_entries
from containers.quantize.schemes import scheme_named

if TYPE_CHECKING:
    from collections.abc import Mapping

    from containers.contract import QuantizeParameters
    from containers.quantize.checkpoint import Checkpoint, Files
    from containers.quantize.groups import Group

_KERNEL_MULTIPLE = 16  # cutlass and torch._scaled_mm take 8-bit matrices whose sides are multiples of 16


@dataclass(frozen=True)
class QuantizeJob:
    """A checkpoint, what to do with it, and what people should know before. `ignore` is the list for its config."""

    files: Files
    checkpoint: Checkpoint
    recipe: Recipe
    ignore: tuple[str, ...]
    groups: tuple[Group, ...]
    fingerprint_inputs: Mapping[str, str]
    warnings: tuple[str, ...]


def prepare(files: Files, parameters: QuantizeParameters, fingerprint_inputs: Mapping[str, str]) -> QuantizeJob:
    """Read the headers and decide everything; raises BadInput for what cannot be quantized or served as asked."""
    scheme = scheme_named(parameters.scheme)
    check_entries(parameters.ignore)
    recipe = Recipe(scheme, parameters.ignore)
    checkpoint = read_checkpoint(files)
    check_not_quantized(checkpoint)
    groups = plan_groups(checkpoint, recipe)
    names = [part.name for group in groups for part in group.parts]
    warnings = check_coverage(recipe, names)
    if checkpoint.left_out:
        warnings.append(f"left out, being the same weights in another layout: {', '.join(checkpoint.left_out)}")
    uneven = [
        f"{part.name} {list(part.shape)}"
        for group in groups
        for part in group.parts
        if part.kept is None and any(side % _KERNEL_MULTIPLE for side in part.shape)
    ]
    if uneven:
        warnings.append(
            f"{len(uneven)} matrices have a side that is not a multiple of {_KERNEL_MULTIPLE}, which vLLM's fast "
            f"kernels do not support, such as {uneven[0]}"
        )
    return QuantizeJob(
        files, checkpoint, recipe, recipe.effective_ignore(names), groups, fingerprint_inputs, tuple(warnings)
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
