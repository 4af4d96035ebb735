"""Steps in child runs on other workers: a real Prefect server, a real store, two workers of type process."""

from __future__ import annotations

import threading
import time
from contextvars import copy_context
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from containers.contract import Step, StepRequest
from containers.errors import BadInput, NotReady, StepFailed
from containers.events import Event
from containers.parameters import QuantizeOptions, QuantizeParameters, ServeParameters
from flows.cli.housekeeping import services as services_of
from flows.requests import fingerprint
from flows.runtime import Runtime, open_runtime, use
from infra.settings import PlacementSettings
from tests.support.prefect_api import prefect_api
from tests.support.prefect_worker import Worker, deploy, wait_online
from tests.support.quantize_world import SHARDS, World, open_world, put_aside
from tests.support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from containers.events import OnEvent

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]
POOL = "carwright-gpu"
IGNORE = ("lm_head", "re:.*embed_tokens.*", "re:.*self_attn.*")  # a recipe that no other test here has


@dataclass
class Place:
    """The parent's side: a world with a checkpoint in its store, and where its steps are placed."""

    world: World
    api: str
    said: list[str]

    def runtime(self, **placement: Any) -> Runtime:
        chosen = PlacementSettings(**{"quantize": "run-step/gpu", "patience": 1.0, "silence": 12.0, **placement})
        settings = self.world.settings.model_copy(update={"placement": chosen})
        return open_runtime(settings, lambda task, event: self.said.append(event.text()), "parent")

    def request(self, **parameters: Any) -> StepRequest:
        options = QuantizeOptions(device="cpu", lanes=1)
        return self.runtime().requests.quantize(self.world.checkpoint, QuantizeParameters(**parameters), options)

    def workers(self, *names: str) -> list[Worker]:
        return [Worker(POOL, name, self.world.settings, self.api) for name in names]


def _hold_and_crash(request: StepRequest) -> None:
    """Take the slot of a request's artifact and never renew the lease, as a run does that is killed."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import GlobalConcurrencyLimitCreate

    name = f"carwright-{fingerprint(request)}"
    with get_client(sync_client=True) as client:
        client.create_global_concurrency_limit(GlobalConcurrencyLimitCreate(name=name, limit=1))
        client.increment_concurrency_slots_with_lease([name], 1, "concurrency", 60)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with open_world(tmp_path_factory.mktemp("place")) as world, prefect_api(world.settings) as api:
        deploy(POOL, "flows/run_step.py:run_step", "gpu")
        deploy(POOL, "tests/support/remote_flow.py:run_step_played", "played")
        made = Place(world, api, [])
        with use(made.runtime()):
            _hold_and_crash(made.request(scheme="FP8_BLOCK"))
        yield made


def test_a_pool_without_a_live_worker_is_named(place: Place) -> None:
    """In seconds, with what to do; nothing stays behind that a worker would start hours later."""
    from prefect.client.orchestration import get_client

    runtime = place.runtime()
    with use(runtime), pytest.raises(NotReady, match="work pool carwright-gpu has no live worker") as caught:
        runtime.launcher.run(place.request(), lambda event: None)
    assert "prefect_worker --pool carwright-gpu" in caught.value.remedy
    with get_client(sync_client=True) as client:
        assert client.read_flow_runs() == []


def test_a_deployment_that_is_not_there_is_named(place: Place) -> None:
    """Bad input: no retry will bring it."""
    runtime = place.runtime(quantize="run-step/tpu")
    with use(runtime), pytest.raises(BadInput, match="run-step/tpu"):
        runtime.launcher.run(place.request(), lambda event: None)


@pytest.fixture(scope="module")
def workers(place: Place) -> Iterator[list[Worker]]:
    """Those that live, two at first."""
    both = place.workers("one", "two")
    try:
        wait_online(POOL, 2)
        yield both
    finally:
        for worker in both:
            worker.stop()


def test_two_workers_share_the_groups_and_one_is_killed(place: Place, workers: list[Worker]) -> None:
    """Its part is dealt out again, the run completes, and the bytes are those of one process."""
    from prefect import flow

    from flows import steps
    from flows.orchestrator.results import result_storage

    world = place.world
    killed: list[str] = []

    def kill_one() -> None:
        def at_work() -> list[Worker]:
            found = [worker for worker in workers if worker.working_on(b"containers.quantize")]
            return found if world.finished() else []

        worker = until(at_work, "a worker is at work", within=240)[0]
        worker.kill()
        workers.remove(worker)
        killed.append(worker.name)

    with use(place.runtime(runs=2)):

        @flow(result_storage=result_storage())
        def quantize() -> dict[str, Any]:
            return steps.pure_step(place.request()).outputs

        killer = threading.Thread(target=kill_one)
        killer.start()
        state = quantize(return_state=True)
        killer.join()
    text = "\n".join(place.said)
    assert killed, text + "".join(worker.log for worker in workers)
    assert state.is_completed(), text
    assert "part 1: 12 groups" in text
    assert "part 2: 12 groups" in text
    assert "dealt out again" in text
    assert len(world.finished()) == len(SHARDS)
    assert put_aside(world).outputs["checkpoint"].digest == state.result()["checkpoint"].digest


def test_failures_keep_their_exit_code(place: Place, workers: list[Worker]) -> None:
    """What the step says in the child run is what the parent raises."""
    assert workers
    runtime = place.runtime()
    with use(runtime), pytest.raises(StepFailed, match="matches no module") as caught:
        runtime.launcher.run(place.request(ignore=("lm_head", "re:.*embed_tokens.*", "re:nothing.to.see")), _nobody)
    assert caught.value.exit_code == 2
    assert not caught.value.temporary


def test_an_interrupted_parent_ends_its_child(place: Place, workers: list[Worker]) -> None:
    """Ctrl-C in the parent: the child run ends, and no process of the step is left on the worker."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.sorting import FlowRunSort

    runtime = place.runtime()
    with use(runtime):
        request = place.request(scheme="W8A8")

    def interrupt(event: Event) -> None:
        if any(worker.working_on(b"containers.quantize") for worker in workers):
            raise KeyboardInterrupt

    with use(runtime), pytest.raises(KeyboardInterrupt):
        _run_and_look(runtime, request, interrupt)
    with get_client(sync_client=True) as client:

        def ended() -> bool:
            (last,) = client.read_flow_runs(sort=FlowRunSort.EXPECTED_START_TIME_DESC, limit=1)
            return last.state is not None and last.state.is_final()

        until(ended, "the child run has ended")  # on a busy machine it may take longer than its parent waits for it
    until(lambda: not any(worker.working_on(b"containers.quantize") for worker in workers), "no worker quantizes")


def test_a_service_stays_for_its_lease(place: Place, workers: list[Worker]) -> None:
    """Found through the store, it ends with its lease: at once when told so, and when nobody renews it any more."""
    assert workers
    parameters = ServeParameters(served_model_name="m").dump()
    request = StepRequest(step=Step.SERVE, run="parent", parameters=parameters, store=place.world.location)
    services = place.runtime(serve="run-step/played").services
    for end in (lambda lease: lease.end(), lambda lease: lease._child.heartbeat.stop()):
        lease = services.start(request, _nobody)
        health = lease.endpoint.url.removesuffix("/v1") + "/health"
        assert httpx.get(health).status_code == 200
        assert lease.serves
        assert not lease.found
        end(lease)
        until(lambda url=health: not _answers(url), "the service has ended")
        lease.end()


def test_a_kept_service_outlives_its_parent_and_is_stopped_by_name(place: Place, workers: list[Worker]) -> None:
    """As `carwright clean` does it, in a process that knows no more than the settings."""
    assert workers
    parameters = ServeParameters(served_model_name="kept").dump()
    request = StepRequest(step=Step.SERVE, run="parent", parameters=parameters, store=place.world.location)
    services = place.runtime(serve="run-step/played").services
    lease = services.start(request, _nobody)
    lease.keep()
    time.sleep(20)  # longer than the worker's runs wait for a sign of life
    assert services.start(request, _nobody).found
    (elsewhere,) = services_of(place.runtime(serve="run-step/played").settings)
    assert elsewhere.stop_all() == []
    assert elsewhere.stop_all(kept=True) == [lease.endpoint.url]
    assert not _answers(lease.endpoint.url.removesuffix("/v1") + "/health")
    assert not lease.serves
    assert elsewhere.stop_all(kept=True) == []


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=2).status_code == 200
    except httpx.HTTPError:
        return False


def _run_and_look(runtime: Runtime, request: StepRequest, interrupt: OnEvent) -> None:
    from flows.orchestrator.child_runs import ChildRun

    poll = ChildRun.poll

    def poll_and_look(child: ChildRun) -> Any:
        interrupt(Event(event="log"))
        return poll(child)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ChildRun, "poll", poll_and_look)
        runtime.launcher.run(request, _nobody)


def test_two_runs_at_once_do_the_work_once(place: Place) -> None:
    """Two flow runs want the same artifact: one waits, and finds what the other has made."""
    from prefect import flow
    from prefect.client.orchestration import get_client

    from flows import steps
    from flows.orchestrator.results import result_storage

    world = place.world
    storage = result_storage()
    results: list[Any] = []
    said: list[str] = []

    def run(name: str) -> None:
        with use(open_runtime(world.settings, lambda task, event: said.append(event.text()), name)):

            @flow(name=name, result_storage=storage)
            def quantize() -> Any:
                return steps.pure_step.with_options(refresh_cache=True)(place.request(ignore=IGNORE))

            results.append(quantize())

    # Each in a context like this one: a thread of its own does not know which server this test's is.
    threads = [threading.Thread(target=copy_context().run, args=(run, name)) for name in ("first", "second")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 2
    assert results[0].outputs == results[1].outputs
    assert sum(result.metrics.get("bytes_written", 0) > 0 for result in results) == 1
    assert any("another run is making the same artifact" in line for line in said)
    with get_client(sync_client=True) as client:
        left = [limit.name for limit in client.read_global_concurrency_limits()]
    with use(place.runtime()):
        wanted = fingerprint(place.request(ignore=IGNORE))
    assert not any(wanted in name for name in left)


def test_the_slot_of_a_run_that_was_killed_comes_free(place: Place) -> None:
    """Its lease runs out: the one that waits goes on."""
    from prefect import flow

    from flows import steps
    from flows.orchestrator.results import result_storage

    with use(open_runtime(place.world.settings, lambda task, event: place.said.append(event.text()), "patient")):

        @flow(result_storage=result_storage())
        def quantize() -> Any:
            return steps.pure_step(place.request(scheme="FP8_BLOCK"))

        assert quantize().outputs["checkpoint"]


def _nobody(event: Event) -> None:
    del event
