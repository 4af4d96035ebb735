"""One exchange over HTTP, within its limits: small answers, files of any size, and listings in pages.

Redirects are followed here, because the client would read the body of each one whole. Compressed bodies are neither asked
for nor read: a body counts with the bytes that it is read into.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Protocol

from containers.errors import BadInput
from containers.events import amount
from containers.foreign_text import one_line
from containers.web.limits import Watch, guard, paced, watched
from containers.web.origins import Origin, resolve

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Iterator

SMALL: Final = 32 << 20  # bytes of an answer that is read into memory; distribution itself takes manifests of 4 MiB
ERROR: Final = 64 << 10  # bytes of an error's answer that are looked at
REDIRECTS: Final = 5
PAGES: Final = 1000
PAGES_BYTES: Final = 128 << 20  # of all pages of one listing together


class HttpLimits(Protocol):
    """The settings of the section `http`."""

    @property
    def deadline(self) -> float: ...
    @property
    def min_rate(self) -> float: ...
    @property
    def rate_window(self) -> float: ...


@dataclass
class Exchange:
    """Requests that begin at one origin, by an `httpx.Client` or an `httpx2.Client`, whose errors it lets pass.

    Raises BadInput where the other side breaks a limit or leads to where nothing may be sent, and Temporary where it is
    too slow.
    """

    client: Any
    home: Origin
    limits: HttpLimits
    silence: float = 0.0  # seconds that the client itself waits for a byte; no limit is below it
    _ours: str = field(init=False)

    def __post_init__(self) -> None:
        guard(self.client)
        self._ours = str(self.home)

    def small(self, request: Any, *, follow: bool = False, stay: bool = False, limit: int = SMALL) -> Any:
        """The answer with its body, of at most `limit` bytes. With `stay` a redirect to another origin is refused."""
        with watched(self._deadline()):
            response = self._send(request, follow=follow, stay=stay)
            try:
                return self._read(response, limit)
            finally:
                response.close()

    def upload(self, request: Any) -> Any:
        """The answer to a request with a body of any size, which must be taken at the least rate."""
        with watched(self._rate()):
            response = self._send(request, follow=False, stay=False)
            with watched(self._deadline()):
                try:
                    return self._read(response, SMALL)
                finally:
                    response.close()

    def open(self, request: Any) -> Any:
        """An answer whose body is still to be read, with `pieces` or `read`; the caller closes it."""
        with watched(self._deadline()):
            return self._send(request, follow=True, stay=False)

    def pieces(self, chunks: Iterable[bytes]) -> Iterator[bytes]:
        """The chunks of an answer's body, which must come at the least rate."""
        return paced(chunks, self._rate())

    def read(self, response: Any, limit: int) -> Any:
        """An opened answer with its body, of at most `limit` bytes."""
        with watched(self._deadline()):
            return self._read(response, limit)

    def _read(self, response: Any, limit: int) -> Any:
        """Of an error only the beginning is read, which is enough to say what it was."""
        failed = response.status_code >= 300
        most = min(limit, ERROR) if failed else limit
        encoding = response.headers.get("Content-Encoding", "identity").strip().lower()
        body = bytearray()
        if encoding in ("", "identity"):
            for chunk in response.iter_raw():
                body += chunk[: most - len(body) + 1]
                if len(body) > most:
                    break
        elif not failed and response.request.method != "HEAD":
            raise BadInput(
                f"{self._ours} sent a compressed answer ({one_line(encoding)!r}), which was not asked for",
                remedy="switch compression off in the proxy before it",
            )
        if len(body) > most and not failed:
            raise BadInput(
                f"{self._ours} answers {response.request.method} {response.url.path} with more than {amount(most, 'B')}",
                remedy="what is there is not what was expected, or the server is hostile",
            )
        # As bytes: not every header that arrives is text that could be sent.
        headers = [pair for pair in response.headers.raw if pair[0].lower() not in _BODY_HEADERS]
        whole = type(response)(
            response.status_code, headers=headers, content=bytes(body[:most]), request=response.request
        )
        if (length := response.headers.get("Content-Length")) is not None:
            whole.headers["Content-Length"] = length  # of a HEAD: what it asks for
        return whole

    def _send(self, request: Any, *, follow: bool, stay: bool) -> Any:
        for _ in range(REDIRECTS + 1):
            self.home.keep_credentials_here(request.url, request.headers)
            try:
                response = self.client.send(request, stream=True, follow_redirects=False)
            except Exception as error:
                if type(error).__name__ != "InvalidURL":  # of either client; it is none of their HTTPErrors
                    raise
                raise BadInput(f"{self._ours} redirects to what is no URL: {error}") from error
            following = response.next_request
            # A redirect that makes a GET of what was to be written (301 to 303) would read where nothing was written.
            if not follow or following is None or following.method != request.method:
                return response
            response.close()
            request = following
            if stay and Origin.of(request.url) != self.home:
                raise BadInput(
                    f"{self._ours} leads to {Origin.of(request.url)}; nothing was sent there",
                    remedy="if it moved, set its new address",
                )
        raise BadInput(f"{self._ours} redirects in a circle, or more than {REDIRECTS} times")

    def _deadline(self) -> Watch:
        return Watch(self._ours, seconds=max(self.limits.deadline, self.silence))

    def _rate(self) -> Watch:
        window = max(self.limits.rate_window, self.silence)
        return Watch(self._ours, rate=self.limits.min_rate, window=window)


# Of a body that was still encoded or in chunks: the new answer's is neither.
_BODY_HEADERS: Final = frozenset({b"content-length", b"content-encoding", b"transfer-encoding"})


@dataclass
class Pages:
    """The pages of one listing: bounded in number and size, all of one origin, and none twice."""

    home: Origin
    what: str
    most: int = PAGES
    most_bytes: int = PAGES_BYTES
    _seen: set[str] = field(default_factory=set)
    _bytes: int = 0

    def following(self, answer: Any, address: str) -> str | None:
        """The address of the page behind the one that `answer` is, from its `Link` (RFC 8288); None after the last."""
        here = resolve(resolve(str(self.home), address), str(answer.request.url))  # where a redirect has led
        self._seen |= {here, resolve(str(self.home), address)}
        self._bytes += len(answer.content)
        link = answer.links.get("next", {}).get("url") or _alone(answer.links)
        if not link:
            return None
        found = resolve(here, link)
        if Origin.of(found) != self.home:
            raise BadInput(
                f"{self.home} continues {self.what} at {Origin.of(found)}; nothing was sent there",
                remedy="a listing stays at its server: this one is wrongly configured or hostile",
            )
        if found in self._seen:
            raise BadInput(f"{self.home} repeats a page of {self.what}", remedy="the server is at fault")
        if len(self._seen) >= self.most or self._bytes > self.most_bytes:
            raise BadInput(
                f"{self.home} lists more than {len(self._seen)} pages of {self.what} ({amount(self._bytes, 'B')})",
                remedy="no listing of a real one is that long",
            )
        return found


def _alone(links: dict[str, dict[str, str]]) -> str | None:
    """The only link of an answer, where it says nothing of what it leads to: of a page it is the next one."""
    (only,) = links.values() if len(links) == 1 else ({},)
    return None if "rel" in only else only.get("url")


async def read_async(response: Any, limit: int, who: str) -> bytes:
    """The body of a streamed answer of an asynchronous client, at most `limit` bytes; raises BadInput for more."""
    body = bytearray()
    async for chunk in plain_async(response, limit, who):
        body += chunk
    return bytes(body)


async def lines_async(response: Any, limit: int, who: str) -> AsyncIterator[str]:
    """The same in lines, without their ends, as they arrive."""
    rest = bytearray()
    async for chunk in plain_async(response, limit, who):
        rest += chunk
        if b"\n" in chunk:
            *whole, last = rest.split(b"\n")
            rest = bytearray(last)
            for line in whole:
                yield line.decode(errors="replace").rstrip("\r")
    if rest:
        yield rest.decode(errors="replace").rstrip("\r")


async def plain_async(response: Any, limit: int, who: str) -> AsyncIterator[bytes]:
    """The chunks of a body that is not compressed and has at most `limit` bytes."""
    encoding = response.headers.get("Content-Encoding", "identity").strip().lower()
    if encoding not in ("", "identity"):
        raise BadInput(
            f"{who} sent a compressed answer ({one_line(encoding)!r}), which was not asked for",
            remedy="switch compression off in the proxy before it",
        )
    size = 0
    async for chunk in response.aiter_raw():
        size += len(chunk)
        if size > limit:
            raise BadInput(
                f"{who} answers with more than {amount(limit, 'B')}", remedy="the server is at fault, or hostile"
            )
        yield chunk
