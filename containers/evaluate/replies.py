"""Answers of the completions APIs, held against what was asked for.

A server that leaves something out (the prompt's log-probabilities, one of several answers, a count of tokens) would give a
score of something else, and nothing would say so: so whatever a suite computes is read here, and what is missing is bad input.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from containers.errors import BadInput
from containers.foreign_text import one_line

if TYPE_CHECKING:
    from collections.abc import Mapping

_VLLM = "serve the model with vLLM; a server that leaves out what was asked for cannot be measured"


def choices(answer: Mapping[str, Any], count: int = 1) -> list[dict[str, Any]]:
    """The `count` answers that were asked for; raises BadInput when they are more or fewer."""
    found = answer.get("choices")
    if not isinstance(found, list) or len(found) != count or not all(isinstance(one, dict) for one in found):
        given = len(found) if isinstance(found, list) else "no"
        raise BadInput(f"the endpoint gave {given} answers where {count} were asked for", remedy=_VLLM)
    return found


def text(choice: Mapping[str, Any]) -> str:
    """What a text completion says; raises BadInput where it is no text."""
    found = choice.get("text")
    if not isinstance(found, str):
        raise BadInput(f"the endpoint completed a text with {one_line(repr(found))}", remedy=_VLLM)
    return found


def chat_text(choice: Mapping[str, Any]) -> str:
    """What a chat answer says; empty for one that has no content, as one that only calls a tool or only thinks."""
    message = choice.get("message")
    found = message.get("content") if isinstance(message, dict) else message
    if not isinstance(message, dict) or not isinstance(found, str | None):
        raise BadInput(f"the endpoint answered a chat with {one_line(repr(found))}", remedy=_VLLM)
    return found or ""


def tokens(answer: Mapping[str, Any], kind: str) -> int | None:
    """How many tokens of a kind, `prompt` or `completion`, the endpoint counted; None where it says nothing."""
    usage = answer.get("usage")
    found = usage.get(f"{kind}_tokens") if isinstance(usage, dict) else None
    return found if type(found) is int and found >= 0 else None


def check_prompt(answer: Mapping[str, Any], sent: int | None, *, must: bool = True) -> int:
    """How many tokens of the prompt the endpoint took, 0 for unknown; raises BadInput when they are not the `sent` ones.

    `must`: raises BadInput where the endpoint does not count them, too, since a prompt that it cuts would not be noticed.
    """
    taken = tokens(answer, "prompt")
    if taken is None and must:
        raise BadInput(
            "the endpoint does not say how many tokens of a prompt it took (usage), so one that it cuts would not be noticed",
            remedy=_VLLM,
        )
    if None not in (taken, sent) and taken != sent:
        raise BadInput(f"the endpoint took {taken} tokens of a prompt of {sent}", remedy=_VLLM)
    return taken or 0


def check_echo(answer: Mapping[str, Any], sent: int) -> None:
    """Raises BadInput unless an answer with `echo` has log-probabilities of the `sent` tokens and of the one it generated.

    A server that ignores `echo` gives those of the generated token alone, and a sum over a part that is not there is 0:
    a number like any other.
    """
    (choice,) = choices(answer)
    found = choice.get("logprobs")
    for name in ("token_logprobs", "top_logprobs"):
        values = found.get(name) if isinstance(found, dict) else None
        if not isinstance(values, list):
            raise BadInput(
                "the endpoint gives no log-probabilities of the prompt",
                remedy="the server must support `echo` and `logprobs` in the completions API, as vLLM does",
            )
        if len(values) != sent + 1:
            raise BadInput(
                f"the endpoint gives {len(values)} log-probabilities ({name}) for a prompt of {sent} tokens and one "
                "more that it generates",
                remedy="the server must support `echo` in the completions API, as vLLM does; this one ignores it",
            )
