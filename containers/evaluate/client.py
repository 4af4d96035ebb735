"""The client of the measured endpoint: requests with bounded concurrency, retried on temporary errors and counted.

API: OpenAI's chat and text completions, and vLLM's additions to them (`prompt_logprobs`, `return_token_ids`, docs of
vLLM's OpenAI-compatible server, "Extra parameters"); `/health` and `/version` at the server's root are vLLM's too.
"""

from __future__ import annotations

import asyncio
import json
import math
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar

import httpx
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, stop_after_attempt, wait_random_exponential

from containers.endpoint_key import needs_key
from containers.errors import BadInput, Error, NotReady, Temporary
from containers.web.exchange import lines_async, read_async
from containers.web.origins import Origin

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
    from types import TracebackType

    from containers.parameters import EvaluateOptions

T = TypeVar("T")

LONGEST_WAIT = 20.0  # seconds between two attempts
ANSWER: Final = 64 << 20  # bytes; the log-probabilities of 4096 tokens of a prompt take less than 1 MB
# Times the setting request_timeout, which is what a server may take before it sends, and then again between two bytes.
_WHOLE: Final = 2
_STREAM: Final = 10
# What Python's JSON encoder says of NaN and infinities; vLLM 0.32 passes it on with status 400.
_NOT_FINITE = ("out of range float values", "not json compliant")


class NotFinite(Error):
    """The model computed NaN or an infinity, which the server could not encode as JSON."""


class Rejected(BadInput):
    """The server rejected the request as invalid (4xx); `status` is its code."""

    def __init__(self, status: int, message: str) -> None:
        absent = "serve this model with vLLM, or take a suite that asks for no more than chats (humaneval, bfcl)"
        super().__init__(
            f"the endpoint rejected the request ({status}): {message}",
            remedy=absent if status == httpx.codes.NOT_FOUND else "",
        )
        self.status = status
        self.answer = message


class _RetryableError(Temporary):
    """One attempt failed; another may succeed."""


@dataclass
class Counts:
    """Counts of the requests of one measurement."""

    sent: int = 0
    retried: int = 0
    failed: int = 0


@dataclass
class Streamed:
    """One streamed answer; times in seconds from the moment the request was sent."""

    text: str = ""
    finish_reason: str = ""
    first_token: float = math.nan
    total: float = math.nan
    chunks: int = 0
    usage: dict[str, int] = field(default_factory=dict)


class Client:
    """Sends requests for one model to one endpoint; use as an async context manager. Requests are added to `counts`.

    `headers` are sent with each, such as those of `containers.endpoint_key`. No redirect is followed.
    """

    def __init__(
        self, options: EvaluateOptions, counts: Counts | None = None, headers: Mapping[str, str] | None = None
    ) -> None:
        if not options.endpoint:
            raise BadInput("no endpoint was given", remedy="give the base URL of an OpenAI API: http://HOST:PORT/v1")
        if not options.endpoint.startswith(("http://", "https://")):
            raise BadInput(f"not an endpoint: {options.endpoint!r}", remedy="write it as http://HOST:PORT/v1")
        Origin.of(options.endpoint)
        self.base = options.endpoint.rstrip("/")
        self.root = self.base.removesuffix("/v1")
        self.model = options.served_model_name
        self.counts = counts if counts is not None else Counts()
        self._attempts = options.attempts
        self._whole = _WHOLE * options.request_timeout
        self._stream = _STREAM * options.request_timeout
        self._gate = asyncio.Semaphore(options.concurrency)
        self._http = httpx.AsyncClient(
            timeout=httpx.Timeout(options.request_timeout, connect=min(10.0, options.request_timeout)),
            limits=httpx.Limits(max_connections=options.concurrency + 2),
            headers={"Accept-Encoding": "identity", **(headers or {})},
            trust_env=False,  # the endpoint is addressed directly; a proxy for the web is none for the model
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._http.aclose()

    async def get(self, url: str) -> Any:
        """The JSON at an absolute URL, or the text if it is not JSON."""

        async def attempt() -> Any:
            text = await self._text("GET", url)
            return _json(text)

        return await self._retried(attempt)

    async def post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """One request below /v1; raises Rejected, NotFinite, or Temporary after the last attempt."""

        async def attempt() -> dict[str, Any]:
            text = await self._text("POST", f"{self.base}/{path}", json={"model": self.model, **body})
            answer = _json(text)
            if not isinstance(answer, dict):
                raise _RetryableError(f"{path} did not answer with a JSON object: {text[:200]!r}")
            return answer

        return await self._retried(attempt)

    async def stream(self, path: str, body: dict[str, Any]) -> Streamed:
        """Send one streaming request and read it to the end; an error within the stream repeats it."""

        async def attempt() -> Streamed:
            asked = {"model": self.model, "stream": True, "stream_options": {"include_usage": True}, **body}
            started = time.monotonic()
            streamed = Streamed()
            async with (
                self._within(self._stream),
                self._http.stream("POST", f"{self.base}/{path}", json=asked) as response,
            ):
                if response.status_code != httpx.codes.OK:
                    said = await read_async(response, ANSWER, self.base)
                    self._raise_for(response.status_code, said.decode(errors="replace"))
                ended = False
                async for line in lines_async(response, ANSWER, self.base):
                    if ended := take_line(streamed, line, time.monotonic() - started):
                        break
            if not ended:
                raise _RetryableError(f"the stream of {path} broke off after {streamed.chunks} chunks")
            streamed.total = time.monotonic() - started
            return streamed

        return await self._retried(attempt)

    async def _text(self, method: str, url: str, **content: Any) -> str:
        """The body of an answer with status 200, as text."""
        async with self._within(self._whole), self._http.stream(method, url, **content) as response:
            text = (await read_async(response, ANSWER, self.base)).decode(errors="replace")
            self._raise_for(response.status_code, text)
            return text

    def _raise_for(self, status: int, text: str) -> None:
        if status == httpx.codes.OK:
            return
        message = _message(text)
        if any(words in message.lower() for words in _NOT_FINITE):
            raise NotFinite(f"the endpoint could not answer because the model's numbers are not finite: {message}")
        if status == httpx.codes.TOO_MANY_REQUESTS or status >= httpx.codes.INTERNAL_SERVER_ERROR:
            raise _RetryableError(f"status {status}: {message}")
        if status == httpx.codes.UNAUTHORIZED:
            raise needs_key(self.base, status)
        raise Rejected(status, message)

    @asynccontextmanager
    async def _within(self, seconds: float) -> AsyncIterator[None]:
        """The client's own timeout bounds the silence between two bytes; this bounds the whole answer."""
        try:
            async with asyncio.timeout(seconds):
                yield
        except TimeoutError as error:
            raise _RetryableError(f"its answer was not complete after {seconds:g} s") from error

    async def _retried(self, attempt: Callable[[], Awaitable[T]]) -> T:
        def before_sleep(state: RetryCallState) -> None:
            self.counts.retried += 1

        retrying = AsyncRetrying(
            stop=stop_after_attempt(self._attempts),
            wait=wait_random_exponential(multiplier=0.5, max=LONGEST_WAIT),
            retry=retry_if_exception(lambda error: isinstance(error, _RetryableError | httpx.TransportError)),
            before_sleep=before_sleep,
            reraise=True,
        )
        async with self._gate:
            self.counts.sent += 1
            try:
                return await retrying(attempt)
            except httpx.ConnectError as error:
                self.counts.failed += 1
                raise NotReady(
                    f"nothing answers at {self.base}: {error}", remedy="start the server, or give its endpoint"
                ) from error
            except httpx.TimeoutException as error:
                self.counts.failed += 1
                raise Temporary(
                    f"{self.base} did not answer in time, {self._attempts} times in a row ({type(error).__name__})",
                    remedy="give it more time (CARWRIGHT_EVALUATE__REQUEST_TIMEOUT, in seconds) or fewer requests at once "
                    "(CARWRIGHT_EVALUATE__CONCURRENCY)",
                ) from error
            except (_RetryableError, httpx.TransportError) as error:
                self.counts.failed += 1
                raise Temporary(
                    f"{self.base} failed {self._attempts} times in a row, the last time with: {error}",
                    remedy="see the server's log, then measure again; nothing was stored",
                ) from error


def _message(text: str) -> str:
    answer = _json(text)
    if isinstance(answer, dict):
        error = answer.get("error", answer)
        return str(error.get("message", error) if isinstance(error, dict) else error)[:500]
    return text[:500]


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def take_line(streamed: Streamed, line: str, now: float) -> bool:
    """Add one line of an event stream to the streamed answer; whether it is the last. Raises Temporary for a broken event."""
    if not line.startswith("data:"):
        return False
    data = line.removeprefix("data:").strip()
    if data == "[DONE]":
        return True
    event = _json(data)
    choices = event.get("choices") or [] if isinstance(event, dict) else None
    if not isinstance(choices, list) or not all(isinstance(choice, dict) for choice in choices):
        raise _RetryableError(f"not an event of a stream: {data[:200]!r}")
    if "error" in event:
        raise _RetryableError(f"the stream carried an error: {_message(data)}")
    if isinstance(usage := event.get("usage"), dict) and usage:
        streamed.usage = {name: count for name, count in usage.items() if type(count) is int}
    for choice in choices:
        delta = choice.get("delta")
        piece = choice.get("text") or (delta.get("content") if isinstance(delta, dict) else "") or ""
        reason = choice.get("finish_reason") or streamed.finish_reason
        if not isinstance(piece, str) or not isinstance(reason, str):
            raise _RetryableError(f"not an event of a stream: {data[:200]!r}")
        if piece:
            streamed.text += piece
            streamed.chunks += 1
            if math.isnan(streamed.first_token):
                streamed.first_token = now
        streamed.finish_reason = reason
    return False
