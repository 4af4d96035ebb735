"""Measure one model at its endpoint: sanity, fidelity text, noise, speed."""

from __future__ import annotations

import asyncio
import math
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from containers.errors import Error
from containers.evaluate import fidelity, replies, sanity
from containers.evaluate.client import Client, Rejected
from containers.evaluate.measurement import (
    Arrays,
    Check,
    Measured,
    Measurement,
    Noise,
    Passage,
    RequestCounts,
    Speed,
)

if TYPE_CHECKING:
    from collections.abc import Coroutine, Mapping

    from containers.evaluate.fidelity_text import FidelityText, Sanity
    from containers.events import Reporter
    from containers.parameters import EvaluateOptions, EvaluateParameters

T = TypeVar("T")


async def measure(
    suite: FidelityText,
    parameters: EvaluateParameters,
    options: EvaluateOptions,
    report: Reporter,
    headers: Mapping[str, str] | None = None,
) -> Measured:
    """Run the whole suite on one endpoint; `headers` are those of its `Client`.

    Either everything is measured or this raises: Temporary when a request still failed after its last attempt (the
    sample set would be incomplete, so nothing is kept), BadInput when the endpoint cannot be measured as asked.
    """
    async with Client(options, headers=headers) as client:
        checks = [await sanity.health(client)]
        max_model_len = await sanity.served(client, suite.declared.serving.max_model_len)
        version = await _version(client)
        arrays, passages, prefill = await _text(client, suite, report)
        noise_mean, noise_max = await _noise(client, suite, arrays, passages)
        template = await _template(client, suite)
        report.log("checking chat, streaming, stop strings, long prompts and concurrent requests")
        results = _ConversationResults()
        if template:
            await _chat(client, suite.declared.sanity, results)
        else:
            results.checks.append(Check(name="chat", passed=False, detail="the model has no chat template"))
        await _complete(client, suite.declared.sanity, results, arrays, max_model_len)
        about = Measurement(
            suite=suite.declared.name,
            suite_digest=suite.files.digest,
            subject=parameters.subject,
            server=parameters.server,
            server_version=version,
            max_model_len=max_model_len,
            checks=(*checks, *results.checks),
            answers=results.answers,
            chat_template_tokens=template,
            passages=tuple(passages),
            non_finite=fidelity.not_finite(arrays, [p.start for p in passages]),
            noise=Noise(
                abs_dlogp_mean=noise_mean,
                abs_dlogp_max=noise_max,
                greedy_alike=results.greedy_alike,
                greedy_repeats=suite.declared.sanity.repeats,
                concurrent_alike=results.concurrent_alike,
            ),
            speed=Speed(
                first_token=results.first_token, alone=results.alone, concurrent=results.concurrent, prefill=prefill
            ),
            requests=RequestCounts(**vars(client.counts)),
            tensor_parallel_size=parameters.tensor_parallel_size,
        )
    return Measured(about, arrays)


async def _version(client: Client) -> str:
    answer = await client.get(f"{client.root}/version")
    return str(answer.get("version", "")) if isinstance(answer, dict) else ""


async def _text(client: Client, suite: FidelityText, report: Reporter) -> tuple[Arrays, list[Passage], float]:
    """Log-probabilities of every passage, and tokens a second of it."""
    top_k = suite.declared.fidelity.top_k
    texts = suite.passages
    started = time.monotonic()
    with report.progress("fidelity text", total=len(texts), unit="passages") as progress:

        async def one(text: str) -> Arrays:
            arrays = await fidelity.passage(client, text, top_k=top_k)
            progress.advance(1)
            return arrays

        parts = await gather([one(text) for text in texts.values()])
    seconds = time.monotonic() - started
    passages, start = [], 0
    for path, part in zip(texts, parts, strict=True):
        passages.append(Passage(path=path, start=start, tokens=len(part.tokens)))
        start += len(part.tokens)
    return Arrays.join(parts), passages, start / seconds


async def _noise(client: Client, suite: FidelityText, arrays: Arrays, passages: list[Passage]) -> tuple[float, float]:
    """Mean and largest absolute difference of log-probabilities between two identical requests."""
    path = suite.declared.fidelity.repeat
    again = await fidelity.passage(client, suite.passages[path], top_k=suite.declared.fidelity.top_k)
    place = next(p for p in passages if p.path == path)
    first = arrays.logprobs[place.start : place.start + place.tokens]
    difference = np.abs(first[1:].astype(np.float64) - again.logprobs[1:])
    finite = difference[np.isfinite(difference)]
    return (float(finite.mean()), float(finite.max())) if len(finite) else (0.0, 0.0)


@dataclass
class _ConversationResults:
    """Results of the conversation checks; see Noise and Speed for the numbers."""

    checks: list[Check] = field(default_factory=list)
    answers: dict[str, str] = field(default_factory=dict)
    greedy_alike: float = 0.0
    concurrent_alike: float = 0.0
    first_token: float = 0.0
    alone: float = 0.0
    concurrent: float = 0.0


async def _template(client: Client, suite: FidelityText) -> tuple[int, ...]:
    """The tokens of the suite's conversation; none for a model without a chat template, as base models are."""
    try:
        return await fidelity.rendered(client, [m.model_dump() for m in suite.declared.fidelity.chat_template])
    except Rejected as error:
        if "chat template" not in error.answer:
            raise
        return ()


async def _chat(client: Client, wanted: Sanity, results: _ConversationResults) -> None:
    """Chat answers, and the first of them once more as a stream."""
    answers = await gather([sanity.chat(client, prompt, wanted.max_tokens) for prompt in wanted.chat])
    results.checks += sanity.check_chat(dict(zip(wanted.chat, answers, strict=True)))
    results.answers |= {prompt: _answer_text(answer) for prompt, answer in zip(wanted.chat, answers, strict=True)}
    # The streamed answer is compared with one that was alone on the server, as it is itself.
    first = wanted.chat[0]
    alone = await sanity.chat(client, first, wanted.max_tokens)
    check, streamed = await sanity.stream(client, first, wanted.max_tokens, _answer_text(alone))
    results.checks.append(check)
    results.first_token = streamed.first_token if math.isfinite(streamed.first_token) else 0.0


async def _complete(
    client: Client, wanted: Sanity, results: _ConversationResults, arrays: Arrays, max_model_len: int
) -> None:
    """All checks that use text completions."""
    completions, results.greedy_alike, results.alone = await sanity.repeats(client, wanted)
    results.answers |= completions
    results.checks += sanity.counts(results.alone)
    prompt, whole = max(completions.items(), key=lambda item: len(item[1].split()))
    results.checks.append(await sanity.stop(client, prompt, wanted.max_tokens, whole))
    results.checks.append(
        await sanity.long_prompt(client, arrays.tokens.tolist(), wanted.long_prompt_tokens, max_model_len)
    )
    check, results.concurrent_alike, results.concurrent = await sanity.concurrent(client, wanted, completions)
    results.checks.append(check)


def _answer_text(answer: dict[str, Any]) -> str:
    """The text of a chat answer; empty for one without."""
    return replies.chat_text(replies.choices(answer)[0])


async def gather(work: list[Coroutine[Any, Any, T]]) -> list[T]:
    """Run all of them at once (the client limits the requests in flight); the first error cancels the others and is raised."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one) for one in work]
    except* Error as errors:
        raise _first_error(errors) from None
    return [task.result() for task in tasks]


def _first_error(errors: BaseExceptionGroup[Error]) -> BaseException:
    """The first single error of a group, for one message and one exit code."""
    error: BaseException = errors
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
