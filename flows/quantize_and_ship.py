"""The pipeline: the order of the steps, and nothing else."""

from __future__ import annotations

from dataclasses import replace

from prefect import flow
from prefect.states import Cancelled

from containers.architectures import quantization
from containers.parameters import PushParameters
from flows.orchestrator.approval import ask
from flows.orchestrator.reporting import notify_failure, publish_gate, publish_outcome, publish_reason
from flows.orchestrator.results import STORAGE
from flows.orchestrator.run_artifacts import write_failure
from flows.release.promotion import Release
from flows.release.report import publish_page
from flows.release.summary import NotPromoted, Shipped
from flows.requests import Subject
from flows.runtime import current
from flows.sequential_looks import in_looks
from flows.ship_request import ShipRequest, takes_fields_of
from flows.steps import Steps
from flows.watching import outcome


@flow(
    name="quantize-and-ship",
    flow_run_name="{model} to {scheme}",
    result_storage=STORAGE,
    result_serializer="json",
    persist_result=False,
    validate_parameters=False,
    on_failure=[write_failure, notify_failure, outcome.record_failure],
    on_crashed=[notify_failure, outcome.record_failure],
)
@takes_fields_of(ShipRequest)
def quantize_and_ship(request: ShipRequest) -> Shipped:
    """Turn a model, a revision and a recipe into a served, measured and promoted modelcar.

    Raises NotPromoted if the candidate does not pass, or is not approved; it stays available by digest.
    """
    runtime = current()
    if taken := outcome.claim(runtime, request):
        return Cancelled(message=taken)  # type: ignore[return-value] # Prefect takes a state for the run's own
    publish_reason(request.reason)
    steps = Steps(runtime, force=request.force)
    steps.check(request.suite)
    source, resolved = steps.resolve(request.model, request.revision)
    plan = steps.plan(source, request)
    steps.check_arguments(plan, after=[resolved])

    recipe = quantization(source.config, request.scheme, more=request.ignore, only=request.ignore_only)
    target = PushParameters(target=request.to, base=request.base)
    with steps.pushing_layers(source, recipe, target) as layers:
        downloaded = steps.download(source, recipe, after=[resolved], layers=layers)
        original = downloaded.output("checkpoint")
        baseline = Subject.checkpoint("baseline", original, request.name).planned(plan.baseline, request)
        with steps.measuring(baseline, request.suite, after=[downloaded], now=bool(plan.quantize_devices)) as measuring:
            devices = plan.quantize_devices
            quantized = steps.quantize(original, recipe, after=[downloaded], devices=devices, layers=layers)
            checkpoint = quantized.output("checkpoint")
            image, pushed = steps.push(checkpoint, target, after=[quantized], layers=layers)
            candidate = Subject.modelcar("candidate", image, request.name, checkpoint).planned(plan.candidate, request)
            measuring.ensure()
            keep = request.keep and not in_looks(request.suite)
            after, kept = steps.measure(candidate, request.suite, after=[pushed], keep=keep)
            before = measuring.result()

    sizes = (steps.size(original), steps.size(checkpoint))
    verdict, judged = steps.judge((after, before), (candidate, baseline), request.suite, sizes)
    if request.keep and kept is None:
        _, kept = steps.measure(candidate, request.suite, after=[judged], keep=True)
    outside = runtime.settings.docker.outside(image.reference)
    page = publish_page(runtime, judged.output("verdict"), outside)
    publish_gate(verdict, page, request)

    release = Release(
        request, source, recipe, image, original, checkpoint, sizes, verdict, runtime.settings.deploy, outside
    )
    if request.approval and release.promotable:
        release = replace(release, approval=ask(runtime, verdict, page))
    promoted = steps.promote(release, judged.output("verdict"), after=[judged]) if release.promotable else None
    shipped = release.outcome(
        steps.timeline,
        steps.artifacts,
        worked=sum(runtime.worked),
        page=page,
        kept=kept,
        promoted=promoted,
    )
    publish_outcome(shipped)
    if not release.promotable:
        raise NotPromoted(shipped)
    outcome.record_shipment(runtime, request, shipped)
    return shipped
