"""A Prefect server of a test's own, also for a test that runs after another one's server in the same process."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from containers.process import export
from flows.local import embedded
from flows.local.ship import drain_workers
from tests.support import api_client

if TYPE_CHECKING:
    from collections.abc import Iterator

    import httpx

    from infra.settings import Settings


@contextmanager
def prefect_api(settings: Settings) -> Iterator[str]:
    """The address of its API; Prefect, which reads its environment once, is told in both ways."""
    with embedded.prefect_server(settings) as server:
        export(embedded.prefect_environment(settings.home.resolve()) | server.client)
        server.wait()
        from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, temporary_settings

        with temporary_settings({PREFECT_API_URL: server.api, PREFECT_API_AUTH_STRING: server.login}):
            yield server.api
            drain_workers()


def client_of(api: str) -> dict[str, str]:
    """What a program of its own needs to use that API."""
    from prefect.settings import PREFECT_API_AUTH_STRING

    return {"PREFECT_API_URL": api, "PREFECT_API_AUTH_STRING": str(PREFECT_API_AUTH_STRING.value())}


def logged_in(api: str, timeout: float = 60) -> httpx.Client:
    """A client of the API of `prefect_api` without Prefect."""
    return api_client.logged_in(api, client_of(api)["PREFECT_API_AUTH_STRING"], timeout)
