"""Lets only one run at a time make the same artifact, with a Prefect concurrency limit named by the fingerprint.

The limit is created on demand and deleted when the work is done, so that none accumulate. Its slot is held by a lease: the
slot of a killed run becomes free within two minutes.
"""

from __future__ import annotations

import contextlib
import threading
import time
from contextvars import copy_context
from typing import TYPE_CHECKING, Final

import httpx
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import GlobalConcurrencyLimitCreate
from prefect.concurrency.asyncio import ConcurrencySlotAcquisitionError
from prefect.concurrency.sync import concurrency
from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound

from flows.orchestrator.child_runs import server_errors

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from prefect.client.orchestration import SyncPrefectClient

_PREFIX: Final = "carwright-"
_POLL: Final = 1.0  # seconds: whoever is still waiting then waits for somebody
_STUCK: Final = 150.0  # seconds: the slot of a killed run is free by then, unless the server has lost its lease
_LEASE: Final = 60.0  # seconds, Prefect's minimum; renewed while the block runs


@contextlib.contextmanager
def one_at_a_time(fingerprint: str, say: Callable[[str], None]) -> Iterator[None]:
    """Hold the slot of a fingerprint for the length of the block; `say` reports that another run holds it.

    The limit of a run that failed stays, with its slot free: whoever waits for it must find one. Raises NotReady while the
    server is away, before the block.
    """
    name = f"{_PREFIX}{fingerprint}"
    with server_errors(), get_client(sync_client=True) as client, contextlib.suppress(ObjectAlreadyExists):
        client.create_global_concurrency_limit(GlobalConcurrencyLimitCreate(name=name, limit=1))
    acquired, slot = threading.Event(), contextlib.ExitStack()
    watching = threading.Thread(target=copy_context().run, args=(_tell_of_others, name, acquired, say), daemon=True)
    watching.start()
    try:
        with server_errors():
            _take(slot, name)
        acquired.set()
        yield
    finally:
        acquired.set()
        watching.join()
        with contextlib.suppress(
            httpx.HTTPError
        ):  # the work is done or has failed already, and the lease ends by itself
            slot.close()
    # After success the waiting runs find the artifact, so the limit is no longer needed.
    with contextlib.suppress(ObjectNotFound, httpx.HTTPError), get_client(sync_client=True) as client:
        client.delete_global_concurrency_limit_by_name(name)


def _take(slot: contextlib.ExitStack, name: str) -> None:
    """Wait for the slot and put it on the stack; raises what httpx raised, which Prefect wraps in an error of its own."""
    try:
        slot.enter_context(concurrency(name, lease_duration=_LEASE, raise_on_lease_renewal_failure=False))
    except ConcurrencySlotAcquisitionError as error:
        cause = error.__cause__
        raise (cause or error) from None


def _tell_of_others(name: str, acquired: threading.Event, say: Callable[[str], None]) -> None:
    """Say it once that somebody else holds the slot, if this run waits for it, and once more when that takes too long."""
    texts = [
        (0.0, "another run is making the same artifact, or was killed at it: waiting for it"),
        (_STUCK, f"still waiting; if no run is making it, `prefect gcl delete {name}` frees it"),
    ]
    began = time.monotonic()
    while texts and not acquired.wait(_POLL):
        if time.monotonic() - began < texts[0][0]:
            continue
        with contextlib.suppress(httpx.HTTPError), get_client(sync_client=True) as client:
            if _is_held(client, name) and not acquired.is_set():
                say(texts.pop(0)[1])


def _is_held(client: SyncPrefectClient, name: str) -> bool:
    try:
        return client.read_global_concurrency_limit_by_name(name).active_slots > 0
    except ObjectNotFound:  # deleted meanwhile
        return False


def free_all(client: SyncPrefectClient) -> None:
    """Free the slots of killed runs at once, for a caller who knows that no run of this Prefect server is alive."""
    while limits := [one for one in client.read_global_concurrency_limits(limit=200) if one.name.startswith(_PREFIX)]:
        for one in limits:
            with contextlib.suppress(ObjectNotFound):
                client.delete_global_concurrency_limit_by_name(one.name)
