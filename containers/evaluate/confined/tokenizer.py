"""A model's tokenizer and chat template in a process of their own: both are programs that came with the model.

Standard input and output are lines of JSON. The first one is an order with `folder` (the tokenizer's files), `readable` (the
only folders that may be read, where the system has Landlock), `memory` (bytes) and `cpu` (seconds for one answer); it is
answered with the special tokens. Then

    {"encode": [text, ...], "special": bool}    -> {"value": [[token, ...], ...]}
    {"render": [message, ...], "options": {}}   -> {"value": text}

and {"error": text} where either fails. The process can read these folders and compute, and nothing else.
"""

from __future__ import annotations

import json
import resource
import sys
from typing import Any, Final

from containers.evaluate.confined import landlock, system_calls

_ATTRIBUTES: Final = (
    "bos_token",
    "bos_token_id",
    "eos_token",
    "eos_token_id",
    "pad_token",
    "pad_token_id",
    "chat_template",
)
_MOST_ERRORS: Final = 1 << 20  # bytes on standard error, a file


def main() -> None:
    """Load the tokenizer and answer until standard input ends."""
    order: dict[str, Any] = json.loads(sys.stdin.buffer.readline())
    from transformers import AutoTokenizer

    limits = {
        resource.RLIMIT_AS: order["memory"],
        resource.RLIMIT_FSIZE: _MOST_ERRORS,
        resource.RLIMIT_CORE: 0,
    }
    for kind, most in limits.items():
        resource.setrlimit(kind, (most, most))
    if landlock.available():  # else what is left is the filter, the limits and the empty environment
        landlock.read_only(order["readable"])
    system_calls.allow_only()
    _count_from_now(order["cpu"])
    tokenizer: Any = None

    def load() -> dict[str, Any]:
        nonlocal tokenizer
        tokenizer = AutoTokenizer.from_pretrained(order["folder"], trust_remote_code=False)
        return {name: getattr(tokenizer, name, None) for name in _ATTRIBUTES}

    _say(load)
    for line in sys.stdin.buffer:
        _count_from_now(order["cpu"])
        _say(lambda line=line: _answer(tokenizer, json.loads(line)))


def _answer(tokenizer: Any, question: dict[str, Any]) -> Any:
    if "render" in question:
        return tokenizer.apply_chat_template(question["render"], tokenize=False, **question["options"])
    texts = question["encode"]
    found = tokenizer(texts, add_special_tokens=question["special"], truncation=False, return_attention_mask=False)
    return found.input_ids


def _say(work: Any) -> None:
    try:
        said = json.dumps({"value": work()})
    except MemoryError:
        said = json.dumps({"error": "it needs more memory than it may have"})
    except Exception as error:  # noqa: BLE001 - whatever the model's files make of these libraries
        said = json.dumps({"error": f"{type(error).__name__}: {error}"[:400]})
    sys.stdout.write(said + "\n")
    sys.stdout.flush()


def _count_from_now(seconds: int) -> None:
    """Let the process have that much more processor time, from now on."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    most = int(used.ru_utime + used.ru_stime) + 1 + seconds
    resource.setrlimit(resource.RLIMIT_CPU, (most, resource.RLIM_INFINITY))
