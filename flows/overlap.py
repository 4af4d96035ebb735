"""What is done for a large checkpoint before its turn: shards are quantized while others download, and their layers pushed.

It never fails the run: the step whose turn comes later finds what is done, does the rest and reports any error.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.logging import get_run_logger

from containers import download_feed
from containers.contract import Kind, Step, StepRequest, StepResult
from containers.digest import Digest
from containers.parameters import PushParameters, QuantizeOptions
from containers.registry_limits import MODEL_LAYERS
from containers.shard_feed import ShardFeed
from flows.orchestrator.reporting import task_listener
from flows.orchestrator.single_flight import one_at_a_time
from flows.requests import fingerprint
from flows.runtime import current

if TYPE_CHECKING:
    from collections.abc import Iterator

    from prefect.futures import PrefectFuture

    from containers.parameters import QuantizeParameters, ResolvedSource
    from flows.runtime import Runtime

_PATIENCE: Final = 10.0  # seconds for layers on their way to stop before a run that fails goes on failing without that


@task(name="quantize during download", persist_result=False, cache_policy=NO_CACHE)
def quantize_during_download_step(request: StepRequest) -> StepResult:
    """Quantize the shards of a checkpoint during its download. Its time is part of the download's and not counted again."""
    runtime = current()
    name = f"{str(request.options['arriving'])[:32]}{fingerprint(request)[:32]}"  # unique to this download and recipe
    with one_at_a_time(name, get_run_logger().info), task_listener(runtime) as listen:
        return runtime.launcher.run(request, listen)


@task(name="push layers", persist_result=False, cache_policy=NO_CACHE)
def push_layers_step(request: StepRequest) -> StepResult:
    """Push layers during the download and the quantization. Its time is part of theirs and not counted again."""
    runtime = current()
    with task_listener(runtime) as listen:
        return runtime.launcher.run(request, listen)


@dataclass(frozen=True)
class LayersAhead:
    """Layers that are pushed before their push: `feed` is where the quantization publishes its shards, empty without any."""

    feed: str = ""
    _open: ShardFeed | None = None
    _pushing: PrefectFuture[Any] | None = None

    def finish(self) -> None:
        """Wait until the layer of every shard that was quantized is pushed, or that has failed."""
        if self._open is not None and self._pushing is not None:
            self._open.end()
            _wait(self._pushing, "pushing layers ahead")


NO_LAYERS: Final = LayersAhead()


@contextmanager
def pushing_layers(
    runtime: Runtime, source: ResolvedSource, recipe: QuantizeParameters, target: PushParameters
) -> Iterator[LayersAhead]:
    """Push the layers of shards that are quantized inside the block, which calls `finish` when all of them are.

    Not for a small or a stored checkpoint, for one with so many files that shards share layers, and for a push that is
    placed elsewhere, where it could take the place that the quantization waits for.
    """
    if (
        not _large(runtime, source)
        or source.files > MODEL_LAYERS
        or runtime.settings.placement.deployment(Step.PUSH)
        or _is_quantized(runtime, source, recipe)
    ):
        yield NO_LAYERS
        return
    name = Digest.of(f"{runtime.run} {source.pinned} {recipe.model_dump_json()}".encode()).hex
    request = runtime.requests.push_layers(target, name)
    feed = ShardFeed(runtime.store, name)
    try:
        with feed:
            pushing = push_layers_step.with_options(task_run_name=f"push layers to {target.target} ahead").submit(
                request
            )
            try:
                yield LayersAhead(name, feed, pushing)
            except BaseException:
                feed.end(failed=True)
                pushing.wait(_PATIENCE)
                raise
    finally:
        feed.remove()


@contextmanager
def quantizing_during_download(
    runtime: Runtime, source: ResolvedSource, recipe: QuantizeParameters, layers: LayersAhead
) -> Iterator[bool]:
    """Quantize shards as they arrive during the block. Yields whether it does so: not for a small or stored checkpoint."""
    store = runtime.store
    download = fingerprint(runtime.requests.download(source))
    if not _large(runtime, source) or store.find(Kind.CHECKPOINT, download) is not None:
        yield False
        return
    download_feed.reset(store, download)
    future = quantize_during_download_step.with_options(
        task_run_name=f"quantize to {recipe.scheme} during the download"
    ).submit(runtime.requests.quantize_during_download(source, recipe, announce=layers.feed))
    try:
        yield True
    except BaseException:
        download_feed.close(store, download)
        raise
    _wait(future, "quantizing during the download")


def _large(runtime: Runtime, source: ResolvedSource) -> bool:
    return source.size >= runtime.settings.overlap_gb * 1e9


def _is_quantized(runtime: Runtime, source: ResolvedSource, recipe: QuantizeParameters) -> bool:
    store, requests = runtime.store, runtime.requests
    original = store.find(Kind.CHECKPOINT, fingerprint(requests.download(source)))
    if original is None:
        return False
    return (
        store.find(Kind.CHECKPOINT, fingerprint(requests.quantize(original.ref, recipe, QuantizeOptions()))) is not None
    )


def _wait(future: PrefectFuture[Any], what: str) -> None:
    future.wait()
    if not future.state.is_completed():
        get_run_logger().warning("%s stopped: %s", what, future.state.message)
