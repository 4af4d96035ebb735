"""What a run shows in the Prefect UI (log lines, progress, the outcome), and the message sent when it fails."""

from __future__ import annotations

import logging
import threading
import time
from contextlib import contextmanager
from contextvars import copy_context
from typing import TYPE_CHECKING, Any
from uuid import UUID

import httpx
from prefect.artifacts import (
    create_link_artifact,
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)
from prefect.context import TaskRunContext
from prefect.logging import get_run_logger

from containers.events import amount
from containers.foreign_text import one_line
from flows.orchestrator.run_artifacts import write_outcome
from flows.release.summary import promotion_exception

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from prefect.client.schemas.objects import FlowRun, State
    from prefect.flows import Flow

    from containers.events import Event
    from containers.verdict import Score, SpeedRow, Verdict
    from flows.release.report import ReportLocation
    from flows.release.summary import Shipped
    from flows.runtime import Runtime
    from flows.serving.plan import Plans
    from flows.ship_request import ShipRequest

_PROGRESS_INTERVAL = 2.0  # seconds between two updates of a progress artifact; each costs a request
_SHORT = 2.0  # seconds; a shorter task gets no progress artifact


class _ProgressArtifacts:
    """One progress artifact per long task, created late and updated rarely, because each request costs time."""

    def __init__(self) -> None:
        self._context = copy_context()
        self._lock = threading.Lock()
        self._began: dict[str, float] = {}
        self._sent: dict[str, float] = {}
        self._ids: dict[str, UUID] = {}

    def show(self, event: Event) -> None:
        if not event.total:
            return
        now = time.monotonic()
        with self._lock:
            began = self._began.setdefault(event.task, now)
            if now - began < _SHORT:
                return
            finished = event.done >= event.total and event.task in self._ids
            if now - self._sent.get(event.task, 0.0) < _PROGRESS_INTERVAL and not finished:
                return
            self._sent[event.task] = now
            self._context.run(self._send, event)

    def _rate(self, event: Event) -> str:
        seconds = time.monotonic() - self._began[event.task]
        return f", {amount(event.done / seconds, 'B')}/s" if event.unit == "B" and seconds > 0 else ""

    def _send(self, event: Event) -> None:
        percent = min(100.0, 100.0 * event.done / event.total)
        described = event.text() + self._rate(event)
        if event.task in self._ids:
            update_progress_artifact(artifact_id=self._ids[event.task], progress=percent, description=described)
            return
        made = create_progress_artifact(progress=percent, description=described)
        if isinstance(made, UUID):
            self._ids[event.task] = made


@contextmanager
def task_listener(runtime: Runtime) -> Iterator[Callable[[Event], None]]:
    """Forward the events of a step to the task's log, a progress artifact and the run's listener."""
    logger = get_run_logger()
    context = TaskRunContext.get()
    name = context.task.name if context is not None else "step"
    artifacts = _ProgressArtifacts()

    def listen(event: Event) -> None:
        runtime.listener(name, event)
        if event.event == "progress":
            artifacts.show(event)
        else:
            logger.log(event.severity, event.text())

    yield listen


def publish_reason(reason: str) -> None:
    """Show why the run was started, if a reason was given."""
    if reason:
        create_markdown_artifact(key="reason", markdown=f"# Why this run\n\n{reason}\n", description=reason)


def publish_plan(plans: Plans) -> None:
    """Show how baseline and candidate are going to be served."""
    lines = ["# Plan", "", *(f"- {one}" for one in (plans.baseline, plans.candidate))]
    if plans.quantize_devices:
        lines.append(f"- the baseline is measured while {', '.join(plans.quantize_devices)} quantizes")
    if plans.at_once:
        lines.append("- baseline and candidate are measured at the same time")
    create_markdown_artifact(key="plan", markdown="\n".join(lines) + "\n", description="How the models are served")


def publish_gate(verdict: Verdict, page: ReportLocation | None, request: ShipRequest) -> None:
    """Show the decision with its reasons, the scores or the speed, and the link to the report, before anything is promoted."""
    lines = [f"# {verdict.decision.upper()} by {verdict.suite}", ""]
    lines += [f"- {one_line(reason, limit=2000)}" for reason in verdict.reasons]
    decided = promotion_exception(verdict, request.override_gate, request.gate_profile)
    if decided:
        lines += ["", f"**Promoted {decided}**"]
    elif verdict.decision != "pass":
        lines += ["", f"Not promoted. The candidate stays available by digest: `{verdict.subject}`"]
    lines += ["", f"Gate profile: `{request.gate_profile}`"]
    promoted = bool(decided) or verdict.decision == "pass"
    if page is not None:
        lines += ["", f"Report: [open it]({page.link})" if page.link else f"Report: `{page.path}` or `{page.command}`"]
    create_markdown_artifact(key="gate", markdown="\n".join(lines) + "\n", description=verdict.decision.upper())
    if verdict.scores:
        create_table_artifact(
            key="scores", table=[_row(one) for one in verdict.scores], description=f"Accuracy by {verdict.suite}"
        )
    if verdict.speed is not None:
        create_table_artifact(
            key="speed",
            table=[_speed_row(one) for one in verdict.speed.rows if one.shown],
            description=f"Speed by {verdict.suite}, load by {one_line(verdict.speed.generator)}",
        )
    if page is not None:
        create_markdown_artifact(
            key="report", markdown=page.markdown(promoted=promoted), description="The report of the evaluation"
        )
        if page.link:
            create_link_artifact(key="report-link", link=page.link, link_text="Open the report")


def _row(score: Score) -> dict[str, Any]:
    bounds = score.recovery_bounds
    return {
        "category": score.category,
        "benchmark": score.title,
        "baseline": f"{score.baseline:.2f}",
        "quantized": f"{score.candidate:.2f}",
        "recovery": "N/A" if score.recovery is None else f"{score.recovery:.1f} %",
        "recovery interval": f"{bounds[0]:.1f} to {bounds[1]:.1f} %" if bounds else "",
        "difference": f"{score.difference:+.2f}",
        "interval": "" if score.lower is None or score.upper is None else f"{score.lower:+.2f} to {score.upper:+.2f}",
        "decision": (score.decision or "") + (" (a gain beyond noise)" if score.gain_beyond_noise else ""),
    }


def _speed_row(row: SpeedRow) -> dict[str, Any]:
    load, measure, baseline, candidate, ratio = row.cells()
    return {
        "load": load,
        "measure": measure,
        "baseline": baseline,
        "quantized": candidate,
        "quantized / baseline": ratio,
        "objective": row.slo,
        "decision": row.decision or "",
    }


def publish_outcome(shipped: Shipped) -> None:
    """Show the outcome of a run as a page and a table of steps, and write it as JSON for a command that follows the run."""
    create_markdown_artifact(key="outcome", markdown=shipped.markdown(), description=shipped.headline())
    rows: list[dict[str, Any]] = [
        {"step": step.name, "state": step.state, "seconds": f"{step.seconds:.1f}", "what": step.what}
        for step in shipped.steps
    ]
    create_table_artifact(key="steps", table=rows, description="Time per step")
    write_outcome(shipped)


def notify_failure(flow: Flow[..., Any], flow_run: FlowRun, state: State[Any]) -> None:
    """POST the failure as JSON to the webhook of the settings, if one is set. An error here never hides the run's own."""
    from infra.settings import Settings

    webhook = Settings().notify_webhook
    if webhook is None:
        return
    body = {
        "flow": flow.name,
        "run": flow_run.name,
        "id": str(flow_run.id),
        "state": state.name,
        "message": state.message or "",
        "parameters": {name: str(value) for name, value in flow_run.parameters.items()},
    }
    try:
        httpx.post(webhook.get_secret_value(), json=body, timeout=10).raise_for_status()
    except httpx.HTTPError as error:
        # The address may contain a token, so only the kind of error is logged.
        logging.getLogger(__name__).warning("the failure webhook did not accept the message: %s", type(error).__name__)
