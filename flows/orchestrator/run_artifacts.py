"""The outcome of a run for programs: artifacts that the command which started the run reads through the Prefect API.

`flows.orchestrator.follow` needs the values and the exit code, and can reach neither the store nor the run's process.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, Final

import httpx
from prefect.artifacts import Artifact
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import ArtifactCreate

from containers.errors import Error
from flows.orchestrator.child_runs import server_errors
from flows.orchestrator.failure import Failure

if TYPE_CHECKING:
    from prefect.client.schemas.objects import FlowRun, State
    from prefect.flows import Flow

    from flows.release.summary import Shipped

OUTCOME: Final = "carwright-outcome"  # types of artifacts
FAILURE: Final = "carwright-failure"


def write_outcome(shipped: Shipped) -> None:
    """Attach the outcome to the current run."""
    Artifact(
        type=OUTCOME, key="shipped", data=shipped.model_dump_json(), description="The outcome, as JSON for programs"
    ).create()


def write_failure(flow: Flow[..., Any], flow_run: FlowRun, state: State[Any]) -> None:
    """Flow hook: attach the message and exit code of an Error to the failed run. A bug has neither and is left out.

    Prefect's own client, which everything in a flow uses, raises httpx's errors when the server is away, or in trouble, for long.
    """
    error: Any = state.result(raise_on_failure=False)
    if isinstance(error, httpx.HTTPError):
        with contextlib.suppress(httpx.HTTPError):
            try:
                with server_errors():
                    raise error
            except Error as meant:
                error = meant
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
