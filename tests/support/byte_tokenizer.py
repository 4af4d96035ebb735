"""A tokenizer whose tokens are the bytes of the text, as the toy of `tests.support.openai_server` has them, in transformers' files."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

TEMPLATE = (
    "{% for message in messages %}<{{ message['role'] }}>{{ message['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


def write_byte_tokenizer(folder: Path, template: str = TEMPLATE) -> Path:
    """Byte-level BPE without a merge; byte n is token n."""
    folder.mkdir(parents=True, exist_ok=True)
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
    model = {"type": "BPE", "vocab": {sign: byte for byte, sign in _signs().items()}, "merges": []}
    tokenizer = {
        "version": "1.0",
        "added_tokens": [],
        "normalizer": None,
        "pre_tokenizer": byte_level,
        "decoder": byte_level,
        "model": model,
    }
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    configuration = {"tokenizer_class": "PreTrainedTokenizerFast", "chat_template": template, "eos_token": "~"}
    (folder / "tokenizer_config.json").write_text(json.dumps(configuration))
    return folder


def _signs() -> dict[int, str]:
    """The printable sign that byte-level BPE has for each byte (GPT-2's table)."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {byte: chr(256 + n) for n, byte in enumerate(others)}
