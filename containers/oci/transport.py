"""HTTP to one registry: login, retries with backoff, and errors that say what to do.

httpx, and not oras-py: that one reads a whole blob into memory for its PUT (`data=fd.read()`), takes blobs from files
only, cannot resume, mount or take a digest while it streams.

Authentication is the distribution specification's: a 401 names the scheme in WWW-Authenticate; Basic sends the login,
Bearer fetches a token for it (GET with the login, or POST with a refresh token, as Docker's token specification says).
Login and tokens go to the registry alone, and to the token service that the registry itself names (`containers.web.origins`):
not to where an upload or a blob is redirected, and a 401 from there is not answered.
"""

from __future__ import annotations

import json
import math
import re
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, Final
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

from containers.errors import BadInput, Error, Temporary
from containers.foreign_text import one_line
from containers.oci.credentials import Credentials, find_credentials
from containers.web.exchange import ERROR, Exchange
from containers.web.origins import Origin, resolve

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from containers.settings import StepSettings

_PARAMETER: Final = re.compile(r'([a-zA-Z_]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s,]+))')
_LONGEST_WAIT: Final = 60.0  # seconds; a registry that asks for more is not worth waiting for
_TOKEN_LIFE: Final = 60.0  # seconds; what a token lives when the answer does not say (Docker's token specification)
_TOKEN_LONGEST: Final = 86400.0  # seconds; whatever the answer says
_TOKEN: Final = re.compile(r"[\x21-\x7e]{1,65536}")  # what fits in a header (RFC 6750, 2.1, is stricter)
_TOKEN_ANSWER: Final = 1 << 20  # bytes
_ROUNDS: Final = 3  # times the deadline for all attempts of a small request together
_LOOPBACK: Final = re.compile(r"(localhost|127\.[0-9.]+|\[::1\])(:[0-9]+)?")


class RetryableError(Temporary):
    """An answer, or none, after which the same request may be sent again; `after` is in seconds."""

    def __init__(self, message: str, *, after: float = 0.0, doctor: str = "") -> None:
        remedy = "the registry may be busy; start again later: finished blobs are not sent again"
        super().__init__(message, remedy=remedy, doctor=doctor)
        self.after = after


@dataclass
class _Token:
    value: str
    until: float


class Transport:
    """One registry, one repository; may be used from several threads."""

    def __init__(self, registry: str, repository: str, settings: StepSettings, *, actions: str = "pull") -> None:
        loopback = _LOOPBACK.fullmatch(registry) is not None
        plain = loopback or registry in settings.registry.plain_http
        host = "registry-1.docker.io" if registry == "docker.io" else registry
        self.base = f"{'http' if plain else 'https'}://{host}"
        self.registry = registry
        self.attempts = settings.registry.attempts
        self._repository = repository
        self.settings = settings
        self._actions = actions
        self._lock = threading.Lock()
        self._challenge: tuple[str, dict[str, str]] | None = None
        self._credentials: Credentials | None = None
        self._asked = False
        self._tokens: dict[str, _Token] = {}
        limit = settings.registry.parallel + 4
        self._client = httpx.Client(
            timeout=httpx.Timeout(settings.registry.timeout),
            limits=httpx.Limits(max_connections=limit, max_keepalive_connections=limit),
            headers={"User-Agent": "carwright", "Accept-Encoding": "identity"},
            trust_env=not loopback,  # no proxy, and no .netrc, on the way to this machine itself
        )
        self.home = Origin.of(self.base)
        self._exchange = Exchange(self._client, self.home, settings.http, settings.registry.timeout)

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
        with self._translated():
            request = self._client.build_request(
                method,
                self.absolute(url),
                headers={**headers, **self._authorization(mount_from)},
                content=content,
            )
            if isinstance(content, bytes):
                response: httpx.Response = self._exchange.small(request, follow=method in ("GET", "HEAD"))
            else:
                response = self._exchange.upload(request)
        return response

    def stream(self, url: str, headers: Mapping[str, str]) -> httpx.Response:
        """A GET whose body is still to be read, by `chunks`; the caller closes it. Status 200 or 206."""
        for last in (False, True):
            with self._translated():
                request = self._client.build_request(
                    "GET", self.absolute(url), headers={**headers, **self._authorization("")}
                )
                opened: httpx.Response = self._exchange.open(request)
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

    def chunks(self, response: httpx.Response, size: int) -> Iterator[bytes]:
        """The body of a streamed answer in pieces of `size` bytes, as they are sent."""
        with self._translated():
            yield from self._exchange.pieces(response.iter_raw(size))

    def absolute(self, url: str) -> str:
        """A Location may be relative (RFC 9110, 10.2.2)."""
        return resolve(self.base, url)

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
        return _broken(self.registry, error)

    def challenged(self, response: httpx.Response) -> bool:
        """Take note of what a 401 asks for; False when we have already answered it and are still not welcome.

        Only the registry itself may ask: what it redirects to would have us fetch a token for it wherever it likes.
        """
        if Origin.of(response.request.url) != self.home:
            return False
        header = response.headers.get("WWW-Authenticate", "")
        scheme, _, rest = header.partition(" ")
        found = {name.lower(): quoted or plain for name, quoted, plain in _PARAMETER.findall(rest)}
        with self._lock:
            if not self._asked:
                self._credentials = find_credentials(self.registry, self._repository, self.settings)
                self._asked = True
            sent = response.request.headers.get("Authorization")
            if scheme.lower() == "basic":
                self._challenge = ("basic", found)
                return self._credentials is not None and sent != self._credentials.basic
            if sent is not None and sent not in {f"Bearer {one.value}" for one in self._tokens.values()}:
                return True  # another thread has fetched a new token since
            if scheme.lower() == "bearer" and "realm" in found:
                self._challenge = ("bearer", found)
            elif self._challenge is None or not self._tokens:
                return False
            self._tokens.clear()  # what we have is not, or no longer, accepted
            return True

    def _authorization(self, mount_from: str) -> dict[str, str]:
        with self._lock:
            if self._challenge is None:
                return {}
            scheme, parameters = self._challenge
            if scheme == "basic":
                return {"Authorization": self._credentials.basic} if self._credentials else {}
            token = self._tokens.get(mount_from)
            if token is None or token.until < time.monotonic():
                token = self._tokens[mount_from] = self._fetch_token(parameters, mount_from)
            return {"Authorization": f"Bearer {token.value}"}

    def _fetch_token(self, parameters: dict[str, str], mount_from: str) -> _Token:
        realm = parameters["realm"]
        service = Exchange(
            self._client, self.home.check_realm(realm), self.settings.http, self.settings.registry.timeout
        )
        scopes = [f"repository:{self._repository}:{self._actions}"]
        scopes += [f"repository:{mount_from}:pull"] if mount_from else []
        query: dict[str, Any] = {"scope": scopes, "client_id": "carwright"}
        if "service" in parameters:
            query["service"] = parameters["service"]
        who = self._credentials
        try:
            if who is not None and not who.username:
                form = query | {
                    "scope": " ".join(scopes),
                    "grant_type": "refresh_token",
                    "refresh_token": who.secret.get_secret_value(),
                }
                request = self._client.build_request("POST", realm, data=form)
            else:
                login = {"Authorization": who.basic} if who else {}
                request = self._client.build_request("GET", realm, params=query, headers=login)
            response = service.small(request, limit=_TOKEN_ANSWER)
        except httpx.TransportError as error:
            raise _broken(str(service.home), error) from error
        except httpx.InvalidURL as error:
            raise BadInput(f"{self.registry} names a token service that is no URL: {realm!r}") from error
        if response.status_code != httpx.codes.OK:
            raise self.explain(response, "the login")
        try:
            body = response.json()
            value = str(body.get("token") or body["access_token"])
        except (ValueError, KeyError, AttributeError, RecursionError) as error:
            raise BadInput(f"{service.home} answered a login without a token") from error
        if not _TOKEN.fullmatch(value):
            raise BadInput(f"{service.home} answered a login with a token that fits in no header")
        life = body.get("expires_in")
        seconds = float(life) if isinstance(life, (int, float)) and 0 <= life <= _TOKEN_LONGEST else _TOKEN_LIFE
        return _Token(value, time.monotonic() + 0.75 * seconds)

    def explain(self, response: httpx.Response, what: str) -> Error:
        """The error of an answer that was not expected."""
        status = response.status_code
        said = _error_text(response)
        message = f"{self.registry} answered {status} to {what}" + (f": {said}" if said else "")
        where = f"{self.registry}/{self._repository}"
        if status == httpx.codes.TOO_MANY_REQUESTS or status >= httpx.codes.INTERNAL_SERVER_ERROR:
            return RetryableError(message, after=_retry_after(response))
        if status == httpx.codes.REQUEST_TIMEOUT:
            return RetryableError(message)
        remedies = {
            401: f"log in with `docker login {self.registry}` or `podman login {self.registry}`, "
            f"or set CARWRIGHT_REGISTRY__HOST={self.registry} and CARWRIGHT_REGISTRY__USERNAME and __PASSWORD",
            403: f"the login is not allowed to do this in {where}; ask its owner for the permission",
            404: f"check the name {where}; some registries require the repository to exist",
            413: "the registry, or a proxy in front of it, accepts no bodies of this size: raise its limit, or use smaller shards",
        }
        return BadInput(message, remedy=remedies.get(status, ""), doctor="registry" if status in (401, 403) else "")


def _broken(host: str, error: httpx.TransportError) -> Error:
    text = str(error)
    if "CERTIFICATE_VERIFY_FAILED" in text:
        remedy = "name the bundle of its certificate authority in SSL_CERT_FILE"
    elif "SSL: WRONG_VERSION_NUMBER" in text or "SSL: RECORD_LAYER_FAILURE" in text:
        remedy = "it seems to serve without TLS: add it to CARWRIGHT_REGISTRY__PLAIN_HTTP"
    else:
        return RetryableError(f"{host}: {_reason(error)}", doctor="registry")
    return BadInput(f"{host}: TLS failed: {text}", remedy=remedy, doctor="registry")


def _reason(error: httpx.TransportError) -> str:
    if isinstance(error, httpx.ConnectError):
        return f"cannot connect: {error}"
    if isinstance(error, httpx.TimeoutException):
        return "no answer in time"
    return f"the connection was lost: {error or type(error).__name__}"


def _error_text(response: httpx.Response) -> str:
    """What the answer's body says (distribution specification, "Error codes"), at most 300 characters."""
    try:
        errors = json.loads(response.content)["errors"]
        text = "; ".join(f"{one.get('code', '')} {one.get('message', '')}".strip() for one in errors)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, httpx.ResponseNotRead):
        return ""
    return one_line(text)


def _retry_after(response: httpx.Response) -> float:
    """Seconds to wait (RFC 9110, 10.2.3), at most a minute."""
    value = response.headers.get("Retry-After", "")
    if value.isascii() and value.isdigit():
        return min(float(value), _LONGEST_WAIT)
    try:
        seconds = parsedate_to_datetime(value).timestamp() - time.time()
    except (ValueError, TypeError, OverflowError, IndexError):
        return 0.0
    return min(max(seconds, 0.0), _LONGEST_WAIT)
