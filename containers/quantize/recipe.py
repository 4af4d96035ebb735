"""Which tensors a recipe quantizes and why the others stay, decided by name and shape alone.

The rules are those of compressed-tensors' `match_quantizable_tensors`, which `model_free_ptq` uses; a test holds the two
against each other. On top of them stand the rules of vLLM, which serves the result: it reads no quantized router,
and it fuses some modules, which must then be treated alike.
"""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from containers.contract import QuantizeParameters
from containers.errors import BadInput

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from containers.quantize.schemes import Scheme

# vLLM builds routers without a quantization config (`quant_config=None`), whatever the checkpoint says:
# `mlp.gate` (Qwen, DeepSeek, OLMoE), `block_sparse_moe.gate` (Mixtral), `feed_forward.router` (Llama 4, Jamba),
# `mlp.router` (gpt-oss), `ffn.router.layer` (DBRX, Granite), `mlp.shared_expert_gate` (Qwen).
ROUTERS: Final = r"re:.*\.(gate|router|shared_expert_gate)(\.layer)?$"

# What vLLM loads as one layer (`packed_modules_mapping` of its models): all parts quantized or none.
_FUSED: Final = (
    ("q_proj", "k_proj", "v_proj"),
    ("gate_proj", "up_proj"),
    ("w1", "w3"),
    ("q_a_proj", "kv_a_proj_with_mqa"),
)
_EMBEDDINGS: Final = re.compile(r"embed|^(wte|wpe)$")
_LOOKS_LIKE_REGEX: Final = re.compile(r"[*^$\\\[\](){}|+?]")


class Reason(StrEnum):
    """Why a tensor is copied as it is."""

    RECIPE = "ignored by the recipe"
    NORM = "norm"
    ROUTER = "router of a mixture of experts"
    NOT_A_WEIGHT = "not a weight"


@dataclass(frozen=True)
class Recipe:
    """A scheme and the modules that it leaves alone: names, or regexes behind `re:` that match from the start."""

    scheme: Scheme
    ignore: tuple[str, ...]

    def kept(self, name: str) -> Reason | None:
        """Why the tensor of that name is not quantized; None when it is."""
        module, _, parameter = name.rpartition(".")
        if module.endswith("norm"):
            return Reason.NORM
        if parameter != "weight":
            return Reason.NOT_A_WEIGHT
        if any(matches(module, entry) for entry in self.ignore):
            return Reason.RECIPE
        if matches(module, ROUTERS):
            return Reason.ROUTER
        return None

    def effective_ignore(self, names: Iterable[str]) -> tuple[str, ...]:
        """The ignore list for the checkpoint's config: with the pattern for routers where there are any."""
        routers = any(self.kept(name) is Reason.ROUTER for name in names)
        return (*self.ignore, ROUTERS) if routers and ROUTERS not in self.ignore else self.ignore


def matches(module: str, entry: str) -> bool:
    """Whether an entry of an ignore list means this module (compressed-tensors, `match_name`)."""
    if entry.startswith("re:"):
        return re.match(entry.removeprefix("re:"), module) is not None
    return entry == module


def check_entries(ignore: Sequence[str]) -> None:
    """Raises BadInput for an entry that can never do what it was written for."""
    for entry in ignore:
        if entry.startswith("re:"):
            try:
                re.compile(entry.removeprefix("re:"))
            except re.error as error:
                raise BadInput(
                    f"the recipe's ignore entry {entry!r} is not a regex: {error}", remedy="correct the regex"
                ) from error
        elif _LOOKS_LIKE_REGEX.search(entry):
            raise BadInput(
                f"the recipe's ignore entry {entry!r} looks like a regex but does not start with 're:'",
                remedy=f"write 're:{entry}'; without it the entry is compared with whole module names",
            )


def check_coverage(recipe: Recipe, names: Sequence[str]) -> list[str]:
    """Hold a recipe against a checkpoint's tensor names; returns warnings, raises BadInput.

    Refused: nothing to quantize, an entry of the user's that matches nothing, an entry that splits what vLLM
    fuses, an embedding that would be quantized.
    """
    modules = sorted({name.rpartition(".")[0] for name in names if name.endswith(".weight")})
    quantized = {name.rpartition(".")[0] for name in names if recipe.kept(name) is None}
    if not quantized:
        raise BadInput(
            f"the recipe {recipe.scheme.name} quantizes none of the {len(names)} tensors",
            remedy=f"remove entries from its ignore list: {', '.join(recipe.ignore)}",
        )
    for entry in recipe.ignore:
        if entry not in default_ignore() and not any(matches(module, entry) for module in modules):
            raise BadInput(
                f"the recipe's ignore entry {entry!r} matches no module of this checkpoint",
                remedy=f"module names look like {modules[len(modules) // 2]!r}; remove or correct the entry",
            )
    embeddings = sorted(module for module in quantized if _EMBEDDINGS.search(module.rpartition(".")[2]))
    if embeddings:
        raise BadInput(
            f"the recipe would quantize the embedding {embeddings[0]}",
            remedy="add 're:.*embed_tokens.*' (or the embedding's name) to its ignore list",
        )
    _check_fused(quantized, modules)
    heads = sorted(module for module in quantized if module.rpartition(".")[2] == "lm_head")
    return [f"{head} is quantized, which costs quality; 'lm_head' in the ignore list keeps it" for head in heads]


def default_ignore() -> tuple[str, ...]:
    """The ignore list of a request that names none; its entries may match nothing (a tied head is in no file)."""
    default: tuple[str, ...] = QuantizeParameters.model_fields["ignore"].default
    return default


def _check_fused(quantized: set[str], modules: Sequence[str]) -> None:
    """Raises BadInput when only some parts of a fused layer would be quantized."""
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
            raise BadInput(
                f"the recipe quantizes {inside[0]} and not {outside}, which vLLM loads as one layer ({layer})",
                remedy="make the ignore list match all of them or none",
            )
