"""The pipeline: the order of the steps, and nothing else."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Literal

from prefect import flow
from prefect.states import Cancelled

from containers.contract import PushParameters, QuantizeParameters
from flows import steps
from flows.orchestrator.reporting import notify_failure, publish_gate, publish_outcome, publish_reason
from flows.orchestrator.results import STORAGE
from flows.orchestrator.run_artifacts import tell_failure, tell_outcome
from flows.release import report
from flows.release.promotion import Release
from flows.release.summary import NotPromoted, Shipped, StepSummary, promoted_by
from flows.requests import Subject
from flows.watching import outcome

if TYPE_CHECKING:
    from flows.steps import Done


@flow(
    name="quantize-and-ship",
    flow_run_name="{model} to {scheme}",
    result_storage=STORAGE,
    result_serializer="json",
    persist_result=False,
    validate_parameters=False,
    on_failure=[tell_failure, notify_failure, outcome.note_failure],
    on_crashed=[notify_failure, outcome.note_failure],
)
def quantize_and_ship(  # noqa: PLR0917 - parameters of a deployment are plain
    model: str,
    revision: str | None = None,
    to: str = "",
    scheme: str = "FP8_DYNAMIC",
    suite: str = "smoke",
    base: str = "busybox",
    tag: str = "",
    max_model_len: int = 2048,
    override_gate: str = "",
    gate_profile: Literal["smoke", "release"] = "release",
    keep: bool = False,  # noqa: FBT001
    force: bool = False,  # noqa: FBT001
    reason: str = "",
    change: str = "",
) -> Shipped:
    """Turn a model, a revision and a recipe into a served, measured and promoted modelcar.

    `model` is `hf://org/name`, `file:///dir` or `s3://bucket/prefix`; `to` is `oci:DIR` or `registry/repository`; `tag`
    defaults to the first 12 digits of the commit (of the checkpoint's digest where there is no commit). `reason` says
    why the run was started; `change` is the fingerprint of what `watch-releases` announced. Raises NotPromoted when the
    candidate does not pass; the candidate stays, by digest.
    """
    if double := outcome.began(model, scheme, to, change):
        return Cancelled(message=double)  # type: ignore[return-value] # Prefect takes a state for the run's own
    publish_reason(reason)
    clock = _Clock()
    steps.check(suite)
    source, resolved = steps.resolve(model, revision)
    clock.lap("resolve", "found", source.pinned)

    recipe = QuantizeParameters(scheme=scheme)
    checkpoint = steps.download(source, recipe, after=[resolved], force=force)
    clock.done("download", checkpoint, f"{source.files} files")

    quantized = steps.quantize(checkpoint.output("checkpoint"), recipe, after=[checkpoint], force=force)
    clock.done("quantize", quantized, scheme)

    image, pushed = steps.push(quantized.output("checkpoint"), PushParameters(target=to, base=base), after=[quantized])
    clock.lap("push", "in place" if image.already_there else "done", f"{image.layers} layers, {image.digest.short}")

    name = model.rstrip("/").rpartition("/")[2]
    baseline = Subject.checkpoint("baseline", checkpoint.output("checkpoint"), name, max_model_len)
    before, _ = steps.measure(baseline, suite, after=[checkpoint], force=force)
    clock.done("baseline", before, suite)

    candidate = Subject.modelcar("candidate", image, name, max_model_len, quantized.output("checkpoint"))
    after, lease = steps.measure(candidate, suite, after=[pushed], force=force, keep=keep)
    clock.done("evaluate", after, suite)

    sizes = (steps.size(checkpoint.output("checkpoint")), steps.size(quantized.output("checkpoint")))
    verdict, judged = steps.judge(after, before, candidate, suite, sizes, force=force)
    clock.done("judge", judged, verdict.decision)
    page = report.place(judged.output("verdict"), image.reference)
    publish_gate(verdict, page, override=override_gate, profile=gate_profile)

    tags: tuple[str, ...] = ()
    if promoted_by(verdict, override_gate, gate_profile):
        release = Release(
            source=source,
            recipe=recipe,
            image=image,
            before=checkpoint.output("checkpoint"),
            after=quantized.output("checkpoint"),
            verdict=verdict,
            tag=tag or (source.commit or checkpoint.output("checkpoint").digest.hex)[:12],
            base=base,
            max_model_len=max_model_len,
            override=override_gate,
            gate_profile=gate_profile,
        )
        promoted, _ = steps.promote(release, judged.output("verdict"), after=[judged])
        tags = (release.tag,)
        clock.lap("promote", "in place" if promoted.already_there else "done", ", ".join(tags))

    shipped = Shipped(
        model=source.source,
        commit=source.commit,
        scheme=scheme,
        size_before=sizes[0],
        size_after=sizes[1],
        reference=image.reference,
        digest=image.digest,
        tags=tags,
        verdict=verdict,
        gate_profile=gate_profile,
        override=override_gate,
        report=page.path or page.command if page is not None else "",
        steps=tuple(clock.steps),
        endpoint=(lease.endpoint.published or lease.endpoint.url) if lease is not None and keep else None,
        served_model_name=name,
        seconds=sum(step.seconds for step in clock.steps),
        work_seconds=round(steps.worked(), 3),
        reason=reason,
    )
    publish_outcome(shipped)
    tell_outcome(shipped)
    if not tags:
        raise NotPromoted(shipped)
    outcome.remember(shipped, model=model, revision=revision, to=to, base=base, suite=suite, change=change)
    return shipped


class _Clock:
    """Wall time per step, as the summary shows it."""

    def __init__(self) -> None:
        self.steps: list[StepSummary] = []
        self._last = time.monotonic()

    def lap(self, name: str, state: str, what: str) -> None:
        now = time.monotonic()
        self.steps.append(StepSummary(name=name, state=state, seconds=round(now - self._last, 3), what=what))
        self._last = now

    def done(self, name: str, done: Done, what: str) -> None:
        self.lap(name, "cached" if done.cached else "done", what)
