"""One at a time for work that would make the same artifact: a concurrency limit of Prefect with the fingerprint's name.

The limit is made on demand and removed when the work is done, so that a server does not gather them. Its slot is held by
a lease: that of a run that was killed comes free within two minutes.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Final

import httpx
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import GlobalConcurrencyLimitCreate
from prefect.concurrency.sync import concurrency
from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_LEASE: Final = 60.0  # seconds, the least that Prefect's server takes; it is renewed while the block lasts


@contextlib.contextmanager
def one_at_a_time(fingerprint: str, say: Callable[[str], None]) -> Iterator[None]:
    """Hold the slot of a fingerprint for the block; `say` is told when another run may hold it and this one wait."""
    name = f"carwright-{fingerprint}"
    with get_client(sync_client=True) as client:
        try:
            client.create_global_concurrency_limit(GlobalConcurrencyLimitCreate(name=name, limit=1))
        except ObjectAlreadyExists:
            say("another run may be making the same artifact: waiting until it has")
    with concurrency(name, lease_duration=_LEASE, raise_on_lease_renewal_failure=False):
        yield
    # Done well: whoever waits finds the artifact, and a limit that is gone holds nobody up.
    with contextlib.suppress(ObjectNotFound, httpx.HTTPError), get_client(sync_client=True) as client:
        client.delete_global_concurrency_limit_by_name(name)
