"""The steps of the chain as Prefect tasks: `Steps` has a method for each, which makes the request and runs the task.

Pure steps (download, quantize, evaluate) are cached by fingerprint. Effects (resolve, push, deploy, promote) have no
cache: they look at the world each time and do what is missing.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.logging import get_run_logger

from containers import download_feed
from containers.contract import (
    ArtifactRef,
    Kind,
    PromotedImage,
    PushedImage,
    PushOptions,
    PushParameters,
    QuantizeOptions,
    QuantizeParameters,
    ResolvedSource,
    StepRequest,
    StepResult,
)
from containers.events import Event
from containers.verdict import Verdict
from flows import measuring
from flows.orchestrator.reporting import task_listener
from flows.orchestrator.single_flight import one_at_a_time
from flows.release.summary import Timeline
from flows.requests import fingerprint
from flows.runtime import current

if TYPE_CHECKING:
    from collections.abc import Iterator

    from prefect import Task
    from prefect.client.schemas.objects import State, TaskRun
    from prefect.context import TaskRunContext

    from flows.release.promotion import Release
    from flows.requests import Requests, Subject
    from flows.runners.service import Lease
    from flows.runtime import Runtime

RETRIES = 2  # of a step that said "temporary"; a bug or bad input is never retried
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
    """Retry what may succeed later, and nothing else."""
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
    """A step whose output is decided by its request; Prefect's cache is an index to the store's manifests.

    Of several runs that want it at once one works, and the others find what it has made.
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
    """A step that looks at the world and changes what is missing there."""
    return _launch(current(), request)


@task(name="quantize what arrives", persist_result=False, cache_policy=NO_CACHE)
def arriving_step(request: StepRequest) -> StepResult:
    """The shards of a checkpoint that is being downloaded; its time is the download's and is not counted twice."""
    runtime = current()
    name = f"{str(request.options['arriving'])[:32]}{fingerprint(request)[:32]}"  # of this download and recipe
    with one_at_a_time(name, get_run_logger().info), task_listener(runtime) as listen:
        return runtime.launcher.run(request, listen)


@task(persist_result=False, cache_policy=NO_CACHE)
def deploy_step(request: StepRequest, *, keep: bool) -> Lease:
    """Have something served; what serves already is found."""
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
    """The steps of one run, to be called inside its flow; `timeline` has what each came to and how long it took.

    With `force` no cache answers. `after` are the steps that a step waits for.
    """

    runtime: Runtime
    force: bool = False
    timeline: Timeline = field(default_factory=Timeline)

    @property
    def requests(self) -> Requests:
        return self.runtime.requests

    def check(self, suite: str) -> None:
        """Check a suite before anything is made for it; the one that ships for every run needs no check."""
        if suite != "smoke":
            _run(effect_step, self.requests.check(suite), "check", f"check the suite {suite}", [])

    def resolve(self, model: str, revision: str | None) -> tuple[ResolvedSource, Done]:
        """Find out what exactly the request names: a branch becomes a commit."""
        done = _run(effect_step, self.requests.resolve(model, revision), "resolve", f"resolve {model}", [])
        source = ResolvedSource.read(done.result.values)
        self.timeline.add("resolve", "found", source.pinned)
        return source, done

    def download(self, source: ResolvedSource, recipe: QuantizeParameters, *, after: list[Done]) -> Done:
        """Download the checkpoint; a large one is quantized by that recipe meanwhile, as far as its shards are there."""
        label = f"download {source.source}" + (f" at {source.commit[:12]}" if source.commit else "")
        with self._quantizing(source, recipe) as announce:
            request = self.requests.download(source, announce=announce)
            done = self._pure(request, Kind.CHECKPOINT, "download", label, after)
        self._add("download", done, f"{source.files} files")
        return done

    @contextmanager
    def _quantizing(self, source: ResolvedSource, recipe: QuantizeParameters) -> Iterator[bool]:
        """Quantize what arrives during the block; whether there is any use in that.

        Its failure does not fail the run: the quantization that follows does what is left, and says what is wrong.
        """
        store = self.runtime.store
        wanted = fingerprint(self.requests.download(source))
        if store.find(Kind.CHECKPOINT, wanted) is not None or source.size < self.runtime.settings.overlap_gb * 1e9:
            yield False
            return
        download_feed.reset(store, wanted)
        request = self.requests.quantize_arriving(source, recipe)
        future = arriving_step.with_options(task_run_name=f"quantize to {recipe.scheme} what arrives").submit(request)
        try:
            yield True
        except BaseException:
            download_feed.close(store, wanted)
            raise
        future.wait()
        if not future.state.is_completed():
            get_run_logger().warning("quantizing during the download broke off: %s", future.state.message)

    def quantize(self, checkpoint: ArtifactRef, recipe: QuantizeParameters, *, after: list[Done]) -> Done:
        request = self.requests.quantize(checkpoint, recipe, QuantizeOptions())
        done = self._pure(request, Kind.CHECKPOINT, "quantize", f"quantize to {recipe.scheme}", after)
        self._add("quantize", done, recipe.scheme)
        return done

    def push(
        self, checkpoint: ArtifactRef, parameters: PushParameters, *, after: list[Done]
    ) -> tuple[PushedImage, Done]:
        request = self.requests.push(checkpoint, parameters, PushOptions())
        done = _run(effect_step, request, "push", f"push to {parameters.target}", after)
        image = PushedImage.read(done.result.values)
        self.timeline.add("push", _effect(image), f"{image.layers} layers, {image.digest.short}")
        return image, done

    def measure(
        self, subject: Subject, suite: str, *, after: list[Done], keep: bool = False
    ) -> tuple[Done, Lease | None]:
        """Measure the subject, and the lease of what is left serving.

        It is served only when the store has no answer yet, or when it is to stay.
        """
        label = f"evaluate the {subject.role} ({suite})"
        done, lease = measuring.measure(
            subject,
            suite,
            requests=self.requests,
            store=self.runtime.store,
            run=lambda request: self._pure(request, Kind.MEASUREMENT, "evaluate", label, after),
            serve=lambda fitting: self._deployed(fitting, after, keep=keep),
            anew=self.force or keep,
        )
        self._add("evaluate" if subject.role == "candidate" else subject.role, done, suite)
        return done, lease if keep else None

    @contextmanager
    def _deployed(self, subject: Subject, after: list[Done], *, keep: bool) -> Iterator[Lease]:
        """Serve the subject for the length of the block; with `keep` it stays when the block ends well."""
        request = self.requests.serve(subject, port=self.runtime.settings.serve.port if keep else 0)
        state = deploy_step.with_options(name="deploy", task_run_name=f"deploy the {subject.role}")(
            request, keep=keep, return_state=True, wait_for=[done.state for done in after]
        )
        lease: Lease = state.result()
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
        self, candidate: Done, baseline: Done, subject: Subject, suite: str, sizes: tuple[int, int]
    ) -> tuple[Verdict, Done]:
        measurements = (candidate.output("measurement"), baseline.output("measurement"))
        request = self.requests.judge(*measurements, subject, suite, sizes)
        done = self._pure(request, Kind.VERDICT, "judge", f"judge by {suite}", [candidate, baseline])
        verdict = Verdict.read(done.result.values)
        self._add("judge", done, verdict.decision)
        return verdict, done

    def promote(self, release: Release, verdict: ArtifactRef, *, after: list[Done]) -> PromotedImage:
        """Give the image its tag and attach the verdict's report, the card and the provenance."""
        options = PushOptions(override=release.request.override_gate, gate_profile=release.request.gate_profile)
        documents = release.write_documents(self.runtime.store)
        request = self.requests.promote(release.image.reference, verdict, documents, (release.tag,), options)
        done = _run(effect_step, request, "promote", f"promote {release.image.digest.short} to {release.tag}", after)
        promoted = PromotedImage.read(done.result.values)
        self.timeline.add("promote", _effect(promoted), release.tag)
        return promoted

    def size(self, ref: ArtifactRef) -> int:
        """Bytes of all files of an artifact."""
        return self.runtime.store.load(ref).size

    def _pure(self, request: StepRequest, kind: Kind, name: str, label: str, after: list[Done]) -> Done:
        """Run a pure step, or take the cache's answer when the store still holds that very artifact, every blob of it."""
        held = self.runtime.store.find(kind, fingerprint(request))
        done = _run(pure_step, request, name, label, after, refresh_cache=self.force or held is None)
        if done.cached and held is not None and held.ref not in done.result.outputs.values():
            return _run(pure_step, request, name, label, after, refresh_cache=True)
        return done

    def _add(self, name: str, done: Done, what: str) -> None:
        self.timeline.add(name, "cached" if done.cached else "done", what)


def _effect(image: PushedImage | PromotedImage) -> str:
    return "in place" if image.already_there else "done"
