"""A client of a Prefect API as a script without Prefect makes it: with the login, and with a token against CSRF."""

from __future__ import annotations

import uuid
from typing import Any

import httpx
from tenacity import Retrying, retry_if_result, stop_after_attempt, wait_exponential

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


def logged_in(api: str, login: str, timeout: float = 30) -> httpx.Client:
    """`api` is the base of its paths, `login` user:password; raises what httpx raises when the login is refused."""
    user, _, password = login.partition(":")
    name = str(uuid.uuid4())
    settings: dict[str, Any] = {"base_url": api, "auth": (user, password), "timeout": timeout}
    with httpx.Client(**settings, transport=Patient()) as first:
        told = first.get("/csrf-token", params={"client": name}).raise_for_status().json()
    headers = {"Prefect-Csrf-Client": name, "Prefect-Csrf-Token": told["token"]}
    return httpx.Client(**settings, transport=Patient(), headers=headers)
