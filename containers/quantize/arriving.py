"""Quantizes the shards of a checkpoint while it is being downloaded: planned from the headers, each shard as it comes.

What is put into the store are groups, as any worker makes them; the quantization of the whole checkpoint finds them when
the download is done, and assembles.
"""

from __future__ import annotations

import io
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from containers.arrivals import Awaited
from containers.quantize.channel import StoppedError
from containers.quantize.checkpoint import SourceFile
from containers.quantize.preflight import prepare
from containers.quantize.worker import Stored, quantize_groups

if TYPE_CHECKING:
    import threading
    from collections.abc import Mapping
    from contextlib import AbstractContextManager

    from containers.arrivals import Arrivals
    from containers.contract import QuantizeOptions, QuantizeParameters
    from containers.quantize.groups import Group
    from containers.safetensors import Stream
    from containers.step import Context
    from containers.store import Store

_PATIENCE: Final = 600.0  # seconds for a download to announce its files: first it reads small files and headers


class ArrivingFiles:
    """The files that a download has announced: of those that are not there yet, the header alone can be read."""

    def __init__(self, store: Store, arrivals: Arrivals) -> None:
        self._store = store
        self._arrivals = arrivals

    def listing(self) -> tuple[SourceFile, ...]:
        arrived = self._arrivals.arrived
        return tuple(SourceFile(path, size, arrived.get(path)) for path, size in sorted(self._arrivals.files.items()))

    def open(self, file: SourceFile, offset: int = 0) -> AbstractContextManager[Stream]:
        if file.digest is not None:
            return self._store.open_blob(file.digest, size=file.size, offset=offset)
        front = io.BytesIO(self._store.read_bytes(self._arrivals.headers[file.path]))
        front.seek(offset)
        return front


def quantize_arriving(
    parameters: QuantizeParameters,
    options: QuantizeOptions,
    store: Store,
    context: Context,
    determinants: Mapping[str, str],
) -> Stored:
    """Bring every group of the announced checkpoint into the store, in the order in which a download brings shards.

    What can be refused is refused before a weight is there. Raises Temporary when the download ends early.
    """
    awaited = Awaited(store, options.arriving)
    job = prepare(ArrivingFiles(store, awaited.coming(_PATIENCE)), parameters, determinants)
    for warning in job.warnings:
        context.report.log(warning, "warning")
    context.report.log(f"{len(job.groups)} shards will be quantized as they come")

    def arrived(group: Group, stop: threading.Event) -> Group:
        digest = awaited.digest(group.path, stop)
        if digest is None:
            raise StoppedError
        return replace(group, source=replace(group.source, digest=digest))

    groups = sorted(job.groups, key=lambda group: -group.source.size)  # as `containers.download` fetches them
    return quantize_groups(job, store, context, options, groups, arrived)
