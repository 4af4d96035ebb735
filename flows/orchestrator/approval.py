"""A release that waits for a person, who approves or refuses it with a reason.

The run pauses; whoever resumes it, on the run's page in the Prefect UI or with `carwright approve`, fills in the answer. The
process of the run lives on meanwhile. If it is killed, nothing was promoted; the same command finds all that was made, and
asks again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final
from uuid import UUID

from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterState, FlowRunFilterStateType
from prefect.client.schemas.objects import StateType
from prefect.exceptions import FlowPauseTimeout, ObjectNotFound
from prefect.flow_runs import pause_flow_run
from prefect.input import RunInput
from pydantic import Field, ValidationError, field_validator

from containers.errors import BadInput, faults
from containers.events import Event
from containers.foreign_text import one_line
from flows.orchestrator.child_runs import api
from flows.release.summary import Approval

if TYPE_CHECKING:
    from containers.verdict import Verdict
    from flows.release.report import ReportLocation
    from flows.runtime import Runtime

_POLL: Final = 2  # seconds between two looks at the run
_LONGEST: Final = 500  # characters of a reason


class ReleaseAnswer(RunInput):
    """What the person is asked; the Prefect UI makes a form of it."""

    approve: bool = Field(title="Approve", description="Off refuses the release.")
    reason: str = Field(title="Reason", min_length=1, max_length=_LONGEST, description="It is recorded.")

    @field_validator("reason")
    @classmethod
    def _words(cls, text: str) -> str:
        if not text.strip():
            raise ValueError("give a reason: it is recorded")
        return text


def ask(runtime: Runtime, verdict: Verdict, page: ReportLocation | None) -> Approval:
    """Pause the run until a person has decided, at most for the setting `approval_timeout`; then it is not approved."""
    seconds = runtime.settings.approval_timeout
    report = "" if page is None else page.link or page.path or page.command
    runtime.listener(
        "approval",
        Event(
            event="log",
            message=f"waiting for a person to approve {verdict.subject}: resume the run in the Prefect UI, or `carwright approve`"
            + (f"; the report is {report}" if report else ""),
        ),
    )
    lines = [f"**{verdict.decision.upper()}** by `{one_line(verdict.suite)}` for `{one_line(verdict.subject)}`", ""]
    lines += [f"- {one_line(reason, limit=500)}" for reason in verdict.reasons]
    if page is not None:
        lines += ["", f"[The report]({page.link})" if page.link else f"The report: `{report}`"]
    form = ReleaseAnswer.with_initial_data(description="\n".join(lines))
    try:
        answer = pause_flow_run(wait_for_input=form, timeout=seconds, poll_interval=_POLL, key="approval")
    except FlowPauseTimeout:
        return Approval(approved=False, reason=f"nobody decided within {seconds} seconds", in_time=False)
    return Approval(approved=answer.approve, reason=one_line(answer.reason, limit=_LONGEST))


def waiting() -> list[tuple[str, str]]:
    """Id and name of each run that waits for a person."""
    paused = FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.PAUSED]))
    with api() as client:
        return [(str(run.id), run.name) for run in client.read_flow_runs(flow_run_filter=FlowRunFilter(state=paused))]


def answer(run: str, *, approve: bool, reason: str) -> None:
    """Answer for the run with that id; raises BadInput if it does not wait, or for a reason that says nothing."""
    try:
        given = ReleaseAnswer(approve=approve, reason=reason)
        identity = UUID(run)
    except ValueError as error:
        said = faults(error) if isinstance(error, ValidationError) else str(error)
        raise BadInput(
            f"no answer for {run!r}: {said}", remedy="give the run's id, and a reason: --reason TEXT"
        ) from error
    with api() as client:
        try:
            state = client.read_flow_run(identity).state
        except ObjectNotFound as error:
            raise BadInput(f"there is no run {run}", remedy="`carwright approve` without a run lists them") from error
        if state is None or not state.is_paused():
            found = "not started" if state is None else str(state.name).lower()
            raise BadInput(f"the run {run} does not wait for approval: it is {found}")
        client.resume_flow_run(identity, run_input=given.model_dump(mode="json"))
