"""A Prefect server of a test's own, also for a test that runs after another one's server in the same process."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from containers.process import export
from flows import embedded
from flows.ship import send_what_is_left

if TYPE_CHECKING:
    from collections.abc import Iterator

    from containers.settings import Settings


@contextmanager
def prefect_api(settings: Settings) -> Iterator[str]:
    """The address of its API; Prefect, which reads its environment once, is told in both ways."""
    with embedded.prefect_server(settings) as server:
        export(embedded.prefect_environment(settings.home.resolve()) | {"PREFECT_API_URL": server.api})
        server.wait()
        from prefect.settings import PREFECT_API_URL, temporary_settings

        with temporary_settings({PREFECT_API_URL: server.api}):
            yield server.api
            send_what_is_left()
