"""The endpoint as a model for lm-evaluation-harness: the harness's own two models of an OpenAI API, with Carwright's client.

Truncation is an error here: the harness silently cuts prompts longer than `max_length`, and a server may cut what it
receives. Requests are retried and counted by `containers.evaluate.client`.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, field
from itertools import chain
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import httpx
from lm_eval.models.openai_completions import LocalChatCompletion, LocalCompletionsAPI

from containers.errors import BadInput, Temporary
from containers.evaluate import replies
from containers.evaluate.client import ANSWER, Client, Counts, NotFinite, Rejected
from containers.evaluate.measure import gather
from containers.settings import HttpSettings
from containers.web.exchange import Exchange
from containers.web.origins import Origin

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from containers.evaluate.harness.benchmark import Benchmark
    from containers.evaluate.harness.confined_tokenizer import ConfinedTokenizer
    from containers.events import Reporter
    from containers.parameters import EvaluateOptions

_MOST_STOPS = 4  # stop strings that the API takes; answers are cut here at the others


@dataclass
class Traffic:
    """The requests of one benchmark; `cut` counts answers that reached the token limit."""

    counts: Counts = field(default_factory=Counts)
    cut: int = 0


class _OverClient:
    """Mixin that replaces the harness's own requests; see `make`."""

    benchmark: Benchmark
    options: EvaluateOptions
    report: Reporter
    traffic: Traffic
    headers_of_endpoint: Mapping[str, str]
    max_length: int
    tokenized_requests: bool | None

    async def get_batched_requests(
        self, requests: Sequence[Any], cache_keys: Sequence[Any], *, generate: bool = True, **more: Any
    ) -> list[list[Any]]:
        """All requests at once, bounded by the client; raises Temporary, BadInput and NotFinite as the client does."""
        lengths = more.pop("ctxlens", None) or [None] * len(requests)
        too_long: list[int] = []
        with self.report.progress(self.benchmark.title, total=len(requests), unit="requests") as progress:
            async with Client(self.options, self.traffic.counts, self.headers_of_endpoint) as client:

                async def one(message: Any, length: int | None) -> list[Any]:
                    answer = await self._ask(client, message, length, more.get("gen_kwargs"), too_long, generate)
                    progress.advance(1)
                    return answer

                answers = await gather([one(*pair) for pair in zip(requests, lengths, strict=True)])
        self._refuse(too_long, self.benchmark.max_length, len(requests))
        return answers

    async def _ask(  # noqa: PLR0917 - one request and all that it depends on
        self,
        client: Client,
        message: Any,
        length: int | None,
        wanted: dict[str, Any] | None,
        too_long: list[int],
        generate: bool,  # noqa: FBT001
    ) -> list[Any]:
        until = _until(wanted)
        payload = self._create_payload(  # type: ignore[attr-defined]
            self.create_message([message]),  # type: ignore[attr-defined]
            generate=generate,
            gen_kwargs=copy.deepcopy(wanted),
            seed=self._seed,  # type: ignore[attr-defined]
        )
        payload.pop("stop", None)
        if generate and until:
            payload["stop"] = until[:_MOST_STOPS]
        path = "chat/completions" if self.benchmark.api == "chat" else "completions"
        try:
            answer = await client.post(path, payload)
        except Rejected as error:
            raise BadInput(f"{self.benchmark.title}: {error.message}") from error
        try:
            (choice,) = replies.choices(answer)
            if not generate:
                replies.check_echo(answer, len(message))
                replies.check_prompt(answer, len(message), must=False)
                return self._likelihoods(answer, message, length)
            taken = replies.check_prompt(answer, len(message) if self.tokenized_requests else None)
        except BadInput as error:
            raise BadInput(f"{self.benchmark.title}: {error.message}", remedy=error.remedy) from error
        if not self.tokenized_requests and (needed := taken + int(payload["max_tokens"])) > self.benchmark.max_length:
            too_long.append(needed)
        self.traffic.cut += choice.get("finish_reason") == "length"
        return [_before(text, until) for text in self.parse_generations(answer)]  # type: ignore[attr-defined]

    def _likelihoods(self, answer: dict[str, Any], message: Any, length: int | None) -> list[tuple[float, bool]]:
        try:
            found: list[tuple[float, bool]] = self.parse_logprobs(  # type: ignore[attr-defined]
                answer, tokens=[message], ctxlens=[length]
            )
        except (KeyError, TypeError, AttributeError, IndexError, ValueError) as error:
            raise BadInput(
                "the endpoint gives no log-probabilities of the prompt",
                remedy="the server must support `echo` and `logprobs` in the completions API, as vLLM does",
            ) from error
        if not all(math.isfinite(value) for value, _ in found):
            raise NotFinite(f"{self.benchmark.title}: the endpoint's log-probabilities are not finite")
        return found

    def _refuse(self, lengths: Sequence[int], most: int, asked: int) -> None:
        """Raises BadInput when anything is too long: no sample is ever cut."""
        if lengths:
            raise BadInput(
                f"{self.benchmark.title}: {len(lengths)} of {asked} samples would be cut: they need up to "
                f"{max(lengths)} tokens, and max_length allows {most}",
                remedy=f"raise max_length of {self.benchmark.key} and serving.max_model_len in the suite",
            )


class Completions(_OverClient, LocalCompletionsAPI):  # type: ignore[misc]
    """Prompts are rendered and tokenized here."""

    def batch_loglikelihood_requests(self, chunks: Iterable[list[Any]]) -> Any:
        listed = [list(chunk) for chunk in chunks]
        lengths = [len(context) + len(continuation) for _, context, continuation in chain.from_iterable(listed)]
        self._refuse([one for one in lengths if one > self.max_length], self.max_length, len(lengths))
        return super().batch_loglikelihood_requests(listed)

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:  # noqa: FBT001
        needed = []
        for request in requests:
            prompt, wanted = request.args
            tokens = self.tok_encode(prompt, add_special_tokens=self.add_bos_token)
            needed.append(len(tokens) + int(wanted.get("max_gen_toks", self._max_gen_toks)))
        self._refuse([one for one in needed if one > self.max_length], self.max_length, len(needed))
        return list(super().generate_until(requests, disable_tqdm))


class Chat(_OverClient, LocalChatCompletion):  # type: ignore[misc]
    """The server renders the prompts; their length is known from its answers."""


class EndpointTokenizer:
    """The part of a transformers tokenizer that the harness uses, backed by the endpoint."""

    bos_token_id = eos_token_id = eos_token = None

    def __init__(self, options: EvaluateOptions, title: str, headers: Mapping[str, str]) -> None:
        self._url = f"{options.endpoint.rstrip('/').removesuffix('/v1')}/tokenize"
        self._model, self._title = options.served_model_name, title
        self._http = httpx.Client(
            timeout=options.request_timeout, transport=httpx.HTTPTransport(retries=options.attempts), trust_env=False
        )
        self._http.headers.update({"Accept-Encoding": "identity", **headers})
        self._exchange = Exchange(self._http, Origin.of(self._url), HttpSettings(), silence=options.request_timeout)

    def __call__(self, text: str | Sequence[str], *, add_special_tokens: bool, **_: Any) -> Any:
        texts = [text] if isinstance(text, str) else list(text)
        found = [self._tokens(one, add_special_tokens) for one in texts]
        return SimpleNamespace(input_ids=found[0] if isinstance(text, str) else found)

    def apply_chat_template(self, *_: Any, **__: Any) -> str:
        """Raises BadInput: the endpoint renders chats, but does not say into which text."""
        raise BadInput(
            f"{self._title} renders chat prompts locally, but the request names no tokenizer",
            remedy="measure a checkpoint or a modelcar by its reference",
        )

    def _tokens(self, text: str, special: bool) -> list[int]:  # noqa: FBT001
        asked = {"model": self._model, "prompt": text, "add_special_tokens": special}
        try:
            answer = self._exchange.small(self._http.build_request("POST", self._url, json=asked), limit=ANSWER)
            return [int(token) for token in answer.raise_for_status().json()["tokens"]]
        except httpx.TransportError as error:
            raise Temporary(f"{self._url} does not answer: {error}") from error
        except (httpx.HTTPStatusError, ValueError, KeyError, TypeError) as error:
            raise BadInput(
                f"{self._title} needs a tokenizer, and the endpoint offers none",
                remedy="measure a checkpoint or a modelcar by its reference",
            ) from error


def make(
    benchmark: Benchmark,
    options: EvaluateOptions,
    tokenizer: ConfinedTokenizer | None,
    report: Reporter,
    headers: Mapping[str, str],
) -> Completions | Chat:
    """A model for one benchmark, with the arguments that `benchmarks.command` prints.

    Without a tokenizer the endpoint is asked (`/tokenize`, which vLLM has), which is slower and knows no chat template. The
    harness never loads one itself: neither a model's tokenizer nor its chat template runs in this process.
    """
    arguments: dict[str, Any] = {
        "model": options.served_model_name,
        "num_concurrent": max(options.concurrency, 2),  # with 1 the harness would send its requests itself
        "max_length": benchmark.max_length,
        "add_bos_token": benchmark.add_bos_token,
    }
    if benchmark.max_gen_toks is not None:
        arguments["max_gen_toks"] = benchmark.max_gen_toks
    base = options.endpoint.rstrip("/")
    model: Completions | Chat
    if benchmark.api == "chat":
        model = Chat(base_url=f"{base}/chat/completions", **arguments)
    else:
        model = Completions(base_url=f"{base}/completions", tokenizer_backend=None, **arguments)
        model.tokenizer_backend, model.tokenized_requests = "huggingface", True
        model.tokenizer = tokenizer or EndpointTokenizer(options, benchmark.title, headers)
    model.headers_of_endpoint = headers
    model.benchmark, model.options, model.report, model.traffic = benchmark, options, report, Traffic()
    return model


def _until(wanted: dict[str, Any] | None) -> list[str]:
    until = (wanted or {}).get("until") or []
    return [until] if isinstance(until, str) else [one for one in until if one]


def _before(text: str | None, until: list[str]) -> str:
    """The text before the first stop string."""
    text = text or ""
    return text[: min([at for one in until if (at := text.find(one)) >= 0], default=len(text))]
