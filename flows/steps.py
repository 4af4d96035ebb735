"""The steps of the chain as Prefect tasks: `Steps` has a method for each, which makes the request and runs the task.

Pure steps (download, quantize, evaluate) are cached by fingerprint. Effects (resolve, push, deploy, promote) are never
cached: each time they check the current state and do what is missing.
"""

from __future__ import annotations

import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.logging import get_run_logger

from containers import suites
from containers.contract import ArtifactRef, Kind, StepRequest, StepResult
from containers.events import Event
from containers.parameters import (
    PromotedImage,
    PushedImage,
    PushOptions,
    PushParameters,
    QuantizeOptions,
    QuantizeParameters,
    ResolvedSource,
)
from containers.verdict import Verdict
from flows import measuring, overlap
from flows.orchestrator.pending import Pending
from flows.orchestrator.reporting import publish_plan, task_listener
from flows.orchestrator.single_flight import one_at_a_time
from flows.overlap import NO_LAYERS, LayersAhead
from flows.release.shipment import RunFacts
from flows.release.summary import Timeline
from flows.requests import fingerprint, inference_server
from flows.runners.step_container import check_signing
from flows.runtime import current
from flows.sequential_looks import until_decided
from flows.serving import endpoint, load_format, machine, parsers, served_elsewhere
from flows.serving.plan import Plans, plan_both

if TYPE_CHECKING:
    from collections.abc import Iterator

    from prefect import Task
    from prefect.client.schemas.objects import State, TaskRun
    from prefect.context import TaskRunContext

    from flows.release.promotion import Release
    from flows.requests import Requests, Subject
    from flows.runners.service import Lease
    from flows.runtime import Runtime
    from flows.ship_request import ShipRequest

RETRIES = 2  # after a temporary error; a bug or bad input is never retried
RETRY_SECONDS = [2.0, 15.0]


@dataclass(frozen=True)
class Done:
    """A step's result, the state of its task run, and whether a cache answered for it."""

    result: StepResult
    state: State[Any]

    @property
    def cached(self) -> bool:
        return self.state.name == "Cached"

    def output(self, name: str) -> ArtifactRef:
        return self.result.outputs[name]


def _temporary(task_: Task[..., Any], run: TaskRun, state: State[Any]) -> bool:
    """Retry temporary errors only."""
    error = state.result(raise_on_failure=False)
    return bool(getattr(error, "temporary", False))


def _by_fingerprint(context: TaskRunContext, parameters: dict[str, Any]) -> str:
    return fingerprint(parameters["request"])


def _launch(runtime: Runtime, request: StepRequest) -> StepResult:
    with task_listener(runtime) as listen, runtime.working():
        return runtime.launcher.run(request, listen)


@task(
    persist_result=True,
    result_serializer="json",
    cache_key_fn=_by_fingerprint,
    retries=RETRIES,
    retry_delay_seconds=RETRY_SECONDS,
    retry_condition_fn=_temporary,
)
def pure_step(request: StepRequest) -> StepResult:
    """A step whose output depends on its request alone; Prefect's cache is an index to the store's manifests.

    If several runs need the same output at once, one makes it and the others wait and find it.
    """
    runtime = current()

    def say(message: str) -> None:
        get_run_logger().info(message)
        runtime.listener(request.step.value, Event(event="log", message=message))

    with one_at_a_time(fingerprint(request), say):
        return _launch(runtime, request)


@task(
    persist_result=False,
    cache_policy=NO_CACHE,
    retries=RETRIES,
    retry_delay_seconds=RETRY_SECONDS,
    retry_condition_fn=_temporary,
)
def effect_step(request: StepRequest) -> StepResult:
    """A step that checks the current state outside and does what is missing."""
    return _launch(current(), request)


@task(persist_result=False, cache_policy=NO_CACHE)
def deploy_step(request: StepRequest, *, keep: bool) -> Lease:
    """Serve a model, or find the server that already does."""
    runtime = current()
    with task_listener(runtime) as listen, runtime.working():
        return runtime.services.start(request, listen, keep=keep)


def _run(what: Task[..., Any], request: StepRequest, name: str, label: str, after: list[Done], **options: Any) -> Done:
    state = what.with_options(name=name, task_run_name=label, **options)(
        request, return_state=True, wait_for=[done.state for done in after]
    )
    return Done(state.result(), state)


@dataclass(frozen=True)
class Steps:
    """The steps of one run, to be called inside its flow; `timeline` has the result and duration of each.

    With `force` no cached result is used. `after` are the steps that a step waits for. `artifacts` are those that steps made
    or found.
    """

    runtime: Runtime
    force: bool = False
    timeline: Timeline = field(default_factory=Timeline)
    artifacts: list[ArtifactRef] = field(default_factory=list)

    @property
    def requests(self) -> Requests:
        return self.runtime.requests

    def check(self, suite: str) -> None:
        """Check that the suite can be used, and that promotion would find its keys, before any work is done."""
        check_signing(self.runtime.settings)
        if suite != "smoke":  # the default, which needs no check
            _run(effect_step, self.requests.check(suite), "check", f"check the suite {suite}", [])

    def resolve(self, model: str, revision: str | None) -> tuple[ResolvedSource, Done]:
        """Resolve the model to fixed contents: a branch becomes a commit."""
        done = _run(effect_step, self.requests.resolve(model, revision), "resolve", f"resolve {model}", [])
        source = ResolvedSource.read(done.result.values)
        self.timeline.add("resolve", "found", source.pinned)
        return source, done

    @contextmanager
    def pushing_layers(
        self, source: ResolvedSource, recipe: QuantizeParameters, target: PushParameters
    ) -> Iterator[LayersAhead]:
        """Push the layers of a large checkpoint as soon as their shards are quantized, inside the block."""
        with overlap.pushing_layers(self.runtime, source, recipe, target) as layers:
            yield layers

    def download(
        self,
        source: ResolvedSource,
        recipe: QuantizeParameters,
        *,
        after: list[Done],
        layers: LayersAhead = NO_LAYERS,
    ) -> Done:
        """Download the checkpoint. The shards of a large one are quantized while others still download."""
        label = f"download {source.source}" + (f" at {source.commit[:12]}" if source.commit else "")
        with overlap.quantizing_during_download(self.runtime, source, recipe, layers) as announce:
            request = self.requests.download(source, announce=announce)
            done = self._pure(request, Kind.CHECKPOINT, "download", label, after)
        self._add("download", done, f"{source.files} files")
        return done

    def plan(self, source: ResolvedSource, request: ShipRequest) -> Plans:
        """Plan how baseline and candidate are served. Raises BadInput, before anything is downloaded, if one fits nowhere."""
        settings = self.runtime.settings

        def say(line: str) -> None:
            get_run_logger().info("plan: %s", line)
            self.runtime.listener("plan", Event(event="log", message=line))

        gpus = machine.gpus(settings, say)
        suite = suites.read(request.suite)
        length = max(request.max_model_len, suite.max_model_len)
        run = self.runtime.run
        elsewhere = served_elsewhere.plans(
            request, source.config, length, settings, run, lambda: inference_server(settings)
        )
        for one in elsewhere.values():
            for text in parsers.unseen(one.endpoint, suite.parsers):
                say(text)
        if not gpus and len(elsewhere) < 2:
            machine.check_memory(source.config, source.weights, settings, length)
        plans = plan_both(
            source.config,
            source.weights,
            gpus,
            request,
            length,
            concurrency=request.concurrency or settings.evaluate.concurrency,
            elsewhere=elsewhere,
        )
        if len(elsewhere) < 2:
            plans = plans.saying(parsers.arguments(source.config, request, suite.parsers))
        plans = load_format.of_both(plans, gpus, request.vllm_argument, settings)
        plans = machine.located(settings, plans)
        if suite.measures_speed:
            machine.check_alike(plans.baseline, plans.candidate)
            plans = plans.one_by_one()
        for one in (plans.baseline, plans.candidate):
            say(str(one))
        publish_plan(plans)
        return plans

    def check_arguments(self, plans: Plans, *, after: list[Done]) -> None:
        """Check that the vLLM that will serve takes its arguments, before anything is downloaded."""
        if plans.baseline.arguments:
            asked = self.requests.check_arguments(plans.baseline.arguments)
            _run(effect_step, asked, "check", "check the arguments for vLLM", after)

    def quantize(
        self,
        checkpoint: ArtifactRef,
        recipe: QuantizeParameters,
        *,
        after: list[Done],
        devices: tuple[str, ...] = (),
        layers: LayersAhead = NO_LAYERS,
    ) -> Done:
        """Quantize; on `devices` alone where others are in use meanwhile."""
        options = QuantizeOptions(devices=devices, announce=layers.feed)
        request = self.requests.quantize(checkpoint, recipe, options)
        done = self._pure(request, Kind.CHECKPOINT, "quantize", f"quantize to {recipe.scheme}", after)
        self._add("quantize", done, recipe.scheme)
        return done

    def push(
        self,
        checkpoint: ArtifactRef,
        parameters: PushParameters,
        *,
        after: list[Done],
        layers: LayersAhead = NO_LAYERS,
    ) -> tuple[PushedImage, Done]:
        """Push the modelcar, after the layers that are pushed ahead of it."""
        layers.finish()
        request = self.requests.push(checkpoint, parameters, PushOptions())
        done = _run(effect_step, request, "push", f"push to {parameters.target}", after)
        image = PushedImage.read(done.result.values)
        self.timeline.add("push", _effect(image), f"{image.layers} layers, {image.digest.short}")
        return image, done

    def measure(
        self,
        subject: Subject,
        suite: str,
        *,
        after: list[Done],
        keep: bool = False,
        pending: Pending[Done] | None = None,
        look: int = 0,
    ) -> tuple[Done, Lease | None]:
        """Measure the subject; returns the measurement and the lease of a model that is to keep serving. `look` is one after the
        first, in a suite with looks.

        The subject is served only if the store has no measurement of it, or if it is to keep serving. `pending` is the
        measurement that this is part of, if it runs beside other steps.
        """
        began = time.monotonic()
        label = f"evaluate the {subject.role} ({suite}" + (f", look {look})" if look else ")")
        done, lease = measuring.measure(
            subject,
            suite,
            requests=self.requests,
            store=self.runtime.store,
            run=lambda request: self._pure(request, Kind.MEASUREMENT, "evaluate", label, after),
            serve=lambda fitting: self._deployed(fitting, after, keep=keep, pending=pending),
            always_serve=self.force or keep,
            look=look,
        )
        seconds = time.monotonic() - began if pending is not None and pending.beside else None
        name = "evaluate" if subject.role == "candidate" else subject.role
        self._add(f"{name} {look}" if look else name, done, suite, seconds)
        return done, lease if keep else None

    @contextmanager
    def measuring(self, subject: Subject, suite: str, *, after: list[Done], now: bool) -> Iterator[Pending[Done]]:
        """A measurement whose result is asked for inside the block. With `now` it begins at once, on GPUs of its own, beside
        the steps of the block, and is stopped if they fail; else it begins when it is asked for.
        """
        pending = Pending(lambda: self.measure(subject, suite, after=after, pending=pending)[0])
        with pending.beginning(now=now):
            yield pending

    @contextmanager
    def _deployed(
        self, subject: Subject, after: list[Done], *, keep: bool, pending: Pending[Done] | None = None
    ) -> Iterator[Lease]:
        """Serve the subject for the length of the block; with `keep` it goes on serving if the block succeeds."""
        if subject.endpoint:
            how = (self.runtime.settings.http, self.runtime.settings.evaluate)
            found = endpoint.find(subject.endpoint, *how)
            endpoint.check_version(found, subject.server, *how)
            yield endpoint.ForeignServer(found)
            return
        request = self.requests.serve(subject, port=self.runtime.settings.serve.port if keep else 0)
        state = deploy_step.with_options(name="deploy", task_run_name=f"deploy the {subject.role}")(
            request, keep=keep, return_state=True, wait_for=[done.state for done in after]
        )
        lease: Lease = state.result()
        if pending is not None:
            pending.on_stop(lease.end)
        try:
            yield lease
        except BaseException:
            lease.end()
            raise
        if keep:
            lease.keep()
        else:
            lease.end()

    def judge(
        self, measured: tuple[Done, Done], subjects: tuple[Subject, Subject], suite: str, sizes: tuple[int, int]
    ) -> tuple[Verdict, Done]:
        """The verdict over candidate and baseline, in that order; what it leaves open is measured further if the suite has looks."""

        def judge(looks: list[tuple[Done, Done]]) -> tuple[Verdict, Done]:
            refs = [(mine.output("measurement"), theirs.output("measurement")) for mine, theirs in looks]
            request = self.requests.judge(refs, subjects[0], suite, sizes)
            done = self._pure(request, Kind.VERDICT, "judge", f"judge by {suite}", [*looks[-1]])
            verdict = Verdict.read(done.result.values)
            self._add("judge", done, verdict.decision)
            return verdict, done

        def measure(look: int) -> tuple[Done, Done]:
            theirs, mine = (self.measure(one, suite, after=[*measured], look=look)[0] for one in reversed(subjects))
            return mine, theirs

        return until_decided(measured, judge=judge, measure=measure)

    def promote(self, release: Release, verdict: ArtifactRef, *, after: list[Done]) -> PromotedImage:
        """Give the image its tag and attach the verdict's report, the card, the statements and the bill of materials."""
        options = PushOptions(override=release.request.override_gate, gate_profile=release.request.gate_profile)
        run = RunFacts.of(self.runtime.run, self.timeline.steps, release.request, self.runtime.settings)
        documents = release.write_documents(self.runtime.store, verdict, run)
        self.artifacts.append(documents)
        request = self.requests.promote(release.image.reference, verdict, documents, (release.tag,), options)
        done = _run(effect_step, request, "promote", f"promote {release.image.digest.short} to {release.tag}", after)
        promoted = PromotedImage.read(done.result.values)
        self.timeline.add("promote", _effect(promoted), release.tag)
        return promoted

    def size(self, ref: ArtifactRef) -> int:
        """Bytes of all files of an artifact."""
        return self.runtime.store.load(ref).size

    def _pure(self, request: StepRequest, kind: Kind, name: str, label: str, after: list[Done]) -> Done:
        """Run a pure step, or use the cached result if the store still holds every blob of its artifact."""
        held = self.runtime.store.find(kind, fingerprint(request))
        done = _run(pure_step, request, name, label, after, refresh_cache=self.force or held is None)
        if done.cached and held is not None and held.ref not in done.result.outputs.values():
            done = _run(pure_step, request, name, label, after, refresh_cache=True)
        for ref in done.result.outputs.values():
            self.runtime.store.load(ref)  # the run counts on it until its end, and no sweep takes it
            self.artifacts.append(ref)
        return done

    def _add(self, name: str, done: Done, what: str, seconds: float | None = None) -> None:
        self.timeline.add(name, "cached" if done.cached else "done", what, seconds)


def _effect(image: PushedImage | PromotedImage) -> str:
    return "in place" if image.already_there else "done"
