"""A client of a Prefect API as a script without Prefect makes it: with the login, and with a token against CSRF."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

import httpx
from tenacity import Retrying, retry_if_result, stop_after_attempt, wait_exponential

if TYPE_CHECKING:
    from collections.abc import Generator

TRIES = 6  # as many as Prefect's own client makes


class Patient(httpx.HTTPTransport):
    """Asks again after a 503, which is how the server says that its database is busy and that nothing was written."""

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        again = Retrying(
            retry=retry_if_result(lambda answer: answer.status_code == httpx.codes.SERVICE_UNAVAILABLE),
            wait=wait_exponential(max=10),
            stop=stop_after_attempt(TRIES),
            before_sleep=lambda state: state.outcome.result().close() if state.outcome else None,
            retry_error_callback=lambda state: state.outcome.result() if state.outcome else None,
        )
        answer = again(super().handle_request, request)
        assert isinstance(answer, httpx.Response)
        return answer


class Login(httpx.Auth):
    """The login, and the token against CSRF, which the server takes for an hour: after that it is asked for another."""

    requires_response_body = True

    def __init__(self, api: str, login: str) -> None:
        user, _, password = login.partition(":")
        self._basic, self._api, self._client, self._token = httpx.BasicAuth(user, password), api, str(uuid.uuid4()), ""

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        fresh = not self._token
        if fresh:
            yield from self._renew()
        answer = yield self._signed(request)
        if answer.status_code == httpx.codes.FORBIDDEN and "CSRF" in answer.text and not fresh:
            yield from self._renew()
            yield self._signed(request)

    def _renew(self) -> Generator[httpx.Request, httpx.Response, None]:
        asked = httpx.Request("GET", f"{self._api}/csrf-token", params={"client": self._client})
        answer = yield next(self._basic.auth_flow(asked))
        self._token = answer.raise_for_status().json()["token"]

    def _signed(self, request: httpx.Request) -> httpx.Request:
        request.headers.update({"Prefect-Csrf-Client": self._client, "Prefect-Csrf-Token": self._token})
        return next(self._basic.auth_flow(request))


def logged_in(api: str, login: str, timeout: float = 30) -> httpx.Client:
    """`api` is the base of its paths, `login` user:password; a call raises what httpx raises when the login is refused."""
    return httpx.Client(base_url=api, auth=Login(api, login), timeout=timeout, transport=Patient())
