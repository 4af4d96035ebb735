"""The outcome of a run of the chain: one value for the terminal, the Prefect UI and programs."""

from __future__ import annotations

import operator
import shlex
import time

from pydantic import Field

from containers.contract import ArtifactRef, Frozen, GateProfile
from containers.digest import Digest
from containers.errors import Error, GateInconclusive, GateRefused
from containers.events import amount
from containers.foreign_text import code_span, one_line
from containers.verdict import Serving, Verdict, grounds_for_promotion


class StepSummary(Frozen):
    """`state`: done, cached or in place; `seconds` is wall time in this run."""

    name: str
    state: str
    seconds: float
    what: str


class Timeline:
    """The results of the steps of a run, in order. Each took the time since the previous one, or since the start, unless it
    ran beside others and says its own seconds.
    """

    def __init__(self) -> None:
        self.steps: list[StepSummary] = []
        self._last = time.monotonic()

    def add(self, name: str, state: str, what: str, seconds: float | None = None) -> None:
        if seconds is None:
            now = time.monotonic()
            seconds, self._last = now - self._last, now
        self.steps.append(StepSummary(name=name, state=state, seconds=round(seconds, 3), what=what))

    @property
    def seconds(self) -> float:
        return sum(step.seconds for step in self.steps)


class Approval(Frozen):
    """What a person said of a release that waited for one; `in_time` is false where nobody did."""

    approved: bool
    reason: str
    in_time: bool = True


class Shipped(Frozen):
    """The outcome. Sizes are in bytes; `tags` is empty when the gate stopped the candidate.

    `seconds` is the flow's wall time, `work_seconds` the part of it in which a step or the start of a service worked;
    `reason` says why the run was started, if known; `attached` are the digests of the referrers that promotion attached, by
    what they are: evaluation, card, provenance, test-result, bom, bom-file. `artifacts` are those of the store that the run
    made or found. `outside` is the reference by the name that its registry has where the summary is read, which may be another
    than the steps' own.
    """

    model: str
    commit: str | None
    scheme: str
    size_before: int
    size_after: int
    reference: str
    outside: str = ""
    digest: Digest
    tags: tuple[str, ...]
    verdict: Verdict
    gate_profile: GateProfile = "release"
    override: str = ""
    report: str = ""
    steps: tuple[StepSummary, ...]
    endpoint: str | None = None
    served_model_name: str = ""
    seconds: float
    work_seconds: float
    reason: str = ""
    attached: dict[str, Digest] = Field(default_factory=dict)
    artifacts: tuple[ArtifactRef, ...] = ()
    approval: Approval | None = Field(default=None, exclude_if=operator.not_)

    def headline(self) -> str:
        if self.tags:
            return f"shipped {self.typed} as {', '.join(self.tags)}"
        if self.approval is not None and not self.approval.approved:
            return f"not shipped: not approved: {self.typed}"
        return f"not shipped: {self.verdict.decision} for {self.typed}"

    @property
    def typed(self) -> str:
        """The reference as a person types it."""
        return self.outside or self.reference

    @property
    def serve_command(self) -> str:
        return shlex.join(["carwright", "serve", self.typed])

    def facts(self) -> list[tuple[str, str]]:
        """Label and text of each line of the summary, in order."""
        ratio = self.size_after / self.size_before if self.size_before else 0.0
        rows = [
            ("model", f"{self.model}" + (f" at {self.commit[:12]}" if self.commit else "")),
            ("scheme", self.scheme),
            (
                "size",
                f"{amount(self.size_before, 'B')} -> {amount(self.size_after, 'B')} ({ratio:.0%})",
            ),
            ("modelcar", self.typed),
            ("tags", ", ".join(self.tags) or "none"),
            ("verdict", self.verdict.decision.upper()),
            *((f"  {name}", f"{value:.4g}") for name, value in self.verdict.measures.items()),
            *(("  because", reason) for reason in self.verdict.reasons),
        ]
        rows += [(f"  {one.role}", _speed(one)) for one in self.verdict.serving]
        if decided := promotion_exception(self.verdict, self.override, self.gate_profile):
            rows.append(("promoted", decided))
        if self.approval is not None:
            rows.append(("approved" if self.approval.approved else "not approved", self.approval.reason))
        if self.report:
            rows.append(("report", self.report))
        if self.reason:
            rows.insert(0, ("why", self.reason))
        if self.endpoint:
            rows.append(("serving at", self.endpoint))
        rows.append(("serve it", self.serve_command))
        return rows

    def markdown(self) -> str:
        lines = [f"# {one_line(self.headline())}", "", "| | |", "|---|---|"]
        lines += [f"| {one_line(name).strip()} | {code_span(text)} |" for name, text in self.facts()]
        return "\n".join(lines) + "\n"


def _speed(serving: Serving) -> str:
    """Memory and speed in one line."""
    loads = ", ".join(f"{one.output_tokens_per_second:,.0f} at {one.requests}" for one in serving.loads)
    return (
        f"{serving.gpus} GPU{'s' if serving.gpus > 1 else ''}, {amount(serving.weights_per_gpu, 'B')} of weights each"
        f"{f', loaded by {serving.load_format}' if serving.load_format else ''}, KV cache of "
        f"{serving.cache_tokens:,} tokens; output tokens/s: {loads}"
    )


def promotion_exception(verdict: Verdict, override: str, profile: GateProfile) -> str:
    """Why a candidate that did not pass is promoted anyway; empty if it is not."""
    grounds = grounds_for_promotion(verdict.decision, override=override, profile=profile)
    if grounds == "override":
        return f"in spite of the gate: {override}"
    if grounds == "profile":
        return "with a warning: the gate could not decide, and the gate's profile is smoke"
    return ""


class NotPromoted(Error):
    """The gate or a person stopped the candidate; `shipped` is the whole outcome, `exit_code` that of the verdict: refused, or
    not decided where nobody was there to approve it.
    """

    def __init__(self, shipped: Shipped) -> None:
        self.shipped = shipped
        if shipped.approval is not None and not shipped.approval.approved:
            super().__init__(
                f"{shipped.typed} was not approved: {shipped.approval.reason}",
                remedy="the candidate is kept by its digest; the same command asks again, and does nothing twice",
            )
            self.exit_code = GateRefused.exit_code if shipped.approval.in_time else GateInconclusive.exit_code
            return
        refused = shipped.verdict.decision == "refuse"
        super().__init__(
            f"{shipped.typed} was not promoted: " + " ".join(shipped.verdict.reasons),
            remedy="the candidate is kept by its digest; --override-gate 'REASON' promotes it anyway"
            + ("" if refused else ", and --gate-profile smoke promotes what the gate could not decide"),
        )
        self.exit_code = GateRefused.exit_code if refused else GateInconclusive.exit_code
