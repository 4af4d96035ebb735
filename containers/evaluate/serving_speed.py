"""How fast an endpoint answers: tokens a second and time to first token, at several numbers of requests at once.

The load is the one that serving benchmarks use for chat with some context: prompts of 512 tokens and answers of 64, none
alike, so that no prefix is answered from a cache, and none ends early. One request at a time shows the latency that a user
feels; 128 show what the machine gives at most.
"""

from __future__ import annotations

import asyncio
import random
import statistics
import time
from typing import TYPE_CHECKING, Any, Final

from containers.errors import BadInput
from containers.evaluate.client import Client
from containers.verdict import SPEED_ANSWER, SPEED_PROMPT, Load, Serving

if TYPE_CHECKING:
    from collections.abc import Mapping

    from containers.evaluate.client import Streamed
    from containers.events import Reporter
    from containers.parameters import EvaluateOptions

FILE: Final = "serving.json"
_ALONE: Final = 4  # rounds where few requests would say little
_TOKENS: Final = (100, 20_000)  # ids that every vocabulary of a language model has, beyond its special tokens


def measure(role: str, options: EvaluateOptions, report: Reporter, headers: Mapping[str, str] | None = None) -> Serving:
    """Measure the endpoint at each of the options' load levels. Raises what the client raises, which gets the `headers`."""
    return asyncio.run(_measure(role, options, report, headers or {}))


async def _measure(role: str, options: EvaluateOptions, report: Reporter, headers: Mapping[str, str]) -> Serving:
    loads: list[Load] = []
    with report.progress("speed", total=len(options.load_levels), unit="loads") as progress:
        for level in options.load_levels:
            async with Client(options.model_copy(update={"concurrency": level}), headers=headers) as client:
                if not loads:
                    await _one(client, random.Random(0))  # noqa: S311 - what is compiled or allocated late is not measured
                loads.append(await _level(client, level))
            progress.advance(1)
    start = options.server_start
    return Serving(
        role=role,
        gpus=options.gpus,
        weights_per_gpu=start.weights_per_gpu if start else 0,
        cache_tokens=start.cache_tokens if start else 0,
        start_seconds=start.seconds if start else 0.0,
        load_format=start.load_format if start else "",
        loads=tuple(loads),
    )


async def _level(client: Client, level: int) -> Load:
    """`level` requests at once; a few rounds of them where they are few."""
    rounds = _ALONE if level < _ALONE else 1
    chosen = random.Random(level)  # noqa: S311 - the same prompts for baseline and candidate
    answers: list[Streamed] = []
    started = time.monotonic()
    for _ in range(rounds):
        answers += await asyncio.gather(*(_one(client, chosen) for _ in range(level)))
    seconds = time.monotonic() - started
    tokens = sum(_counted(one, "completion_tokens", SPEED_ANSWER) for one in answers)
    prompts = sum(_counted(one, "prompt_tokens", SPEED_PROMPT) for one in answers)
    return Load(
        requests=level,
        output_tokens_per_second=round(tokens / seconds, 1),
        total_tokens_per_second=round((tokens + prompts) / seconds, 1),
        first_token_seconds=round(statistics.median(one.first_token for one in answers), 4),
    )


def _counted(answer: Streamed, what: str, asked: int) -> int:
    """Tokens of an answer, of which as many as asked for must be there: fewer would be another load."""
    counted = answer.usage.get(what)
    if counted != asked:
        raise BadInput(
            f"the endpoint says {counted if counted is not None else 'nothing'} of {what} where {asked} were asked for",
            remedy="speed is measured with vLLM, which takes prompts whole, counts tokens and knows min_tokens",
        )
    return counted


async def _one(client: Client, chosen: random.Random) -> Streamed:
    body: dict[str, Any] = {
        "prompt": [chosen.randrange(*_TOKENS) for _ in range(SPEED_PROMPT)],
        "max_tokens": SPEED_ANSWER,
        "min_tokens": SPEED_ANSWER,
        "ignore_eos": True,
        "temperature": 0,
    }
    return await client.stream("completions", body)
