"""HTTP to one registry: login, retries with backoff, and errors that say what to do.

httpx, and not oras-py: that one reads a whole blob into memory for its PUT (`data=fd.read()`), takes blobs from files
only, cannot resume, mount or take a digest while it streams.

What an answer means is in `containers.oci.answers`, how a 401 is answered in `containers.oci.login`.
"""

from __future__ import annotations

import math
import re
import ssl
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

import httpx
from tenacity import (
    RetryCallState,
    Retrying,
    retry_if_exception_type,
    stop_after_attempt,
    stop_after_delay,
    wait_random_exponential,
)

from containers.errors import BadInput, Error
from containers.oci import answers
from containers.oci.answers import RetryableError
from containers.oci.credentials import DOCKER_HUB, DOCKER_HUB_API
from containers.oci.login import Login
from containers.web.exchange import ERROR, Exchange
from containers.web.origins import Origin, resolve

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from containers.settings import StepSettings

_ROUNDS: Final = 3  # times the deadline for all attempts of a small request together
_LOOPBACK: Final = re.compile(r"(localhost|127\.[0-9.]+|\[::1\])(:[0-9]+)?")


class Transport:
    """One registry, one repository; may be used from several threads."""

    def __init__(self, registry: str, repository: str, settings: StepSettings, *, actions: str = "pull") -> None:
        loopback = _LOOPBACK.fullmatch(registry) is not None
        plain = loopback or registry in settings.registry.plain_http
        self._host = DOCKER_HUB_API if registry == DOCKER_HUB else registry
        self.registry = registry
        self.attempts = settings.registry.attempts
        self._repository = repository
        self.settings = settings
        self._actions = actions
        limit = settings.registry.parallel + 4
        self._client = httpx.Client(
            timeout=httpx.Timeout(settings.registry.timeout),
            limits=httpx.Limits(max_connections=limit, max_keepalive_connections=limit),
            headers={"User-Agent": "carwright", "Accept-Encoding": "identity"},
            trust_env=not loopback,  # no proxy, and no .netrc, on the way to this machine itself
            # Without the environment httpx would not look at SSL_CERT_FILE either; OpenSSL does.
            verify=ssl.create_default_context() if loopback else True,
        )
        self._undecided = loopback and registry not in settings.registry.plain_http  # with TLS or without
        self._speak("http" if plain else "https")

    def _speak(self, scheme: str) -> None:
        self.base = f"{scheme}://{self._host}"
        self.home = Origin.of(self.base)
        self._exchange = Exchange(self._client, self.home, self.settings.http, self.settings.registry.timeout)
        self._login = Login(self.registry, self._repository, self._actions, self.home, self._client, self.settings)

    def close(self) -> None:
        self._client.close()

    def request(
        self,
        method: str,
        url: str,
        *,
        accept: tuple[int, ...],
        headers: Mapping[str, str] | None = None,
        content: bytes = b"",
        mount_from: str = "",
        what: str = "",
    ) -> httpx.Response:
        """Send a small request, again after temporary errors, and return an answer whose status is in `accept`."""
        for attempt in self.retrying(within=_ROUNDS * self.settings.http.deadline):
            with attempt:
                return self._once(
                    method,
                    url,
                    accept=accept,
                    headers=headers or {},
                    content=content,
                    mount_from=mount_from,
                    what=what,
                )
        raise AssertionError("tenacity raises the last error")

    def retrying(self, within: float = math.inf) -> Retrying:
        """Attempts, begun within so many seconds, with growing, random pauses; a registry's Retry-After is kept to."""
        backoff = wait_random_exponential(multiplier=0.2, max=20)

        def pause(state: RetryCallState) -> float:
            error = state.outcome.exception() if state.outcome else None
            return max(float(backoff(state)), error.after if isinstance(error, RetryableError) else 0.0)

        return Retrying(
            retry=retry_if_exception_type(RetryableError),
            wait=pause,
            stop=stop_after_attempt(self.attempts) | stop_after_delay(within),
            reraise=True,
        )

    def _once(
        self,
        method: str,
        url: str,
        *,
        accept: tuple[int, ...],
        headers: Mapping[str, str],
        content: bytes,
        mount_from: str,
        what: str,
    ) -> httpx.Response:
        for last in (False, True):
            response = self.send(method, url, headers=headers, content=content, mount_from=mount_from)
            if response.status_code == httpx.codes.UNAUTHORIZED and not last and self.challenged(response):
                continue
            if response.status_code not in accept:
                raise self.explain(response, what or f"{method} {urlsplit(url).path}")
            break
        return response

    def send(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str],
        content: bytes | Iterator[bytes],
        mount_from: str = "",
    ) -> httpx.Response:
        """One request with the login that is known so far; connection errors become what `broken` says.

        A body of bytes is small and has a deadline; one in pieces may be of any size and is held to the least rate.
        """

        def exchange() -> httpx.Response:
            request = self._client.build_request(
                method,
                self.absolute(url),
                headers={**headers, **self._login.headers(mount_from)},
                content=content,
            )
            answer: httpx.Response = (
                self._exchange.small(request, follow=True)
                if isinstance(content, bytes)
                else self._exchange.upload(request)
            )
            return answer

        with self._translated():
            return self._decided(exchange)

    def _decided(self, exchange: Callable[[], httpx.Response]) -> httpx.Response:
        """The answer. A registry on loopback may serve with TLS or without, which the first answer shows."""
        try:
            answer = exchange()
        except (httpx.RemoteProtocolError, httpx.ReadError):
            if not self._has_tls():
                raise
            return exchange()
        if answer.status_code == httpx.codes.BAD_REQUEST and self._has_tls():
            answer.close()
            return exchange()
        self._undecided = False
        return answer

    def _has_tls(self) -> bool:
        """Whether the registry, not yet heard as it should be, speaks TLS; from then on we do."""
        if not self._undecided:
            return False
        self._undecided = False
        try:
            with httpx.Client(timeout=self.settings.registry.timeout, trust_env=False, verify=False) as client:  # noqa: S501 -- a look: no login, and nothing is believed
                client.get(f"https://{self._host}/v2/")
        except httpx.TransportError:
            return False
        self._speak("https")
        return True

    def stream(self, url: str, headers: Mapping[str, str]) -> httpx.Response:
        """A GET whose body is still to be read, by `chunks`; the caller closes it. Status 200 or 206."""
        for last in (False, True):
            with self._translated():
                opened = self._decided(lambda: self._open(url, headers))
                if opened.status_code in (httpx.codes.OK, httpx.codes.PARTIAL_CONTENT):
                    return opened
                try:
                    response: httpx.Response = self._exchange.read(opened, ERROR)
                finally:
                    opened.close()
            if response.status_code == httpx.codes.UNAUTHORIZED and not last and self.challenged(response):
                continue
            break
        raise self.explain(response, f"GET {urlsplit(url).path}")

    def _open(self, url: str, headers: Mapping[str, str]) -> httpx.Response:
        request = self._client.build_request("GET", self.absolute(url), headers={**headers, **self._login.headers("")})
        opened: httpx.Response = self._exchange.open(request)
        return opened

    def chunks(self, response: httpx.Response, size: int) -> Iterator[bytes]:
        """The body of a streamed answer in pieces of `size` bytes, as they are sent."""
        with self._translated():
            yield from self._exchange.pieces(response.iter_raw(size))

    def absolute(self, url: str, to: httpx.Response | None = None) -> str:
        """The address of a path here, or of a Location, which is relative to the request that it answers (RFC 9110, 10.2.2)."""
        return resolve(str(to.request.url) if to is not None else self.base, url)

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except httpx.TransportError as error:
            raise self.broken(error) from error
        except (httpx.InvalidURL, httpx.HTTPError) as error:
            raise BadInput(
                f"{self.registry} does not answer as a registry does: {type(error).__name__}: {error}",
                remedy="check the name of the registry",
            ) from error

    def broken(self, error: httpx.TransportError) -> Error:
        """The error of a request without an answer; one that TLS refuses is not worth another attempt."""
        return answers.broken(self.registry, error)

    def challenged(self, response: httpx.Response) -> bool:
        """Take note of what a 401 asks for; whether the request is to be sent again with what answers it."""
        return self._login.challenged(response)

    def explain(self, response: httpx.Response, what: str) -> Error:
        """The error of an answer that was not expected."""
        return answers.explain(response, what, self.registry, self._repository)
