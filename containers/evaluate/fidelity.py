"""Log-probabilities of a fixed text, token by token, as the endpoint computes them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from containers.errors import BadInput
from containers.evaluate import replies
from containers.evaluate.client import NotFinite
from containers.evaluate.measurement import Arrays

if TYPE_CHECKING:
    from containers.evaluate.client import Client

_NONE = "the endpoint gives no log-probabilities of the prompt (prompt_logprobs, return_token_ids)"
_VLLM = "serve the model with vLLM; other servers cannot be measured for fidelity"
_FLOOR = -9999.0  # what vLLM writes for a probability of zero (serving.py, clamp_prompt_logprobs)


async def passage(client: Client, text: str, *, top_k: int) -> Arrays:
    """The text's tokens with their log-probabilities and the `top_k` likeliest at each position.

    Numbers that the endpoint cannot return because they are not finite are NaN. Raises BadInput if the endpoint does not
    return a log-probability of every token of the text.
    """
    asked = {"prompt": text, "max_tokens": 1, "temperature": 0, "return_token_ids": True}
    try:
        return read(await client.post("completions", {**asked, "prompt_logprobs": top_k}), top_k=top_k)
    except NotFinite:
        tokens = _tokens(await client.post("completions", asked))
        return _unknown(tokens, top_k)


def read(answer: dict[str, Any], *, top_k: int) -> Arrays:
    """Read a vLLM completion with `prompt_token_ids` and `prompt_logprobs`.

    The latter has for each position but the first a mapping of token id to `logprob` and `rank` (1 is the likeliest),
    of the prompt's own token and of the likeliest ones. Raises BadInput unless each position has those of its own token
    and of as many others as were asked for.
    """
    tokens = _tokens(answer)
    positions = replies.choices(answer)[0].get("prompt_logprobs")
    if not isinstance(positions, list) or not positions:
        raise BadInput(_NONE, remedy=_VLLM)
    if len(tokens) != len(positions):
        raise BadInput(f"the endpoint gave {len(positions)} log-probabilities for {len(tokens)} tokens", remedy=_VLLM)
    arrays = _unknown(tokens, top_k)
    for index, (token, position) in enumerate(zip(tokens, positions, strict=True)):
        if index == 0:
            continue  # nothing comes before it
        try:
            arrays.logprobs[index] = _finite(position[str(token)]["logprob"])
            ranked = sorted(
                ((entry["rank"], int(name), _finite(entry["logprob"])) for name, entry in position.items()),
                key=lambda item: (item[0], item[1]),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise BadInput(
                f"the endpoint gives no log-probability of token {index + 1} of a text of {len(tokens)}", remedy=_VLLM
            ) from error
        if len(ranked) < top_k:
            raise BadInput(
                f"the endpoint gives {len(ranked)} of the {top_k} likeliest tokens that were asked for",
                remedy=f"serve the model with vLLM's --max-logprobs {top_k}",
            )
        # The prompt's own token comes on top of the k likeliest where it is not one of them.
        for column, (_, name, value) in enumerate(ranked[:top_k]):
            arrays.top_ids[index, column] = name
            arrays.top_logprobs[index, column] = value
    return arrays


def _tokens(answer: dict[str, Any]) -> list[int]:
    """The text's tokens, as many as the endpoint counted."""
    tokens = replies.choices(answer)[0].get("prompt_token_ids")
    if not isinstance(tokens, list) or not tokens or not all(type(one) is int for one in tokens):
        raise BadInput(_NONE, remedy=_VLLM)
    counted = replies.tokens(answer, "prompt")
    if counted is not None and counted != len(tokens):
        raise BadInput(f"the endpoint names {len(tokens)} tokens of a text and counts {counted}", remedy=_VLLM)
    return tokens


def _unknown(tokens: list[int], top_k: int) -> Arrays:
    """Tokens without any log-probability yet."""
    count = len(tokens)
    return Arrays(
        np.asarray(tokens, np.int32),
        np.full(count, np.nan, np.float32),
        np.full((count, top_k), -1, np.int32),
        np.full((count, top_k), np.nan, np.float32),
    )


def _finite(value: float | None) -> float:
    """The value; NaN for none and for infinities, zero probability excepted."""
    if value is None or not math.isfinite(value):
        return math.nan
    return max(float(value), _FLOOR)


def not_finite(arrays: Arrays, starts: list[int]) -> int:
    """How many positions have no finite log-probability, not counting the first of each passage, which never has one."""
    missing = ~np.isfinite(arrays.logprobs)
    missing[starts] = False
    return int(missing.sum())


async def rendered(client: Client, messages: list[dict[str, str]]) -> tuple[int, ...]:
    """The token ids that the model's chat template makes of a conversation."""
    answer = await client.post(
        "chat/completions",
        {"messages": messages, "max_tokens": 1, "temperature": 0, "return_token_ids": True},
    )
    tokens = answer.get("prompt_token_ids")
    if not tokens:
        raise BadInput(
            "the endpoint does not say which tokens a chat is made of (return_token_ids)",
            remedy="serve the model with vLLM",
        )
    return tuple(int(token) for token in tokens)
