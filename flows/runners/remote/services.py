"""Services on other machines: a child run serves there until its lease, a key in the store, is no longer renewed."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from pydantic import ValidationError

from containers.contract import StepRequest
from containers.errors import Error, NotReady
from containers.fingerprints import fingerprint_inputs
from containers.parameters import Endpoint
from containers.serve_health import is_healthy
from containers.store import Store
from flows.orchestrator.child_protocol import child_key
from flows.orchestrator.child_runs import POLL, Children, check_server
from flows.runners.service import refuse_unseen

if TYPE_CHECKING:
    from containers.events import OnEvent
    from flows.orchestrator.child_runs import ChildRun
    from flows.runners.service import Lease, Services
    from infra.settings import Settings

_REACH: Final = 15.0  # seconds for a published endpoint to answer from here


@dataclass
class PlacedLease:
    """One service in a child run; its heartbeats are the lease."""

    endpoint: Endpoint
    _child: ChildRun
    _kept_key: str
    found: bool = False

    @property
    def serves(self) -> bool:
        try:
            return self._child.poll() is None
        except Error:
            return False

    def why_ended(self) -> Error | None:
        try:
            self._child.poll()
        except Error as error:
            return error
        return None

    def end(self) -> None:
        self._child.end()

    def keep(self) -> None:
        """It stays until `carwright clean` stops it, or its run is cancelled."""
        self._child.send("keep")
        self._child.heartbeat.stop()
        self._child.store.write_key(self._kept_key, self.endpoint.model_dump_json().encode())


@dataclass
class _KeptLease:
    """One that an earlier run has left serving; it is not this one's to end."""

    endpoint: Endpoint
    found: bool = True

    @property
    def serves(self) -> bool:
        return is_healthy(self.endpoint.url)

    def why_ended(self) -> Error | None:
        return None

    def end(self) -> None:
        """Nothing: who kept it decides."""

    def keep(self) -> None:
        """Nothing: it is kept."""


@dataclass(frozen=True)
class PlacedServices:
    """Services through the deployment of `placement.serve`; without one, those of this machine."""

    settings: Settings
    here: Services

    def start(self, request: StepRequest, on_event: OnEvent, *, keep: bool = False) -> Lease:
        """Raises NotReady when the endpoint cannot be reached from here, and what `flows.orchestrator.child_runs` raises."""
        deployment = self.settings.placement.serve
        if not deployment:
            return self.here.start(request, on_event, keep=keep)
        store = Store.open(request.store, self.settings.store)
        kept_key = _kept_key(request)
        kept = _read(store, kept_key)
        if kept is not None and is_healthy(kept.url):
            refuse_unseen(request, f"at {kept.url}")
            return _KeptLease(kept)
        name = request.parameters.get("served_model_name")
        child = Children(store, self.settings).start(deployment, request, f"serve {name}", on_event)
        try:
            endpoint = _published(child)
            _check_reachable(endpoint)
        except BaseException:
            child.end()
            raise
        return PlacedLease(endpoint, child, kept_key)

    def stop_all(self, *, kept: bool = False) -> list[str]:
        """Those of this machine, and with `kept` what child runs of the deployment serve without a parent.

        What a dead run left there ends by itself. Raises what `flows.orchestrator.child_runs.check_server` raises.
        """
        stopped = self.here.stop_all(kept=kept)
        deployment = self.settings.placement.serve
        if not kept or not deployment:
            return stopped
        check_server()
        store = Store.open(self.settings.store.location, self.settings.store)
        for request, child in Children(store, self.settings).kept(deployment, lambda _: None):
            endpoint = _read(store, child_key(child.key, "endpoint"))
            child.end()
            with contextlib.suppress(ValidationError):  # a request of another version has another key
                store.delete_key(_kept_key(StepRequest.model_validate(request)))
            stopped.append(endpoint.url if endpoint is not None else f"child run {child.run_id}")
        return stopped


def _kept_key(request: StepRequest) -> str:
    """Where in the store the endpoint of a kept service is."""
    return f"results/services/{request.fingerprint(fingerprint_inputs(request.step))}.json"


def _published(child: ChildRun) -> Endpoint:
    """Wait for the endpoint; raises the error of a child run that ends before."""
    while True:
        endpoint = _read(child.store, child_key(child.key, "endpoint"))
        if endpoint is not None:
            return endpoint
        if child.poll() is not None:
            raise NotReady(f"the child run {child.run_id} ended before it served anything")
        time.sleep(POLL)


def _check_reachable(endpoint: Endpoint) -> None:
    deadline = time.monotonic() + _REACH
    while not is_healthy(endpoint.url):
        if time.monotonic() > deadline:
            raise NotReady(
                f"{endpoint.served_model_name} is served at {endpoint.url}, which cannot be reached from here",
                remedy="set CARWRIGHT_SERVE__ADVERTISE, in the settings of the worker's runs, to a name or address of "
                "their machine that this one reaches",
            )
        time.sleep(POLL)


def _read(store: Store, key: str) -> Endpoint | None:
    try:
        return Endpoint.model_validate_json(store.read_key(key))
    except (KeyError, ValidationError):
        return None
