"""The embedded profile of the pipeline: everything that the flow needs is started, used and stopped by one command."""

from __future__ import annotations

import json
import threading
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx

from containers import suites
from containers.contract import Step
from containers.errors import BadInput, Error, Interrupted
from containers.events import Event
from containers.oci.reference import absolute_layout
from containers.process import export
from containers.settings import absolute
from flows.local import embedded
from flows.orchestrator.prefect_import import import_prefect
from flows.release.summary import NotPromoted, Shipped
from infra.environments import environment

if TYPE_CHECKING:
    from containers.contract import GateProfile
    from flows.runtime import Listener
    from infra.settings import Settings

DEMO = "hf://HuggingFaceTB/SmolLM2-135M-Instruct"
PUBLIC_HUB = "https://huggingface.co"
_DRAIN = 10.0  # seconds for the last log lines of a run to reach the Prefect server
_PROBE = 3.0  # seconds to find out whether the public hub can be reached


@dataclass(frozen=True)
class ShipRequest:
    """What the user asked for; `model` None is the demo model."""

    model: str | None
    revision: str | None = None
    to: str = ""
    scheme: str = "FP8_DYNAMIC"
    suite: str = "smoke"
    base: str = "busybox"
    tag: str = ""
    max_model_len: int = 2048
    override_gate: str = ""
    gate_profile: GateProfile = "release"
    keep: bool = False
    force: bool = False

    def absolute(self) -> ShipRequest:
        """The same for steps, whose working directory is another: folders are named from the root."""
        suite = self.suite if self.suite in suites.names() else str(Path(self.suite).absolute())
        base = absolute_layout(self.base) if self.base.startswith("oci:") else self.base
        return replace(self, to=absolute_layout(self.to) if self.to else "", suite=suite, base=base)

    def asked(self) -> dict[str, Any]:
        """What differs from the defaults: a deployment has defaults of its own."""
        return {name: value for name, value in vars(self).items() if value != getattr(ShipRequest(None), name)}


def ship(wish: ShipRequest, settings: Settings, listener: Listener) -> Shipped:
    """Run the whole chain on this machine, with a store and a Prefect server of its own.

    Raises the error of the step that failed; whatever happens, nothing is left running but what `keep` asks for.
    """
    say = _sayer(listener, "carwright")
    settings, wish = absolute(settings), wish.absolute()
    with ExitStack() as stack:
        if settings.launcher != "process":
            _prepare_containers(wish, settings, listener)
        stack.enter_context(embedded.exclusive(settings, say))
        server = stack.enter_context(embedded.prefect_server(settings))
        settings = stack.enter_context(embedded.store(settings))
        if settings.launcher == "process":
            _prepare_environments(settings, listener)
        model, settings = source(wish.model, settings, stack, listener)
        target = wish.to or f"oci:{settings.home / 'images' / _image_name(model, wish.scheme)}"

        # Prefect reads its settings once, when it is imported.
        export(embedded.prefect_environment(settings.home.resolve()) | _client_environment(server))
        import_prefect()
        from prefect.logging.configuration import setup_logging

        from flows import runtime
        from flows.orchestrator.results import result_storage
        from flows.quantize_and_ship import quantize_and_ship

        setup_logging()
        server.wait()
        _close_abandoned_runs()
        run_id = datetime.now(UTC).strftime("%Y%m%dT%H%M%S")
        record = settings.home.resolve() / "runs" / run_id / "summary.json"
        current = stack.enter_context(runtime.use(runtime.open_runtime(settings, listener, run_id)))
        for url in current.services.stop_all():
            say(f"stopped {url}, which a run that ended had left")
        _prune(record.parent.parent)
        say(f"Prefect UI while this runs: {server.url}; its login is in {embedded.login_file(settings)}")
        record.parent.mkdir(parents=True, exist_ok=True)
        for other in record.parent.parent.glob("*/summary.json"):
            if json.loads(other.read_text()).get("state") == "running":  # this home's lock is held: it cannot be
                _note(other, {"state": "killed"})
        _note(record, {"model": model, "state": "running", "started": datetime.now(UTC).isoformat()})
        try:
            shipped: Shipped = quantize_and_ship.with_options(result_storage=result_storage())(
                model=model,
                revision=wish.revision,
                to=target,
                scheme=wish.scheme,
                suite=wish.suite,
                base=wish.base,
                tag=wish.tag,
                max_model_len=wish.max_model_len,
                override_gate=wish.override_gate,
                gate_profile=wish.gate_profile,
                keep=wish.keep,
                force=wish.force,
            )
        except BaseException as error:
            # Only what is meant for people goes into the record; a bug's details are in the log.
            state = error.message if isinstance(error, Error) else Interrupted.__name__.lower()
            _note(record, {"state": f"failed: {state}"})
            if isinstance(error, NotPromoted):
                _note(record, {"shipped": error.shipped.model_dump(mode="json")})
            raise
        finally:
            send_what_is_left()
        _note(record, {"state": "shipped", "shipped": shipped.model_dump(mode="json")})
        return shipped


def source(model: str | None, settings: Settings, stack: ExitStack, listener: Listener) -> tuple[str, Settings]:
    """The model to work on and where its hub is; without a model the demo, from the hub or made here."""
    if model is not None:
        return model, settings
    say = _sayer(listener, "demo")
    if settings.hub_endpoint is not None:
        say(f"no model given: the demo, {DEMO}, from {settings.hub_endpoint}")
        return DEMO, settings
    try:
        httpx.head(PUBLIC_HUB, timeout=_PROBE)
    except httpx.HTTPError:
        from infra.demo import demo_hub

        say(f"no model given and no hub in reach: the demo, {DEMO}, from weights that a Python package ships")
        hub = stack.enter_context(demo_hub(settings.cache.expanduser().absolute(), _for(listener, "demo")))
        return DEMO, settings.model_copy(update={"hub_endpoint": hub})
    say(f"no model given: the demo, {DEMO}, from {PUBLIC_HUB}")
    return DEMO, settings


def _image_name(model: str, scheme: str) -> str:
    name = model.rstrip("/").rpartition("/")[2].partition("@")[0]
    return f"{name}-{scheme.replace('_', '-')}".lower()


def _client_environment(server: embedded.PrefectServer) -> dict[str, str]:
    return {
        **server.client,
        "PREFECT_LOGGING_LEVEL": "INFO",
        "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",  # the terminal shows the steps' own words
        "PREFECT_LOGGING_HANDLERS_API_LEVEL": "DEBUG",
    }


def _close_abandoned_runs() -> None:
    """Runs that a killed process left as running are marked as crashed: this home's lock is held, none can be alive."""
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterState, FlowRunFilterStateType
    from prefect.client.schemas.objects import State, StateType
    from prefect.states import Crashed

    from flows.orchestrator.child_runs import api

    going = FlowRunFilterStateType(any_=[StateType.RUNNING, StateType.PENDING])
    with api() as client:
        for run in client.read_flow_runs(flow_run_filter=FlowRunFilter(state=FlowRunFilterState(type=going))):
            state: State[Any] = Crashed(message="the process of this run ended without a word")
            client.set_flow_run_state(run.id, state, force=True)


def send_what_is_left() -> None:
    """Logs and events leave in background threads, which would wait at exit for a server that is gone by then."""
    from prefect.events.worker import EventsWorker
    from prefect.logging.handlers import APILogWorker

    for worker in (APILogWorker, EventsWorker):
        worker.drain_all(timeout=_DRAIN)


def _prune(runs: Path, keep: int = 50) -> None:
    """Logs and requests of the last runs stay, older ones go."""
    import shutil

    for folder in sorted(path for path in runs.iterdir() if path.is_dir())[:-keep] if runs.is_dir() else []:
        shutil.rmtree(folder, ignore_errors=True)


def _note(record: Path, news: dict[str, Any]) -> None:
    """Add to a run's record, which `carwright runs` reads."""
    known = json.loads(record.read_text()) if record.exists() else {}
    temporary = record.with_suffix(".tmp")
    temporary.write_text(json.dumps(known | news, indent=2) + "\n")
    temporary.replace(record)


def _prepare_environments(settings: Settings, listener: Listener) -> None:
    """Build the steps' environments beside the first steps, in the order of need, two at a time.

    The threads are daemons: when the run ends early, nobody waits for an environment that is not needed any more. An
    error here is raised again, in its place, by the step that needs the environment.
    """
    lanes = ((Step.DOWNLOAD, Step.QUANTIZE, Step.EVALUATE), (Step.SERVE, Step.PUSH))

    def build(steps: tuple[Step, ...]) -> None:
        for step in steps:
            with suppress(Error):
                environment.prepare(step, settings, _for(listener, step.value))

    for lane in lanes:
        threading.Thread(target=build, args=(lane,), daemon=True, name=f"environments-{lane[0]}").start()


def _prepare_containers(wish: ShipRequest, settings: Settings, listener: Listener) -> None:
    """Say what is missing before anything is started, and take away what killed runs have left on the engine."""
    if not wish.to or wish.to.startswith("oci:"):
        raise BadInput("steps in containers push to a registry", remedy="name it: --to registry/repository")
    if settings.launcher == "docker":
        from flows.runners.docker.launcher import ensure_images
        from flows.runners.docker.sweeper import sweep

        ensure_images(settings, _for(listener, "carwright"))
        for one in sweep(settings.docker):
            if one.removed:
                _sayer(listener, "carwright")(f"removed the container {one.name}: {one.why}")


def _for(listener: Listener, name: str) -> Any:
    return lambda event: listener(name, event)


def _sayer(listener: Listener, name: str) -> Any:
    return lambda text: listener(name, Event(event="log", message=text))
