"""HTTP to a Hugging Face hub, within the limits of `containers.web`: what the download step and the watcher share.

Addresses, the token file, session and errors are those of the hub's own client, `huggingface_hub`. Its requests are not: it
follows the `Link` of a page to any host, with the token, and reads whatever comes. Its `build_hf_headers` moreover asks the
endpoint which variables of the environment to look at for its User-Agent, believes the answer and keeps it for a day (2.4,
utils/_detect_agent.py). Answers of the API stay at the hub. Only the contents of files are redirected to other hosts, and the
token does not go along.
"""

from __future__ import annotations

from contextlib import contextmanager
from importlib.metadata import version
from typing import TYPE_CHECKING, Final

import httpx2
from huggingface_hub import constants, get_session, get_token
from huggingface_hub.utils import parse_ratelimit_headers  # type: ignore[attr-defined]  # documented by its docstring

from containers.errors import BadInput
from containers.web.exchange import REDIRECTS, Exchange, Pages
from containers.web.limits import guard
from containers.web.origins import Origin, resolve

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from pydantic import SecretStr

    from containers.web.exchange import HttpLimits

PUBLIC: Final = Origin("https", "huggingface.co", 443)
BUSY: Final = frozenset({408, 429, 500, 502, 503, 504})  # codes that huggingface_hub retries (utils/_http.py)

_AGENT: Final = f"carwright; hf_hub/{version('huggingface-hub')}"
_TIMEOUT: Final = httpx2.Timeout(30.0)  # seconds without a byte; the client itself would wait for ever


class HubHttp:
    """One hub; threads may share it. Raises BadInput for an endpoint that is no plain http(s) URL."""

    def __init__(self, endpoint: str | None, token: SecretStr | None, limits: HttpLimits) -> None:
        self.endpoint = (endpoint or constants.ENDPOINT).rstrip("/")
        # Without one, that of the client's own token file.
        self._token = token.get_secret_value() if token is not None else get_token()
        try:
            self.home = Origin.of(self.endpoint)
        except BadInput as error:
            raise BadInput(
                f"the hub's endpoint: {error.message}", remedy="check CARWRIGHT_HUB_ENDPOINT (HF_ENDPOINT)"
            ) from error
        self._limits = limits

    @property
    def is_public(self) -> bool:
        """Whether it is the hub itself and no mirror."""
        return self.home == PUBLIC

    def address(self, path: str) -> str:
        return f"{self.endpoint}/api/models/{path}"

    def get(self, address: str, headers: Mapping[str, str] | None = None) -> httpx2.Response:
        """An answer of the API, whatever its status, with its body; raises httpx2's errors, BadInput and TooSlow."""
        session = self.session()
        answer: httpx2.Response = self._exchange(session).small(
            self._request(session, address, headers or {}), follow=True, stay=True
        )
        return answer

    def pages(self, what: str) -> Pages:
        """Tells the pages of one listing apart from those of a hostile one."""
        return Pages(self.home, what)

    @contextmanager
    def stream(self, address: str, headers: Mapping[str, str]) -> Iterator[tuple[httpx2.Response, Iterator[bytes]]]:
        """The contents of a file: the answer, and the pieces of its body as they arrive. Of an error the body is read."""
        session = self.session()
        exchange = self._exchange(session)
        response = exchange.open(self._request(session, address, headers))
        try:
            if response.is_success:
                # As they arrive: asked for larger ones, httpx2 loses what it has gathered when the line is cut.
                yield response, exchange.pieces(response.iter_raw())
            else:
                yield exchange.read(response, 0), iter(())
        finally:
            response.close()

    def head(self, address: str) -> httpx2.Response:
        """The answer to a HEAD for the contents of a file: an error, or that they are here or elsewhere."""
        for _ in range(REDIRECTS):
            session = self.session()
            answer: httpx2.Response = self._exchange(session).small(self._request(session, address, {}, method="HEAD"))
            if not answer.has_redirect_location:
                break
            address = resolve(address, answer.headers["Location"])
            if Origin.of(address) != self.home:
                break
        return answer

    @staticmethod
    def session() -> httpx2.Client:
        """The client's session, guarded. It is made anew after a failed connection, so this is asked each time."""
        session: httpx2.Client = guard(get_session())
        session.timeout = _TIMEOUT
        return session

    def _exchange(self, session: httpx2.Client) -> Exchange:
        return Exchange(session, self.home, self._limits)

    def _request(
        self, session: httpx2.Client, address: str, headers: Mapping[str, str], *, method: str = "GET"
    ) -> httpx2.Request:
        # A range of a compressed body is no range of the file, and nobody can tell how long a compressed answer is.
        ours = {"User-Agent": _AGENT, "Accept-Encoding": "identity", **headers}
        login = {"Authorization": f"Bearer {self._token}"} if self._token else {}
        return session.build_request(method, address, headers={**ours, **login})


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds: the hub's own RateLimit header (its documentation, "Rate limits"), or Retry-After; None without either.

    Retry-After's other form, a date, is not used by the hub.
    """
    limit = parse_ratelimit_headers(headers)
    if limit is not None and limit.remaining == 0:
        return float(limit.reset_in_seconds)
    after = headers.get("Retry-After", "")
    return float(after) if after.isascii() and after.isdigit() else None
