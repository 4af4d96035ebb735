"""Checks that the endpoint is a working OpenAI server with a model that answers sensibly.

A wrong answer is recorded as a failed check; an endpoint that does not answer raises.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

from containers.errors import BadInput
from containers.evaluate import replies
from containers.evaluate.client import Rejected, Streamed
from containers.evaluate.measurement import Check
from containers.serve_health import HEALTH_PATH

if TYPE_CHECKING:
    from containers.evaluate.client import Client
    from containers.evaluate.fidelity_text import Sanity

_HIDDEN = (403, 404, 405)  # what a gateway answers to a path that it does not pass on
PAUSES = (0.5, 2.0)  # seconds before a text in place of a list of models is asked for again
_LOOP = 4  # a token sequence that comes this often in a row is a loop, not an answer


async def health(client: Client) -> Check:
    """vLLM's own health check: its scheduling loop is alive, not only its HTTP server.

    A gateway before it may hide the check; whether the model is served shows in what follows.
    """
    try:
        await client.get(f"{client.root}{HEALTH_PATH}")
    except Rejected as error:
        if error.status not in _HIDDEN:
            raise
        return Check(name="health", passed=True, detail=f"there is no health check here ({error.status})")
    return Check(name="health", passed=True, detail="the health check answers")


async def served(client: Client, needed: int) -> int:
    """The length that the endpoint offers, in tokens; raises BadInput for another model or too short a context."""
    listing = await client.get(f"{client.base}/models")
    for (
        pause
    ) in PAUSES:  # a portal's or a gateway's page may be there for a moment; a wrong address answers with one for ever
        if not isinstance(listing, str):
            break
        await asyncio.sleep(pause)
        listing = await client.get(f"{client.base}/models")
    models = listing.get("data") if isinstance(listing, dict) else None
    if not isinstance(models, list) or not all(
        isinstance(one, dict) and isinstance(one.get("id"), str) for one in models
    ):
        raise BadInput(
            f"{client.base}/models does not list models",
            remedy="give the base URL of an OpenAI API: http://HOST:PORT/v1",
        )
    offered = {model["id"]: model for model in models}
    if client.model not in offered:
        raise BadInput(
            f"{client.base} serves {', '.join(sorted(offered)) or 'nothing'}, and not {client.model!r}",
            remedy="give the name that the model is served under",
        )
    said = offered[client.model].get("max_model_len")
    length: int = said if type(said) is int and said > 0 else 0  # only vLLM says it
    if length and length < needed:
        raise BadInput(
            f"{client.base} serves {client.model} with a context of {length} tokens, and the suite needs {needed}",
            remedy=f"serve it with --max-model-len {needed} or more",
        )
    return length


def greedy(max_tokens: int, **more: Any) -> dict[str, Any]:
    return {"max_tokens": max_tokens, "temperature": 0, "seed": 0, **more}


async def chat(client: Client, prompt: str, max_tokens: int) -> dict[str, Any]:
    return await client.post("chat/completions", greedy(max_tokens, messages=[{"role": "user", "content": prompt}]))


def check_chat(answers: dict[str, dict[str, Any]]) -> list[Check]:
    """Role, text, usage and end of turn of chat answers by prompt."""
    wrong: list[str] = []
    ended = looping = 0
    for prompt, answer in answers.items():
        choice = (answer.get("choices") or [{}])[0]
        message, usage = choice.get("message") or {}, answer.get("usage") or {}
        text = message.get("content") or ""
        if message.get("role") != "assistant":
            wrong.append(f"the answer to {prompt!r} has the role {message.get('role')!r}")
        if not text.strip():
            wrong.append(f"the answer to {prompt!r} is empty")
        counts = [usage.get(f"{name}_tokens") or 0 for name in ("prompt", "completion", "total")]
        if not counts[0] or not counts[1] or counts[0] + counts[1] != counts[2]:
            wrong.append(f"the usage of the answer to {prompt!r} does not add up: {usage}")
        ended += choice.get("finish_reason") == "stop"
        looping += loops(text)
    count = len(answers)
    return [
        Check(name="chat", passed=not wrong, detail="; ".join(wrong) or f"{count} of {count} answers are well formed"),
        Check(
            name="end of turn",
            passed=ended > 0,
            detail=f"{ended} of {count} answers ended by themselves before the limit of tokens",
        ),
        Check(name="no loops", passed=looping * 2 < count, detail=f"{looping} of {count} answers repeat themselves"),
    ]


def loops(text: str) -> bool:
    """Whether the text ends in the same few words over and over, or in one character."""
    words = text.split()
    for size in range(1, 5):
        tail = words[-size * _LOOP :]
        if len(tail) == size * _LOOP and all(tail[i] == tail[i % size] for i in range(len(tail))):
            return True
    dense = "".join(words)
    return len(dense) > 8 * _LOOP and len(set(dense[-4 * _LOOP :])) == 1


async def stream(client: Client, prompt: str, max_tokens: int, whole: str) -> tuple[Check, Streamed]:
    """Whether the chunks of a streamed chat answer join to the same answer as without streaming."""
    streamed = await client.stream(
        "chat/completions", greedy(max_tokens, messages=[{"role": "user", "content": prompt}])
    )
    passed = streamed.text == whole and streamed.chunks > 0 and bool(streamed.finish_reason)
    seen = (
        f"{streamed.chunks} chunks join to the answer without streaming"
        if passed
        else f"{streamed.chunks} chunks join to {streamed.text!r}, without streaming it is {whole!r}"
    )
    return Check(name="streaming", passed=passed, detail=seen), streamed


async def stop(client: Client, prompt: str, max_tokens: int, whole: str) -> Check:
    """Whether a stop string ends the answer just before it. The string is taken from the model's own answer."""
    words = whole.split()
    if len(words) < 3:
        return Check(name="stop", passed=False, detail=f"the answer {whole!r} is too short to be stopped")
    word = words[len(words) // 2]
    expected = whole[: whole.index(word)]
    answer = await client.post("completions", greedy(max_tokens, prompt=prompt, stop=[word]))
    (choice,) = replies.choices(answer)
    text = replies.text(choice)
    passed = text == expected and choice.get("finish_reason") == "stop"
    seen = f"the answer ends before {word!r}" if passed else f"with stop {word!r} the answer was {text!r}"
    return Check(name="stop", passed=passed, detail=seen)


async def long_prompt(client: Client, tokens: list[int], length: int, max_model_len: int) -> Check:
    """Whether a long prompt is taken whole, and one that is too long is rejected instead of cut."""
    prompt = (tokens * (length // len(tokens) + 1))[:length]
    answer = await client.post("completions", greedy(4, prompt=prompt))
    counted = replies.tokens(answer, "prompt")
    if counted != length:
        return Check(name="long prompt", passed=False, detail=f"of {length} tokens the endpoint took {counted}")
    if max_model_len:
        too_long = (tokens * (max_model_len // len(tokens) + 2))[: max_model_len + 1]
        try:
            await client.post("completions", greedy(4, prompt=too_long))
        except Rejected:
            pass
        else:
            seen = f"a prompt of {len(too_long)} tokens was accepted with a context of {max_model_len}"
            return Check(name="long prompt", passed=False, detail=seen)
    return Check(name="long prompt", passed=True, detail=f"{length} tokens were taken whole, one too many was refused")


async def complete(client: Client, sanity: Sanity, prompt: str) -> tuple[str, int]:
    """A completion and the number of its tokens; -1 where the endpoint does not count them."""
    answer = await client.post("completions", greedy(sanity.max_tokens, prompt=prompt))
    counted = replies.tokens(answer, "completion")
    return replies.text(replies.choices(answer)[0]), -1 if counted is None else counted


async def repeats(client: Client, sanity: Sanity) -> tuple[dict[str, str], float, float]:
    """Each completion prompt, one request at a time and `repeats` times.

    Gives the first answers, the share of later answers that equal the first, and tokens a second, which are 0 where the
    endpoint does not count them.
    """
    answers: dict[str, str] = {}
    alike = tokens = 0
    counted = True
    started = time.monotonic()
    for prompt in sanity.completion:
        for turn in range(sanity.repeats):
            text, count = await complete(client, sanity, prompt)
            counted &= count >= 0
            tokens += count
            if turn == 0:
                answers[prompt] = text
            else:
                alike += text == answers[prompt]
    seconds = time.monotonic() - started
    return answers, alike / (len(answers) * (sanity.repeats - 1)), tokens / seconds if counted else 0.0


def counts(alone: float) -> tuple[Check, ...]:
    """A check that fails for an endpoint that does not count the tokens of its answers; nothing for one that does."""
    seen = "the endpoint says nothing of the tokens of its completions, or 0 (usage)"
    return () if alone else (Check(name="usage", passed=False, detail=seen),)


async def concurrent(client: Client, sanity: Sanity, alone: dict[str, str]) -> tuple[Check, float, float]:
    """All completion prompts at once, over and over until `concurrent` requests are sent together.

    Gives the check, the share of answers that equal those given one at a time, and tokens a second.
    """
    prompts = [sanity.completion[i % len(sanity.completion)] for i in range(sanity.concurrent)]
    started = time.monotonic()
    done = await asyncio.gather(*(complete(client, sanity, prompt) for prompt in prompts))
    seconds = time.monotonic() - started
    answered = sum(bool(count) for _, count in done)
    alike = sum(text == alone[prompt] for (text, _), prompt in zip(done, prompts, strict=True))
    check = Check(
        name="concurrent requests",
        passed=answered == len(prompts),
        detail=f"{answered} of {len(prompts)} requests sent together were answered",
    )
    counted = all(count >= 0 for _, count in done)
    return check, alike / len(prompts), sum(count for _, count in done) / seconds if counted else 0.0
