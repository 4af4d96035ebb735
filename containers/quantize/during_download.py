"""Quantizes the shards of a checkpoint while it downloads: planned from the headers, each shard as soon as it is stored.

The results are groups in the store, as any worker makes them. When the download is done, the quantization of the whole
checkpoint finds them and assembles the output.
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

    from containers.download_feed import DownloadFeed
    from containers.parameters import QuantizeOptions, QuantizeParameters
    from containers.quantize.groups import Group
    from containers.sha256 import Verification
    from containers.step import Context
    from containers.store import Store
    from containers.streams import Stream

_TIMEOUT: Final = 600.0  # seconds for a download to announce its files: first it reads small files and headers


class DownloadingFiles:
    """The files that a download has announced. Before a file is stored, only its header can be read."""

    def __init__(self, store: Store, feed: DownloadFeed) -> None:
        self._store = store
        self._feed = feed

    def listing(self) -> tuple[CheckpointFile, ...]:
        arrived = self._feed.arrived
        return tuple(CheckpointFile(path, size, arrived.get(path)) for path, size in sorted(self._feed.files.items()))

    def open(self, file: CheckpointFile, offset: int = 0) -> AbstractContextManager[Stream]:
        if file.sha256 is not None:
            return self._store.open_blob(file.sha256, size=file.size, offset=offset)
        header = io.BytesIO(self._store.read_bytes(self._feed.headers[file.path]))
        header.seek(offset)
        return header

    def verification(self, file: CheckpointFile) -> Verification:
        assert file.sha256 is not None
        return self._store.verification(file.sha256, file.size)


def quantize_during_download(
    parameters: QuantizeParameters,
    options: QuantizeOptions,
    store: Store,
    context: Context,
    fingerprint_inputs: Mapping[str, str],
) -> StoredShards:
    """Quantize every group of the announced checkpoint into the store, in the order in which the shards are downloaded.

    Bad input is refused before any weights arrive. Raises Temporary when the download ends early.
    """
    reader = FeedReader(store, options.arriving)
    job = prepare(DownloadingFiles(store, reader.wait_for_listing(_TIMEOUT)), parameters, fingerprint_inputs)
    for warning in job.warnings:
        context.report.log(warning, "warning")
    context.report.log(f"{len(job.groups)} shards will be quantized as they arrive")

    def wait_for(group: Group, stop: threading.Event) -> Group:
        digest = reader.digest(group.path, stop)
        if digest is None:
            raise StoppedError
        return replace(group, source=replace(group.source, sha256=digest))

    groups = sorted(job.groups, key=lambda group: -group.source.size)  # as `containers.download` fetches them
    return quantize_groups(job, store, context, options, groups, wait_for)
