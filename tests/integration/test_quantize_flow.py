"""Two workers under a real Prefect server: one is killed while it holds groups, and the flow run completes."""

from __future__ import annotations

import os
import signal
import threading
import time

import pytest

from containers.contract import QuantizeOptions, QuantizeParameters
from tests.prefect_api import prefect_api
from tests.quantize_world import SHARDS, open_world, put_aside, workers_of

pytestmark = pytest.mark.integration


def test_a_flow_run_survives_the_death_of_a_worker(tmp_path):
    """Groups are spread over both, what the dead one left is dealt out again, and the digest is that of one process."""
    with open_world(tmp_path) as world, prefect_api(world.settings):
        from prefect import flow

        from flows import requests, steps
        from flows.results import result_storage
        from flows.runtime import open_runtime, use

        said: list[str] = []
        runtime = open_runtime(world.settings, lambda task, event: said.append(event.text()), "two-workers")
        killed: list[int] = []

        def kill_one() -> None:
            deadline = time.monotonic() + 300
            while not killed and time.monotonic() < deadline:
                below = workers_of(world.folder)
                if len(below) == 2 and world.finished():
                    os.kill(below[0], signal.SIGKILL)
                    killed.append(below[0])
                time.sleep(0.05)

        with use(runtime):

            @flow(result_storage=result_storage())
            def quantize() -> dict[str, object]:
                options = QuantizeOptions(device="cpu", workers=2, lanes=1)
                request = requests.quantize(world.checkpoint, QuantizeParameters(), options)
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
