"""What a recipe makes of a checkpoint's tensors, held against what vLLM loads: known from names and shapes alone.

vLLM asks for a scale wherever its own layer is quantized, and for none elsewhere; it loads some modules as one layer, which
must then be treated alike. What it would not load is an obstacle here, before any work.
"""

from __future__ import annotations

import re
from collections import defaultdict
from typing import TYPE_CHECKING, Final

from containers.quantize.groups import EXPERTS, STACKED
from containers.quantize.recipe import Reason, default_ignore, matches

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from containers.architectures import ArchitectureRecipe
    from containers.quantize.groups import Part
    from containers.quantize.obstacles import Obstacles
    from containers.quantize.recipe import Recipe

# What vLLM loads as one layer (`packed_modules_mapping` of its models), in its order: all parts quantized or none.
_FUSED: Final = (
    ("q_proj", "k_proj", "v_proj"),
    ("gate_proj", "up_proj"),
    ("w1", "w3"),
    ("q_a_proj", "kv_a_proj_with_mqa"),
    ("in_proj_qkv", "in_proj_z"),
    ("in_proj_b", "in_proj_a"),
)
_EMBEDDINGS: Final = re.compile(r"embed|^(wte|wpe)$")
_LORA: Final = re.compile(r"\.(base_layer|lora_[AB]|lora_embedding_[AB]|lora_magnitude_vector)(\.|$)")
_CONV1D: Final = ("c_attn", "c_fc", "q_attn")  # GPT-2's names for what takes the hidden state


def find_obstacles(
    recipe: Recipe, parts: Mapping[str, Part], architecture: ArchitectureRecipe, hidden: int, obstacles: Obstacles
) -> None:
    """Add what stands against quantizing `parts`, the tensors of a checkpoint by name, and serving the result.

    `hidden` is the size of the hidden state, 0 if the configuration does not say it.
    """
    modules = sorted({name.rpartition(".")[0] for name in parts if name.endswith(".weight")})
    holders = sorted({name.rpartition(".")[0] for name in parts})
    quantized = {name.removesuffix(".weight"): part for name, part in parts.items() if part.kept is None}
    if lora := [name for name in parts if _LORA.search(name)]:
        obstacles.add(
            f"the checkpoint is a model with a LoRA beside it that is not merged: {len(lora)} tensors such as {lora[0]}",
            "merge it first (peft: model.merge_and_unload()), and save the result",
        )
        return  # its names are no model's, so nothing else that could be said of them would help
    if not quantized:
        ours = all(entry in default_ignore() or architecture.part_of(entry) for entry in recipe.ignore)
        obstacles.add(
            f"the recipe {recipe.scheme.name} quantizes none of the {len(parts)} tensors",
            "serve the model as it is: there is nothing else in it that vLLM would load quantized"
            if ours and architecture.known and architecture.parts
            else f"remove entries from its ignore list: {', '.join(recipe.ignore)}",
        )
    for entry in recipe.ignore:
        ours = entry in default_ignore() or architecture.part_of(entry) is not None
        if not ours and not any(matches(holder, entry) for holder in holders):
            obstacles.add(
                f"the recipe's ignore entry {entry!r} matches no module of this checkpoint",
                f"module names look like {(modules or holders)[len(modules or holders) // 2]!r}; remove or correct the entry",
            )
    for module in sorted(quantized):
        if _EMBEDDINGS.search(module.rpartition(".")[2]):
            obstacles.add(
                f"the recipe would quantize the embedding {module}",
                "add 're:.*embed_tokens.*' (or the embedding's name) to its ignore list",
            )
    _find_unscaled(quantized, architecture, obstacles)
    _find_split_layers(quantized, modules, obstacles)
    _find_inputs_first(quantized, hidden, obstacles)
    _find_stacked_experts(recipe, parts, obstacles)
    if recipe.scheme.strategy == "block":
        _find_uneven_blocks(recipe, quantized, parts, obstacles)


def _find_unscaled(quantized: Mapping[str, Part], architecture: ArchitectureRecipe, obstacles: Obstacles) -> None:
    """What vLLM builds without scales. The lists are the architecture's: other models use the same names otherwise."""
    for name, part in architecture.every.items():
        found = [
            module
            for module in sorted(quantized)
            if part.served == "unquantized"
            and any(matches(module, entry) for entry in part.modules)
            and not _EMBEDDINGS.search(module.rpartition(".")[2])
        ]
        if found:
            more = f" and {len(found) - 1} more modules" if len(found) > 1 else ""
            obstacles.add(
                f"the recipe would quantize {found[0]}{more} ({name}), for which vLLM has no scales",
                "ignore " + " and ".join(f"'{entry}'" for entry in part.modules),
            )


def _find_split_layers(quantized: Mapping[str, Part], modules: Sequence[str], obstacles: Obstacles) -> None:
    """Layers of vLLM's of which only some parts would be quantized."""
    together: dict[str, list[str]] = defaultdict(list)
    for module in modules:
        parent, _, leaf = module.rpartition(".")
        for parts in _FUSED:
            if leaf in parts:
                together[f"{parent}.{'/'.join(parts)}"].append(module)
        if ".experts." in module:
            together[module.partition(".experts.")[0] + ".experts"].append(module)
    for layer, loaded in sorted(together.items()):
        inside = [module for module in loaded if module in quantized]
        if inside and len(inside) != len(loaded):
            outside = next(module for module in loaded if module not in quantized)
            obstacles.add(
                f"the recipe quantizes {inside[0]} and not {outside}, which vLLM loads as one layer ({layer})",
                "make the ignore list match all of them or none",
            )


def _find_inputs_first(quantized: Mapping[str, Part], hidden: int, obstacles: Obstacles) -> None:
    """Weights of GPT-2's Conv1D, whose rows are the inputs: their scales would be along the wrong side."""
    for module, part in sorted(quantized.items()):
        rows, columns = part.shape if len(part.shape) == 2 else (0, 0)
        if hidden and module.rpartition(".")[2] in _CONV1D and rows == hidden != columns:
            obstacles.add(
                f"{part.name} has its inputs first ({rows} x {columns}: a Conv1D, as in GPT-2), and vLLM turns it when it "
                "loads it, but not its scales",
                "models of this kind are not quantized; serve it as it is",
            )


def _find_stacked_experts(recipe: Recipe, parts: Mapping[str, Part], obstacles: Obstacles) -> None:
    """Experts in one tensor that stay as they are although vLLM, which asks by other names, takes them for quantized."""
    for name, part in sorted(parts.items()):
        if part.kept not in {Reason.RECIPE, Reason.NOT_A_WEIGHT} or len(part.shape) < 2:
            continue
        module, _, parameter = name.rpartition(".")
        parent, _, leaf = module.rpartition(".")
        if leaf in STACKED and len(part.shape) == 3:
            asked, block = f"{parent}.{STACKED[leaf]}", parent
        elif ".experts" in name and parameter not in {"weight", "bias", *EXPERTS} and not parameter.endswith("_bias"):
            block = f"{name.partition('.experts')[0]}.experts"
            asked = f"{block}.0.{parameter}"
        else:
            continue
        if not any(matches(asked, entry) for entry in recipe.ignore):
            obstacles.add(
                f"{name} holds the experts of a layer as one tensor, which is not quantized, and vLLM takes {asked} for "
                "quantized",
                f"ignore 're:.*{block.rpartition('.')[2]}.*', which matches both names",
            )


def _find_uneven_blocks(
    recipe: Recipe, quantized: Mapping[str, Part], parts: Mapping[str, Part], obstacles: Obstacles
) -> None:
    """Parts of one layer that do not end where a block ends: the next part's scales would be off. The last part may."""
    height = recipe.scheme.block[0]
    remedy = "take FP8_DYNAMIC, or ignore all parts of the layer"
    for module, following in _followed(quantized):
        rows = quantized[module].shape[0]
        if rows % height:
            obstacles.add(
                f"{module} has {rows} rows, which is not divisible by {height}, and vLLM loads it as one layer with {following}",
                remedy,
            )
    for module, part in sorted(quantized.items()):
        if uneven := [rows for rows in _joined(module, part.shape[0], parts)[:-1] if rows % height]:
            obstacles.add(
                f"{module} holds several matrices, one of them of {uneven[0]} rows, which is not divisible by {height}",
                remedy,
            )


def _joined(module: str, rows: int, parts: Mapping[str, Part]) -> tuple[int, ...]:
    """The rows of the matrices that a checkpoint keeps in one and vLLM loads as several, from the shapes around it."""
    parent, _, leaf = module.rpartition(".")

    def side(name: str, at: int) -> int:
        found = parts.get(f"{parent}.{name}.weight")
        return found.shape[at] if found is not None and len(found.shape) > at else 0

    if leaf == "gate_up_proj":
        return rows // 2, rows // 2
    if leaf in {"qkv_proj", "query_key_value"} and (queries := side("o_proj", 1) or side("dense", 1)):
        return queries, (rows - queries) // 2, (rows - queries) // 2
    if leaf == "in_proj_qkv" and (values := side("in_proj_z", 0)):
        return (rows - values) // 2, (rows - values) // 2, values
    if leaf == "in_proj" and (inner := side("out_proj", 1)) and (convolved := side("conv1d", 0)):
        states = (convolved - inner) // 2  # Mamba 2: gate, hidden state, B, C, time steps
        return inner, inner, states, states, rows - inner - convolved
    return (rows,)


def _followed(quantized: Mapping[str, Part]) -> Iterator[tuple[str, str]]:
    """Each module behind which vLLM puts another one in the same layer, and the next one's name."""
    for module in sorted(quantized):
        parent, _, leaf = module.rpartition(".")
        for parts in _FUSED:
            if leaf in parts[:-1]:
                following = f"{parent}.{parts[parts.index(leaf) + 1]}"
                if following in quantized:
                    yield module, following
