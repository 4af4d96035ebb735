"""Prefect's worker as Carwright starts it: one that may run for months.

    python -m flows.orchestrator.prefect_worker --pool POOL --type TYPE [OPTION ...]

The options are those of `prefect worker start`. For each flow run the worker makes a few clients of the API. Nothing needs
them later, but they refer to themselves, so only Python's garbage collector can free them, and each holds half a megabyte of
OpenSSL's, which Python does not count. It looks at old objects only once their number has grown by a quarter. Beside the
250,000 of all that is loaded, the few hundred of a run are nothing, and a worker would grow by 0.8 MB with each ship
(docs/measurements/soak.md). Without the loaded ones they are seen in time.
"""

from __future__ import annotations

import gc
import sys
from typing import Final

# Python's own first two; old objects are looked at after each collection of the second generation that finds enough of them.
THRESHOLD: Final = (700, 10, 1)


def load() -> None:
    """Import what a worker needs, and keep the garbage collector away from it for good."""
    gc.disable()
    import prefect.cli.worker
    import prefect.client.orchestration
    import prefect.utilities.schema_tools.validation
    import prefect.workers.process  # noqa: F401
    from prefect.plugins import load_prefect_collections

    load_prefect_collections()  # the other types of workers

    gc.collect()
    gc.freeze()
    gc.collect()  # counts what is left: that is what "a quarter" is of
    gc.set_threshold(*THRESHOLD)
    gc.enable()


def main() -> None:
    """Run the worker until it ends."""
    load()
    from prefect.cli import app

    sys.argv = ["prefect", "worker", "start", *sys.argv[1:]]
    app()


if __name__ == "__main__":
    main()
