"""The step under a real Prefect server: shared by two processes of which one is killed, and beside a download."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from containers.parameters import PushParameters, QuantizeOptions, QuantizeParameters
from tests.support.prefect_api import prefect_api
from tests.support.quantize_world import SHARDS, open_world, put_aside, workers_of
from tests.support.waiting import until

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    with open_world(tmp_path_factory.mktemp("flow")) as opened, prefect_api(opened.settings):
        yield opened


def test_a_flow_run_survives_the_death_of_a_worker(world):
    """Groups are spread over both, what the dead one left is dealt out again, and the digest is that of one process."""
    from prefect import flow

    from flows import steps
    from flows.orchestrator.results import result_storage
    from flows.runtime import open_runtime, use

    said: list[str] = []
    runtime = open_runtime(world.settings, lambda task, event: said.append(event.text()), "two-workers")
    killed: list[int] = []

    def kill_one() -> None:
        first, _ = until(lambda: len(at := workers_of(world.folder)) == 2 and world.finished() and at, within=300)
        os.kill(first, signal.SIGKILL)
        killed.append(first)

    with use(runtime):

        @flow(result_storage=result_storage())
        def quantize() -> dict[str, object]:
            options = QuantizeOptions(device="cpu", workers=2, lanes=1)
            request = runtime.requests.quantize(world.checkpoint, QuantizeParameters(), options)
            return steps.pure_step(request).outputs

        killer = threading.Thread(target=kill_one)
        killer.start()
        state = quantize(return_state=True)
        killer.join()
    assert killed
    assert state.is_completed()
    text = "\n".join(said)
    assert "worker 0 (cpu)" in text
    assert "worker 1 (cpu)" in text
    assert "dealt out again" in text
    assert len(world.finished()) == len(SHARDS)
    assert put_aside(world).outputs["checkpoint"].digest == state.result()["checkpoint"].digest


def test_a_large_checkpoint_is_quantized_and_pushed_while_it_comes(world):
    """The flow does all at once; the steps whose turn comes then find every group and every layer, and do the rest."""
    from prefect import flow

    from flows.orchestrator.results import result_storage
    from flows.overlap import NO_LAYERS
    from flows.runtime import open_runtime, use
    from flows.steps import Steps

    layout = world.folder / "car"
    said: list[str] = []
    settings = world.settings.model_copy(update={"overlap_gb": 0.0})
    with use(open_runtime(settings, lambda task, event: said.append(event.text()), "arriving")) as runtime:

        @flow(result_storage=result_storage())
        def bring() -> dict[str, object]:
            steps = Steps(runtime)
            source, resolved = steps.resolve(f"file://{world.folder / 'source'}", None)
            recipe = QuantizeParameters(scheme="W8A8")
            target = PushParameters(target=f"oci:{layout}", base="none")
            with steps.pushing_layers(source, recipe, target) as layers:
                checkpoint = steps.download(source, recipe, after=[resolved], layers=layers)
                quantized = steps.quantize(checkpoint.output("checkpoint"), recipe, after=[checkpoint], layers=layers)
                assert not (layout / "index.json").exists()
                image, pushed = steps.push(quantized.output("checkpoint"), target, after=[quantized], layers=layers)
            with steps.pushing_layers(source, recipe, target) as again:
                assert again == NO_LAYERS  # the quantized checkpoint is in the store
            return {**quantized.result.values, **pushed.result.metrics, "already_there": image.already_there}

        values = bring()
    assert "24 shards will be quantized as they arrive" in said
    assert f"oci:{layout}: 24 layers sent ahead, 0 were already there" in said
    assert values["reused"] == len(SHARDS)
    assert values["skipped_layers"] == len(SHARDS)
    assert not values["already_there"]
    assert world.store.keys("results/shards") == []
