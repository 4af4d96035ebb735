"""Sends the layers of quantized shards while others are still being quantized.

They are blobs that nothing names yet. The push that follows finds them, sends the rest and the manifest.
"""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING

from containers.contract import Step, StepResult
from containers.oci.access import open_push_cache, open_repository
from containers.oci.layer import FileLayer
from containers.oci.reference import Reference
from containers.oci.repository import Blob
from containers.oci.sender import Sender
from containers.shard_feed import shards

if TYPE_CHECKING:
    from containers.digest import Digest
    from containers.step import Context
    from containers.store import FileEntry, Store


def push_layers(target: str, feed: str, store: Store, context: Context) -> StepResult:
    """Send the layer of each shard that the feed publishes, until it ends.

    Raises Temporary when the quantization fails or goes silent, and what the store and the repository raise.
    """
    reference = Reference.parse(target).target
    with (
        open_repository(reference, context.settings, cache=open_push_cache(context.settings), write=True) as repository,
        context.report.progress("push layers", 0) as progress,
        ThreadPoolExecutor(context.settings.registry.parallel, thread_name_prefix="push") as pool,
    ):
        sender = Sender(repository, progress.advance)
        sending: list[Future[Digest]] = []
        try:
            for shard in shards(store, feed):
                if shard.layer is not None:
                    sending.append(pool.submit(sender.put, layer_blob(shard, store)))
                sender.raise_failure(sending)
            sender.wait(sending)
        except BaseException:
            sender.stop(sending)
            raise
    skipped = len(sender.skipped)
    context.report.log(f"{reference}: {len(sending) - skipped} layers sent ahead, {skipped} were already there")
    return StepResult(step=Step.PUSH, metrics={"pushed_bytes": sender.sent, "layers": len(sending)})


def layer_blob(shard: FileEntry, store: Store) -> Blob:
    """The layer of a quantized shard whose digest is known; what is sent is checked against that."""
    layer = FileLayer(shard.path, shard.size)
    return Blob(
        layer.size,
        lambda offset: layer.chunks(
            lambda _, at: store.open_blob(shard.sha256, size=shard.size, offset=at, checked=False), offset
        ),
        shard.layer,
        shard.path,
        recheck=lambda: store.recheck(shard.sha256, shard.size),
    )
