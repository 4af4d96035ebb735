"""Quantizes the shards of a checkpoint while it is being downloaded: planned from the headers, each shard as it comes.

What is put into the store are groups, as any worker makes them; the quantization of the whole checkpoint finds them when
the download is done, and assembles.
"""

from __future__ import annotations

import io
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from containers.checkpoint_files import CheckpointFile
from containers.download_feed import FeedReader
from containers.quantize.channel import StoppedError
from containers.quantize.preflight import prepare
from containers.quantize.worker import StoredShards, quantize_groups

if TYPE_CHECKING:
    import threading
    from collections.abc import Mapping
    from contextlib import AbstractContextManager

    from containers.contract import QuantizeOptions, QuantizeParameters
    from containers.download_feed import DownloadFeed
    from containers.quantize.groups import Group
    from containers.step import Context
    from containers.store import Store
    from containers.streams import Stream

_PATIENCE: Final = 600.0  # seconds for a download to announce its files: first it reads small files and headers


class DownloadingFiles:
    """The files that a download has announced: of those that are not there yet, the header alone can be read."""

    def __init__(self, store: Store, arrivals: DownloadFeed) -> None:
        self._store = store
        self._arrivals = arrivals

    def listing(self) -> tuple[CheckpointFile, ...]:
        arrived = self._arrivals.arrived
        return tuple(
            CheckpointFile(path, size, arrived.get(path)) for path, size in sorted(self._arrivals.files.items())
        )

    def open(self, file: CheckpointFile, offset: int = 0) -> AbstractContextManager[Stream]:
        if file.sha256 is not None:
            return self._store.open_blob(file.sha256, size=file.size, offset=offset)
        front = io.BytesIO(self._store.read_bytes(self._arrivals.headers[file.path]))
        front.seek(offset)
        return front


def quantize_during_download(
    parameters: QuantizeParameters,
    options: QuantizeOptions,
    store: Store,
    context: Context,
    fingerprint_inputs: Mapping[str, str],
) -> StoredShards:
    """Bring every group of the announced checkpoint into the store, in the order in which a download brings shards.

    What can be refused is refused before a weight is there. Raises Temporary when the download ends early.
    """
    awaited = FeedReader(store, options.arriving)
    job = prepare(DownloadingFiles(store, awaited.coming(_PATIENCE)), parameters, fingerprint_inputs)
    for warning in job.warnings:
        context.report.log(warning, "warning")
    context.report.log(f"{len(job.groups)} shards will be quantized as they come")

    def arrived(group: Group, stop: threading.Event) -> Group:
        digest = awaited.digest(group.path, stop)
        if digest is None:
            raise StoppedError
        return replace(group, source=replace(group.source, sha256=digest))

    groups = sorted(job.groups, key=lambda group: -group.source.size)  # as `containers.download` fetches them
    return quantize_groups(job, store, context, options, groups, arrived)
