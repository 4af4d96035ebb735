"""The fields of a decoder's config.json, by the names of most models, wherever a model's own has them.

Of a multimodal model the text part counts. Older classes have names of their own (Falcon, MPT, GPT-2), and what a file leaves
out is the default of the model's class in transformers: `class_defaults.yaml` holds those that are numbers.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from containers.errors import BadInput
from containers.foreign_values import shown
from containers.plain_yaml import load_yaml

if TYPE_CHECKING:
    from collections.abc import Mapping

_DEFAULTS: Final = Path(__file__).with_name("class_defaults.yaml")
_LARGEST: Final = 10**12  # of anything that a configuration counts
_INNER: Final = (
    "text_config",
    "llm_config",
    "language_config",
    "thinker_config",
)  # where a text part is; the last has one, too
_ALIASES: Final[Mapping[str, tuple[str, ...]]] = {
    "hidden_size": ("n_embd", "d_model"),
    "num_hidden_layers": ("n_layer", "n_layers", "num_layers"),
    "num_attention_heads": ("n_head", "n_heads"),
    "num_key_value_heads": ("num_kv_heads", "n_head_kv", "multi_query_group_num"),
    "intermediate_size": ("n_inner", "ffn_dim", "ffn_hidden_size"),
    "vocab_size": ("padded_vocab_size",),
    "max_position_embeddings": ("n_positions", "max_seq_len", "seq_length"),
    "head_dim": ("kv_channels",),
}
_FOUR_TIMES: Final = (
    "falcon",
    "RefinedWeb",
    "RefinedWebModel",
    "mpt",
    "bloom",
    "gpt2",
    "gptj",
    "gpt_bigcode",
)  # MLPs, unless said
_FALCON: Final = ("falcon", "RefinedWeb", "RefinedWebModel")


class DecoderConfig:
    """`text` is the part that describes the decoder."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        self.text, self.kind = _text(config)
        self._defaults: Mapping[str, int] = _class_defaults()["defaults"].get(self.kind, {})

    def count(self, name: str) -> int:
        """A number of something, 0 where there is none; raises BadInput for what is no such number."""
        found = next((one for one in (name, *_ALIASES.get(name, ())) if one in self.text), None)
        if found is None:
            return self._defaults.get(name, 0)
        value = self.text[found] or 0
        if not isinstance(value, int | float) or not 0 <= value <= _LARGEST:
            raise BadInput(
                f"config.json has the {found} {shown(str(value))}",
                remedy="it must be the configuration of a transformer decoder",
            )
        return int(value)

    def number(self, *names: str) -> int:
        """The first of these that there is; raises BadInput when there is none."""
        for name in names:
            if value := self.count(name):
                return value
        raise BadInput(
            f"config.json has no {' or '.join(names)}", remedy="it must be the configuration of a transformer decoder"
        )

    @property
    def intermediate(self) -> int:
        if self.kind in _FOUR_TIMES and not self.count("intermediate_size"):
            ratio = self.text.get("expansion_ratio")
            return (ratio if isinstance(ratio, int) and 0 < ratio <= 64 else 4) * self.number("hidden_size")
        return self.number("intermediate_size", "moe_intermediate_size")

    @property
    def kv_heads(self) -> int:
        """Heads of keys and values, as vLLM counts them."""
        heads = self.number("num_attention_heads")
        if self.kind in _FALCON and not self.text.get("new_decoder_architecture"):
            return 1 if self.text.get("multi_query", True) else heads
        attention = self.text.get("attn_config")
        if isinstance(attention, dict) and "kv_n_heads" in attention:
            return DecoderConfig({"num_key_value_heads": attention["kv_n_heads"]}).count("num_key_value_heads") or heads
        return self.count("num_key_value_heads") or heads


def _text(config: Mapping[str, Any]) -> tuple[Mapping[str, Any], str]:
    """The text part, and its type: where it does not name one, that which the type of the whole has."""
    for name in _INNER:
        inner = config.get(name)
        if isinstance(inner, dict):
            part, kind = _text(inner)
            return part, kind or str(_class_defaults()["text"].get(str(config.get("model_type")), ""))
    return config, str(config.get("model_type") or "")


@cache
def _class_defaults() -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = load_yaml(_DEFAULTS.read_text(encoding="utf-8"), _DEFAULTS.name)
    return found
