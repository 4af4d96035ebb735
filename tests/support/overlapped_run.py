"""Download, quantize and push, overlapped, as one process with a store and a Prefect server of its own, as `carwright ship` has.

    python -m tests.support.overlapped_run HOME HUB REPOSITORY TARGET

Prints the pushed digest, and what the steps found done, as JSON. A process of its own, so that a test can kill it.
"""

from __future__ import annotations

import json
import sys
from contextlib import ExitStack
from pathlib import Path

from containers.parameters import PushParameters, QuantizeParameters
from containers.process import export
from flows.local import embedded
from flows.local.ship import close_abandoned_runs, drain_workers
from flows.orchestrator.prefect_import import import_prefect
from infra.settings import Settings


def main(home: str, hub: str, repository: str, target: str) -> None:
    settings = Settings(home=Path(home), hub_endpoint=hub, overlap_gb=0.0)
    with ExitStack() as stack:
        server = stack.enter_context(embedded.prefect_server(settings))
        settings = stack.enter_context(embedded.store(settings))
        export(embedded.prefect_environment(settings.home.resolve()) | server.client)
        import_prefect()
        from prefect import flow

        from flows.orchestrator.results import result_storage
        from flows.runtime import open_runtime, use
        from flows.steps import Steps

        server.wait()
        close_abandoned_runs()
        runtime = stack.enter_context(use(open_runtime(settings, lambda task, event: None, "overlapped")))

        @flow(result_storage=result_storage())
        def bring() -> dict[str, object]:
            steps = Steps(runtime)
            source, resolved = steps.resolve(f"hf://{repository}", None)
            recipe, place = QuantizeParameters(), PushParameters(target=target, base="none")
            with steps.pushing_layers(source, recipe, place) as layers:
                loaded = steps.download(source, recipe, after=[resolved], layers=layers)
                quantized = steps.quantize(loaded.output("checkpoint"), recipe, after=[loaded], layers=layers)
                image, _ = steps.push(quantized.output("checkpoint"), place, after=[quantized], layers=layers)
            return {"digest": str(image.digest)}

        said = bring()
        drain_workers()
    sys.stdout.write(json.dumps(said) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
