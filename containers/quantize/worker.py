"""One worker process: the groups that it was dealt, quantized and put into the store, a few of them at once."""

from __future__ import annotations

import errno
import threading
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import TYPE_CHECKING

from containers import shard_feed
from containers.contract import Kind
from containers.errors import BadInput, DiskFull, Temporary
from containers.quantize.channel import StoppedError
from containers.quantize.config_cache import remembered_config
from containers.quantize.resources import lanes_for
from containers.store import FileEntry, Manifest

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from containers.events import Progress
    from containers.parameters import QuantizeOptions
    from containers.quantize.devices import Device
    from containers.quantize.groups import Group
    from containers.quantize.preflight import QuantizeJob
    from containers.step import Context
    from containers.store import Store


@dataclass(frozen=True)
class StoredShards:
    """Shards that were put into the store, by path. `bytes_read` are those of the source."""

    shards: dict[str, FileEntry]
    bytes_read: int = 0
    device: str = ""


def find_stored(job: QuantizeJob, store: Store, names: Sequence[str]) -> tuple[dict[str, FileEntry], list[Group]]:
    """The groups of these names (or all): the shards that the store has, and what is still to be done."""
    groups = chosen(job.groups, names)
    with ThreadPoolExecutor(8, thread_name_prefix="find") as pool:
        found = list(pool.map(lambda group: find(store, group, job), groups))
    shards = {group.path: entry for group, entry in zip(groups, found, strict=True) if entry is not None}
    return shards, [group for group in groups if group.path not in shards]


def quantize_groups(  # noqa: PLR0917
    job: QuantizeJob,
    store: Store,
    context: Context,
    options: QuantizeOptions,
    groups: Sequence[Group],
    wait_for: Callable[[Group, threading.Event], Group] = lambda group, _: group,
) -> StoredShards:
    """Quantize these groups into the store, each with its manifest as soon as it is done.

    `wait_for` waits for a group's shard, until the event is set at most, and returns the group with the shard's digest.
    When the GPU has no memory for several at once, they go on one by one and in smaller pieces. Raises Temporary when
    it has too little even for that, DiskFull, and BadInput for what is wrong with a shard.
    """
    from containers.quantize.devices import open_device

    lanes = lanes_for(options.lanes, len(groups))
    device = open_device(job.recipe.scheme, options.device, lanes)
    remembered_config(job, store)  # the libraries are loaded now: the assembly need not load them again
    name = str(device.arithmetic.device)
    total = sum(group.source.size for group in groups)
    stop = threading.Event()
    with context.report.progress(f"quantize ({name})", total) as progress:

        def attempt(pending: Group, device: Device) -> FileEntry:
            group = wait_for(pending, stop)
            shard = find(store, group, job)  # by another worker, meanwhile
            if shard is not None:
                progress.advance(group.source.size)
            else:
                shard = _quantize(group, device, _WorkerContext(job, store, context.scratch, progress, stop))
            shard_feed.publish(store, options.announce, shard)
            return shard

        def say(message: str) -> None:
            context.report.log(message, "warning")

        shards = run_lanes(groups, device, lanes, attempt=attempt, stop=stop, say=say)
    return StoredShards(shards, bytes_read=total, device=device.arithmetic.device.type)


def run_lanes(
    groups: Sequence[Group],
    device: Device,
    lanes: int,
    *,
    attempt: Callable[[Group, Device], FileEntry],
    stop: threading.Event,
    say: Callable[[str], None],
) -> dict[str, FileEntry]:
    """Attempt every group, `lanes` at once; then those that ran out of GPU memory, alone and in ever smaller pieces.

    The first other error sets `stop`, upon which attempts end soon, and is raised.
    """
    shards: dict[str, FileEntry] = {}
    short: list[Group] = []

    def guarded(group: Group) -> None:
        if stop.is_set():
            return
        try:
            shards[group.path] = attempt(group, device)
        except device.out_of_memory:
            short.append(group)

    with ThreadPoolExecutor(lanes, thread_name_prefix="lane") as pool:
        futures = [pool.submit(guarded, group) for group in groups]
        try:
            done, _ = wait(futures, return_when=FIRST_EXCEPTION)
            failed = any(future.exception() is not None for future in done)
        except BaseException:  # Ctrl-C
            failed = True
            raise
        finally:
            if failed:
                stop.set()
    errors = [error for future in futures if (error := future.exception()) is not None]
    for error in sorted(errors, key=lambda error: isinstance(error, StoppedError)):
        raise error
    for group in sorted(short, key=lambda group: group.path):
        shards[group.path] = _quantize_alone(group, device, attempt, say)
    return shards


def chosen(groups: Sequence[Group], names: Sequence[str]) -> list[Group]:
    """The groups of these names, or all; raises BadInput for a name that is none of them."""
    if not names:
        return list(groups)
    known = {group.path: group for group in groups}
    for name in names:
        if name not in known:
            raise BadInput(f"the checkpoint has no shard {name!r}", remedy="deal out the groups of the plan")
    return [known[name] for name in names]


def find(store: Store, group: Group, job: QuantizeJob) -> FileEntry | None:
    """The quantized shard, when an earlier run has put it into the store."""
    manifest = store.find(Kind.GROUP, group.fingerprint(job.fingerprint_inputs))
    return None if manifest is None else manifest.files[0]


@dataclass(frozen=True)
class _WorkerContext:
    job: QuantizeJob
    store: Store
    scratch: Path
    progress: Progress
    stop: threading.Event

    def tick(self, count: int) -> None:
        """Count bytes; ends the work on the thread that calls it once the worker is to stop."""
        if self.stop.is_set():
            raise StoppedError
        self.progress.advance(count)


def _quantize_alone(
    group: Group, device: Device, attempt: Callable[[Group, Device], FileEntry], say: Callable[[str], None]
) -> FileEntry:
    """One group while no other is in hand, in smaller pieces each time the GPU has no memory for them."""
    say(f"the GPU had no memory for {group.path} beside other shards: it is retried alone, in smaller pieces")
    smaller = device.smaller()
    while smaller is not None:
        smaller.free()
        try:
            return attempt(group, smaller)
        except smaller.out_of_memory:
            smaller = smaller.smaller()
    raise Temporary(
        f"the GPU has too little free memory for {group.path}, even in the smallest pieces",
        remedy="stop other programs on it, choose another with --device, or wait",
    )


def _quantize(group: Group, device: Device, worker: _WorkerContext) -> FileEntry:
    from containers.quantize.group_quantizer import quantize_group

    file = worker.scratch / group.path.replace("/", "__")
    try:
        written = quantize_group(group, worker.job.files, device, file, worker.tick)
        worker.store.take_file(file, written.sha256, on_bytes=lambda _: worker.tick(0), midstates=written.midstates)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskFull(
                f"no space for the quantized {group.path} ({group.output.size} bytes) in {worker.scratch}",
                remedy="free space there, or set TMPDIR to a folder with room",
            ) from error
        raise
    finally:
        file.unlink(missing_ok=True)
    entry = FileEntry(path=group.path, size=written.size, sha256=written.sha256, layer=written.layer)
    fingerprint = group.fingerprint(worker.job.fingerprint_inputs)
    worker.store.commit(Manifest(kind=Kind.GROUP, fingerprint=fingerprint, files=(entry,)))
    return entry
