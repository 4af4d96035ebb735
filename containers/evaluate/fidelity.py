"""Log-probabilities of a fixed text, token by token, as the endpoint computes them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from containers.errors import BadInput, Temporary
from containers.evaluate.client import NotFinite
from containers.evaluate.measurement import Arrays

if TYPE_CHECKING:
    from containers.evaluate.client import Client

_FLOOR = -9999.0  # what vLLM writes for a probability of zero (serving.py, clamp_prompt_logprobs)


async def passage(client: Client, text: str, *, top_k: int) -> Arrays:
    """The text's tokens with their log-probabilities and the `top_k` likeliest at each position.

    Numbers that the endpoint cannot return because they are not finite are NaN. Raises BadInput if the endpoint returns
    no log-probabilities.
    """
    asked = {"prompt": text, "max_tokens": 1, "temperature": 0, "return_token_ids": True}
    try:
        return read(await client.post("completions", {**asked, "prompt_logprobs": top_k}), top_k=top_k)
    except NotFinite:
        answer = await client.post("completions", asked)
        tokens = (answer.get("choices") or [{}])[0].get("prompt_token_ids") or []
        return read(
            {"choices": [{"prompt_token_ids": tokens, "prompt_logprobs": [{}] * len(tokens)}]},
            top_k=top_k,
        )


def read(answer: dict[str, Any], *, top_k: int) -> Arrays:
    """Read a vLLM completion with `prompt_token_ids` and `prompt_logprobs`.

    The latter has for each position but the first a mapping of token id to `logprob` and `rank` (1 is the likeliest),
    of the prompt's own token and of the likeliest ones.
    """
    choice = (answer.get("choices") or [{}])[0]
    tokens, positions = choice.get("prompt_token_ids"), choice.get("prompt_logprobs")
    if not tokens or not positions:
        raise BadInput(
            "the endpoint gives no log-probabilities of the prompt (prompt_logprobs, return_token_ids)",
            remedy="serve the model with vLLM; other servers cannot be measured for fidelity",
        )
    if len(tokens) != len(positions):
        raise Temporary(f"the endpoint gave {len(positions)} log-probabilities for {len(tokens)} tokens")
    count = len(tokens)
    logprobs = np.full(count, np.nan, np.float32)
    top_ids = np.full((count, top_k), -1, np.int32)
    top_logprobs = np.full((count, top_k), np.nan, np.float32)
    for index, (token, position) in enumerate(zip(tokens, positions, strict=True)):
        if not position:
            continue
        own = position.get(str(token))
        if own is not None:
            logprobs[index] = _finite(own["logprob"])
        ranked = sorted(
            ((entry["rank"], int(name), _finite(entry["logprob"])) for name, entry in position.items()),
            key=lambda item: (item[0], item[1]),
        )
        # The prompt's own token comes on top of the k likeliest where it is not one of them.
        for column, (_, name, value) in enumerate(ranked[:top_k]):
            top_ids[index, column] = name
            top_logprobs[index, column] = value
    return Arrays(np.asarray(tokens, np.int32), logprobs, top_ids, top_logprobs)


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
