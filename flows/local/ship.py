"""`carwright ship` on this machine: starts everything that the flow needs, runs the flow, and stops everything."""

from __future__ import annotations

from contextlib import ExitStack
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import httpx

from containers.contract import Step
from containers.errors import BadInput, Error, NotReady
from containers.events import Event
from containers.process import export
from containers.settings import absolute
from containers.sources import HUB
from flows.local import client_logging, embedded
from flows.local.early_checks import check_request
from flows.local.run_record import RunRecord
from flows.orchestrator.prefect_import import import_prefect
from flows.runners.step_container import check_signing
from infra import demo
from infra.environments import device, environment
from infra.environments.ahead import prepare_ahead

if TYPE_CHECKING:
    from flows.release.summary import Shipped
    from flows.runtime import Listener
    from flows.ship_request import ShipRequest
    from infra.settings import Settings

DEMO = f"{HUB}{demo.NAME}"
PUBLIC_HUB = "https://huggingface.co"
_DRAIN = 10.0  # seconds for the last log lines of a run to reach the Prefect server
_PROBE = 3.0  # seconds to find out whether the public hub can be reached


def ship(request: ShipRequest, settings: Settings, listener: Listener) -> Shipped:
    """Run the whole chain on this machine, with its own store and Prefect server.

    Raises the error of the step that failed. Nothing keeps running, except the model if the request says `keep`.
    """
    log = _logger(listener, "carwright")
    check_request(request)
    command = request.command() + (" --profile docker" if settings.launcher == "docker" else "")
    settings, request = absolute(settings), request.absolute()
    with ExitStack() as stack:
        device.check(settings, log)
        if settings.launcher == "process":
            environment.check(Step, settings)
        else:
            _prepare_containers(request, settings, listener)
        stack.enter_context(embedded.run_lock(settings, log))
        server = stack.enter_context(embedded.prefect_server(settings))
        settings = stack.enter_context(embedded.store(settings))
        if settings.launcher == "process":
            prepare_ahead(settings, listener)
        model, settings = choose_model(request.model, settings, stack, listener)
        target = request.to or f"oci:{settings.home / 'images' / _image_name(model, request.scheme)}"
        request = request.model_copy(update={"model": model, "to": target})

        # Prefect reads its settings once, when it is imported.
        export(embedded.prefect_environment(settings.home.resolve()) | {**server.client, **client_logging.ENVIRONMENT})
        import_prefect()
        from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings

        from flows import runtime
        from flows.orchestrator.results import result_storage
        from flows.quantize_and_ship import quantize_and_ship

        client_logging.set_up()
        server.wait()
        close_abandoned_runs()
        run_id = datetime.now(UTC).strftime("%Y%m%dT%H%M%S")
        opened = stack.enter_context(runtime.use(runtime.open_runtime(settings, listener, run_id)))
        for url in opened.services.stop_all():
            log(f"stopped {url}, left by an earlier run")
        log(f"Prefect UI while this runs: {server.url}; its login is in {embedded.login_file(settings)}")
        record = RunRecord.begin(settings.home.resolve() / "runs", run_id, request, command)
        stack.enter_context(server.kept(log))
        try:
            # No heartbeats: the run lock says whether a run is alive, and their thread ends up to a second after the run.
            with temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}):
                shipped: Shipped = quantize_and_ship.with_options(result_storage=result_storage())(
                    **request.model_dump()
                )
        except BaseException as error:
            told = _told(error, server)
            record.fail(told)
            if isinstance(told, Error):
                told.log = str(record.path.parent)
            if told is error:
                raise
            raise told from error
        finally:
            drain_workers()
        record.complete(shipped)
        return shipped


def choose_model(model: str, settings: Settings, stack: ExitStack, listener: Listener) -> tuple[str, Settings]:
    """The model, and the settings with its hub. Without a model: the demo, from the hub or made here."""
    if model:
        return model, settings
    log = _logger(listener, "demo")
    if settings.hub_endpoint is not None:
        log(f"no model given: using the demo, {DEMO}, from {settings.hub_endpoint}")
        return DEMO, settings
    try:
        httpx.head(PUBLIC_HUB, timeout=_PROBE)
    except httpx.HTTPError:
        from infra.demo import demo_hub

        log(f"no model given and no hub reachable: using the demo, {DEMO}, from the weights in a Python package")
        hub = stack.enter_context(demo_hub(settings.cache.expanduser().absolute(), _on_event(listener, "demo")))
        # The user's token is for another hub.
        return DEMO, settings.model_copy(update={"hub_endpoint": hub, "hub_token": None})
    log(f"no model given: using the demo, {DEMO}, from {PUBLIC_HUB}")
    return DEMO, settings


def _told(error: BaseException, server: embedded.PrefectServer) -> BaseException:
    """What the run failed of: where the server of this command has ended, Prefect's own errors, and ours about it, say nothing else.

    Where it was started again, another error keeps its own words.
    """
    from prefect.exceptions import PrefectException

    about_it = (
        error.doctor == "prefect" if isinstance(error, Error) else isinstance(error, httpx.HTTPError | PrefectException)
    )
    gone = server.child.poll() is not None and isinstance(error, Exception) and not isinstance(error, Error)
    if not gone and not (about_it and (server.endings or server.child.poll() is not None)):
        return error
    return NotReady(
        "the Prefect server of this run has ended while it ran",
        remedy=f"start again: the run continues; the server's log is {server.child.log_file}",
        doctor="memory",
    )


def _image_name(model: str, scheme: str) -> str:
    name = model.rstrip("/").rpartition("/")[2].partition("@")[0]
    return f"{name}-{scheme.replace('_', '-')}".lower()


def close_abandoned_runs() -> None:
    """Mark runs of killed processes as crashed, and free what they held. The caller holds the run lock, so no other run is alive."""
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterState, FlowRunFilterStateType
    from prefect.client.schemas.objects import State, StateType
    from prefect.states import Crashed

    from flows.orchestrator import single_flight
    from flows.orchestrator.child_runs import api

    unfinished = FlowRunFilterStateType(any_=[StateType.RUNNING, StateType.PENDING, StateType.PAUSED])
    with api() as client:
        for run in client.read_flow_runs(flow_run_filter=FlowRunFilter(state=FlowRunFilterState(type=unfinished))):
            state: State[Any] = Crashed(message="the process of this run was killed")
            client.set_flow_run_state(run.id, state, force=True)
        single_flight.free_all(client)


def drain_workers() -> None:
    """Send queued logs and events now; at exit the background threads would wait for a server that has stopped."""
    from prefect.events.worker import EventsWorker
    from prefect.logging.handlers import APILogWorker

    for worker in (APILogWorker, EventsWorker):
        worker.drain_all(timeout=_DRAIN)


def _prepare_containers(request: ShipRequest, settings: Settings, listener: Listener) -> None:
    """Check the target, the keys and the images before anything starts, and remove containers of killed runs."""
    if not request.to or request.to.startswith("oci:"):
        raise BadInput("steps in containers can only push to a registry", remedy="name one: --to registry/repository")
    check_signing(settings)
    if settings.launcher == "docker":
        from flows.runners.docker.launcher import ensure_images
        from flows.runners.docker.sweeper import sweep

        ensure_images(settings, _on_event(listener, "carwright"))
        for one in sweep(settings.docker):
            if one.removed:
                _logger(listener, "carwright")(f"removed the container {one.name}: {one.why}")
            elif one.failed:  # no run needs it gone
                _logger(listener, "carwright")(f"could not remove the container {one.name}: {one.why}")


def _on_event(listener: Listener, name: str) -> Any:
    return lambda event: listener(name, event)


def _logger(listener: Listener, name: str) -> Any:
    return lambda text: listener(name, Event(event="log", message=text))
