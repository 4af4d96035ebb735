"""What a server that somebody else runs can do, and whether one model answers behind its URL.

OpenAI's API is a subset of what vLLM answers. A suite that needs more fails on another server with a message of its own; what is
missing is told before that.
"""

from __future__ import annotations

import contextlib
import statistics
import time
from typing import TYPE_CHECKING, Any, Final, TypeVar

import httpx

from containers.contract import Frozen
from containers.errors import BadInput, Error
from containers.foreign_text import one_line
from containers.web.origins import Origin
from flows.serving.endpoint_request import send

if TYPE_CHECKING:
    from collections.abc import Callable

    from containers.parameters import Endpoint
    from containers.settings import EvaluateSettings
    from containers.web.exchange import HttpLimits

T = TypeVar("T")

# Connections, each of its own, so that a balancer deals them out. Of two replicas behind a fair one, one is missed once in 32,768
# times; of eight, the only different one once in 8.
REPLICAS: Final = 16
# Mean difference of log-probabilities, in nats, between two answers to one question. vLLM differs from itself by 0.003 on a GPU and by
# nothing on a CPU, and the demo in FP8 from its baseline by 0.19 (docs/measurements/evaluation.md).
_ALIKE: Final = 0.05
_PATIENCE: Final = 10.0  # seconds for all questions together: most servers answer each in milliseconds
_LEAST: Final = 1e6  # nats: vLLM's own word for impossible is -9999; NaN and infinities are no answer
_TEXT: Final = "The capital of France is Paris, and the capital of Japan is Tokyo. Water boils at 100 degrees."


class ServerFeatures(Frozen):
    """`version` is vLLM's, empty for another server; `context` in tokens, 0 where the server does not tell it."""

    version: str = ""
    log_probabilities: bool = False
    tokenizer: bool = False
    context: int = 0

    @property
    def missing(self) -> tuple[str, ...]:
        """What a server that is not vLLM lacks, with who needs it; nothing for vLLM."""
        lacks = (
            ("/version: it is not known which server answers", not self.version),
            (
                "log-probabilities of a prompt (`echo`), which `smoke` and benchmarks that compare choices need",
                not self.log_probabilities,
            ),
            ("vLLM's /tokenize, which `smoke` and benchmarks need of an endpoint", not self.tokenizer),
            (
                "a context length in /v1/models: a prompt that is too long shows only when it is asked",
                not self.context,
            ),
        )
        return tuple(text for text, true in lacks if true)


class _BusyError(Exception):
    """No answer, or one that says nothing of the server: it is busy or failing."""


class _Probe:
    """Asks one endpoint. An answer that is not what was asked for is an empty object. After `_PATIENCE` seconds nothing more is
    asked: of a server that is slow or hangs the measurement says what is wrong, and is not to wait for 48 answers before.
    """

    def __init__(self, endpoint: Endpoint, limits: HttpLimits | None, settings: EvaluateSettings | None) -> None:
        self._endpoint, self._limits, self._settings = endpoint, limits, settings
        self._origin = Origin.of(endpoint.url)
        self._root = endpoint.url.removesuffix("/v1")
        self._until = time.monotonic() + _PATIENCE

    def _json(self, request: httpx.Request) -> dict[str, Any]:
        if time.monotonic() > self._until:
            raise _BusyError
        try:
            answer = send(request, self._origin, self._limits, self._settings)
        except (httpx.HTTPError, Error) as error:
            raise _BusyError from error
        if answer.is_server_error or answer.status_code == httpx.codes.TOO_MANY_REQUESTS:
            raise _BusyError
        try:
            found = answer.json() if answer.status_code == httpx.codes.OK else {}
        except (ValueError, RecursionError):
            return {}
        return found if isinstance(found, dict) else {}

    def _get(self, url: str) -> dict[str, Any]:
        return self._json(httpx.Request("GET", url))

    def _post(self, url: str, **body: Any) -> dict[str, Any]:
        return self._json(httpx.Request("POST", url, json={"model": self._endpoint.served_model_name, **body}))

    def version(self) -> str:
        found = self._get(f"{self._root}/version").get("version")
        return one_line(found) if isinstance(found, str) else ""

    def tokenizer(self) -> bool:
        found = self._post(f"{self._root}/tokenize", prompt=_TEXT).get("tokens")
        return isinstance(found, list) and len(found) > 1

    def log_probabilities(self) -> tuple[float, ...]:
        """Of the tokens of a text, without the first; nothing from a server that does not give them."""
        asked = {"prompt": _TEXT, "max_tokens": 1, "temperature": 0, "echo": True, "logprobs": 1}
        try:
            values = self._post(f"{self._endpoint.url}/completions", **asked)["choices"][0]["logprobs"][
                "token_logprobs"
            ]
            found = tuple(float(one) for one in values[1:-1])
        except (KeyError, IndexError, TypeError, ValueError, OverflowError):
            return ()
        return found if len(found) > 4 and all(abs(one) < _LEAST for one in found) else ()

    def listed(self) -> tuple[str, int, str]:
        """What the server says of the model: the names that it serves, its context length, and what it was loaded from."""
        listing = self._get(f"{self._endpoint.url}/models").get("data")
        models = (
            {str(one.get("id")): one for one in listing if isinstance(one, dict)} if isinstance(listing, list) else {}
        )
        mine = models.get(self._endpoint.served_model_name, {})
        length = mine.get("max_model_len")
        return (
            ", ".join(sorted(models)),
            length if type(length) is int and length > 0 else 0,
            str(mine.get("root") or ""),
        )


def _answers(ask: Callable[[], T], times: int) -> list[T]:
    """What `times` questions were answered with. One that a busy server does not answer says nothing of which server it is."""
    found = []
    for _ in range(times):
        with contextlib.suppress(_BusyError):
            found.append(ask())
    return found


def features(
    endpoint: Endpoint, limits: HttpLimits | None = None, settings: EvaluateSettings | None = None
) -> ServerFeatures:
    """Ask an endpoint what it can do; a question that it does not answer is something that it cannot."""
    probe = _Probe(endpoint, limits, settings)
    return ServerFeatures(
        version=next(iter(_answers(probe.version, 1)), ""),
        log_probabilities=any(_answers(probe.log_probabilities, 1)),
        tokenizer=any(_answers(probe.tokenizer, 1)),
        context=next((context for _, context, _ in _answers(probe.listed, 1)), 0),
    )


def check_replicas(
    endpoint: Endpoint, limits: HttpLimits | None = None, settings: EvaluateSettings | None = None
) -> None:
    """Raises BadInput when different models answer at one URL: in what they say of themselves, or by log-probabilities.

    A balancer that keeps a client at one replica hides the others, here and while it is measured.
    """
    probe = _Probe(endpoint, limits, settings)
    said = {_described(one) for one in _answers(probe.listed, REPLICAS)}
    versions = {version or "a server without /version" for version in _answers(probe.version, REPLICAS)}
    if len(said) > 1 or len(versions) > 1:
        told = "; ".join(sorted(said if len(said) > 1 else versions))
        raise BadInput(f"behind {endpoint.url} different servers answer: {told}", remedy=_REMEDY)
    first, *others = _answers(probe.log_probabilities, REPLICAS) or [()]
    for again in others:
        apart = statistics.fmean(abs(a - b) for a, b in zip(first, again, strict=False)) if first and again else 0.0
        if len(again) != len(first) or apart > _ALIKE:
            how = f"by {apart:.2f} nats" if len(again) == len(first) else "even in their tokens"
            raise BadInput(
                f"behind {endpoint.url} different models answer as {endpoint.served_model_name}: log-probabilities of one text differ "
                f"{how}",
                remedy=_REMEDY,
            )


_REMEDY: Final = "give the address of one of them, or make all of them serve the same files with the same version"


def _described(said: tuple[str, int, str]) -> str:
    names, context, root = said
    parts = (names or "no model", f"{context} tokens" if context else "", root)
    return one_line(" of ".join(part for part in parts if part))
