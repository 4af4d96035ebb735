"""What came of a run, for programs: artifacts of the run that whoever started it reads back through the Prefect API.

A person reads the run's page; a follower (`flows.orchestrator.follow`) needs the values and the exit code, and reaches neither the
store nor the run's process.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from prefect.artifacts import Artifact
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import ArtifactCreate

from containers.errors import Error
from flows.orchestrator.failure import Failure

if TYPE_CHECKING:
    from prefect.client.schemas.objects import FlowRun, State
    from prefect.flows import Flow

    from flows.release.summary import Shipped

OUTCOME: Final = "carwright-outcome"  # types of artifacts
FAILURE: Final = "carwright-failure"


def write_outcome(shipped: Shipped) -> None:
    """Attach the whole outcome to the run; called inside it."""
    Artifact(
        type=OUTCOME, key="shipped", data=shipped.model_dump_json(), description="The outcome, as JSON for programs"
    ).create()


def write_failure(flow: Flow[..., Any], flow_run: FlowRun, state: State[Any]) -> None:
    """Hook: attach to a failed run its error's message and exit code; a bug's error has neither and is left out."""
    error = state.result(raise_on_failure=False)
    if not isinstance(error, Error):
        return
    with get_client(sync_client=True) as client:
        client.create_artifact(
            ArtifactCreate(
                type=FAILURE,
                key="failure",
                data=Failure.of(error).model_dump_json(),
                description="Why the run failed, as JSON for programs",
                flow_run_id=flow_run.id,
            )
        )
