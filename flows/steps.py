"""One function per step: a request, wrapped in a Prefect task, and what came of it.

Pure steps (download, quantize, evaluate) are cached by fingerprint. Effects (resolve, push, deploy, promote) have no
cache: they look at the world each time and do what is missing.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
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
from flows import requests
from flows.orchestrator.reporting import task_listener
from flows.orchestrator.single_flight import one_at_a_time
from flows.runtime import current

if TYPE_CHECKING:
    from collections.abc import Iterator

    from prefect import Task
    from prefect.client.schemas.objects import State, TaskRun
    from prefect.context import TaskRunContext

    from flows.release.promotion import Release
    from flows.requests import Subject
    from flows.runners.service import Lease

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
    return requests.fingerprint(parameters["request"])


def _launch(request: StepRequest) -> StepResult:
    runtime = current()
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

    def say(message: str) -> None:
        get_run_logger().info(message)
        current().listener(request.step.value, Event(event="log", message=message))

    with one_at_a_time(requests.fingerprint(request), say):
        return _launch(request)


@task(
    persist_result=False,
    cache_policy=NO_CACHE,
    retries=RETRIES,
    retry_delay_seconds=RETRY_SECONDS,
    retry_condition_fn=_temporary,
)
def effect_step(request: StepRequest) -> StepResult:
    """A step that looks at the world and changes what is missing there."""
    return _launch(request)


@task(name="quantize what arrives", persist_result=False, cache_policy=NO_CACHE)
def arriving_step(request: StepRequest) -> StepResult:
    """The shards of a checkpoint that is being downloaded; its time is the download's and is not counted twice."""
    runtime = current()
    name = f"{str(request.options['arriving'])[:32]}{requests.fingerprint(request)[:32]}"  # of this download and recipe
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


def _pure(request: StepRequest, kind: Kind, name: str, label: str, *, after: list[Done], force: bool = False) -> Done:
    """Run a pure step, or take the answer of the cache when the store still holds that very artifact, every blob of it."""
    held = current().store.find(kind, requests.fingerprint(request))
    done = _run(pure_step, request, name, label, after, refresh_cache=force or held is None)
    if done.cached and held is not None and held.ref not in done.result.outputs.values():
        return _run(pure_step, request, name, label, after, refresh_cache=True)
    return done


def check(suite: str) -> list[Done]:
    """Look at a suite before anything is made for it; the one that ships for every run needs no look."""
    if suite == "smoke":
        return []
    return [_run(effect_step, requests.check(suite), "check", f"check the suite {suite}", [])]


def resolve(model: str, revision: str | None) -> tuple[ResolvedSource, Done]:
    """Find out what exactly was asked for: a branch becomes a commit."""
    done = _run(effect_step, requests.resolve(model, revision), "resolve", f"resolve {model}", [])
    return ResolvedSource.read(done.result.values), done


def download(source: ResolvedSource, recipe: QuantizeParameters, *, after: list[Done], force: bool) -> Done:
    """Bring the checkpoint; a large one is quantized by that recipe at the same time, as far as its shards are there."""
    label = f"download {source.source}" + (f" at {source.commit[:12]}" if source.commit else "")
    with _quantizing(source, recipe) as announce:
        request = requests.download(source, announce=announce)
        return _pure(request, Kind.CHECKPOINT, "download", label, after=after, force=force)


@contextmanager
def _quantizing(source: ResolvedSource, recipe: QuantizeParameters) -> Iterator[bool]:
    """Quantize what arrives during the block; whether there is any use in that.

    Its failure is none of the run's: the quantization that follows does what is left, and says what is wrong.
    """
    now = current()
    wanted = requests.fingerprint(requests.download(source))
    if now.store.find(Kind.CHECKPOINT, wanted) is not None or source.size < now.settings.overlap_gb * 1e9:
        yield False
        return
    download_feed.begin(now.store, wanted)
    request = requests.quantize_arriving(source, recipe)
    future = arriving_step.with_options(task_run_name=f"quantize to {recipe.scheme} what arrives").submit(request)
    try:
        yield True
    except BaseException:
        download_feed.end(now.store, wanted)
        raise
    future.wait()
    if not future.state.is_completed():
        get_run_logger().warning("quantizing during the download broke off: %s", future.state.message)


def quantize(checkpoint: ArtifactRef, recipe: QuantizeParameters, *, after: list[Done], force: bool) -> Done:
    request = requests.quantize(checkpoint, recipe, QuantizeOptions())
    return _pure(request, Kind.CHECKPOINT, "quantize", f"quantize to {recipe.scheme}", after=after, force=force)


def push(checkpoint: ArtifactRef, parameters: PushParameters, *, after: list[Done]) -> tuple[PushedImage, Done]:
    request = requests.push(checkpoint, parameters, PushOptions())
    done = _run(effect_step, request, "push", f"push to {parameters.target}", after)
    return PushedImage.read(done.result.values), done


@contextmanager
def deployed(subject: Subject, *, after: list[Done], keep: bool = False) -> Iterator[Lease]:
    """Serve the subject for the length of the block; with `keep` it stays when the block ends well."""
    request = requests.serve(subject, port=current().settings.serve.port if keep else 0)
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


def measure(
    subject: Subject, suite: str, *, after: list[Done], force: bool, keep: bool = False
) -> tuple[Done, Lease | None]:
    """Measure what is served; it is served only when the store does not know the answer yet, or when it is to stay."""
    subject = subject.fitting(suite)
    known = current().store.find(Kind.MEASUREMENT, requests.fingerprint(requests.measure(subject, suite)))
    label = f"evaluate the {subject.role} ({suite})"
    if known is not None and not keep and not force:
        return _pure(requests.measure(subject, suite), Kind.MEASUREMENT, "evaluate", label, after=after), None
    with deployed(subject, after=after, keep=keep) as lease:
        request = requests.measure(subject, suite, lease.endpoint)
        return _pure(request, Kind.MEASUREMENT, "evaluate", label, after=after, force=force), lease


def judge(
    candidate: Done, baseline: Done, subject: Subject, suite: str, sizes: tuple[int, int], *, force: bool
) -> tuple[Verdict, Done]:
    request = requests.judge(candidate.output("measurement"), baseline.output("measurement"), subject, suite, sizes)
    after = [candidate, baseline]
    done = _pure(request, Kind.VERDICT, "judge", f"judge by {suite}", after=after, force=force)
    return Verdict.read(done.result.values), done


def promote(release: Release, verdict: ArtifactRef, *, after: list[Done]) -> tuple[PromotedImage, Done]:
    """Give the image its tag and attach the verdict's report, the card and the provenance."""
    options = PushOptions(override=release.override, gate_profile=release.gate_profile)
    request = requests.promote(release.image.reference, verdict, release.keep(), (release.tag,), options)
    done = _run(effect_step, request, "promote", f"promote {release.image.digest.short} to {release.tag}", after)
    return PromotedImage.read(done.result.values), done


def worked() -> float:
    """Seconds of this run in which a step or the start of a service was at work."""
    return sum(current().worked)


def size(ref: ArtifactRef) -> int:
    """Bytes of all files of an artifact."""
    return sum(file.size for file in current().store.load(ref).files)
