"""One worker process: the groups that it was dealt, quantized and put into the store one after the other."""

from __future__ import annotations

import errno
from dataclasses import dataclass
from typing import TYPE_CHECKING

from containers.contract import Kind
from containers.errors import BadInput, DiskFull
from containers.store import FileEntry, Manifest

if TYPE_CHECKING:
    from pathlib import Path

    from containers.contract import QuantizeOptions
    from containers.events import Progress
    from containers.quantize.arithmetic import Arithmetic
    from containers.quantize.groups import Group
    from containers.quantize.preflight import Job
    from containers.step import Context
    from containers.store import Store


@dataclass(frozen=True)
class Stored:
    """Shards in the store by path; `reused` of them were there before. `bytes_read` are those of the source."""

    shards: dict[str, FileEntry]
    reused: int
    bytes_read: int
    device: str


def quantize_groups(job: Job, store: Store, context: Context, options: QuantizeOptions) -> Stored:
    """Bring every group of the job (or those that `options` names) into the store; finished ones are not redone."""
    wanted = chosen(job.groups, options.groups)
    shards: dict[str, FileEntry] = {}
    missing: list[Group] = []
    for group in wanted:
        entry = find(store, group, job)
        if entry is None:
            missing.append(group)
        else:
            shards[group.path] = entry
    if shards:
        context.report.log(f"{len(shards)} of {len(wanted)} groups are in the store already")
    device = "none"
    if missing:
        from containers.quantize.devices import choose

        torch_device = choose(options.device)
        device = torch_device.type
        from containers.quantize.arithmetic import Arithmetic

        arithmetic = Arithmetic(job.recipe.scheme, torch_device)
        total = sum(group.source.size for group in missing)
        with context.report.progress(f"quantize ({torch_device})", total) as progress:
            for group in missing:
                shards[group.path] = _quantize(
                    group, job, store, arithmetic=arithmetic, scratch=context.scratch, progress=progress
                )
    return Stored(shards, len(wanted) - len(missing), sum(group.source.size for group in missing), device)


def chosen(groups: tuple[Group, ...], names: tuple[str, ...]) -> list[Group]:
    """The groups of these names, or all; raises BadInput for a name that is none of them."""
    if not names:
        return list(groups)
    known = {group.path: group for group in groups}
    for name in names:
        if name not in known:
            raise BadInput(f"the checkpoint has no shard {name!r}", remedy="deal out the groups of the plan")
    return [known[name] for name in names]


def find(store: Store, group: Group, job: Job) -> FileEntry | None:
    """The quantized shard, when an earlier run has put it into the store."""
    manifest = store.find(Kind.GROUP, group.fingerprint(job.determinants))
    return None if manifest is None else manifest.files[0]


def _quantize(
    group: Group, job: Job, store: Store, *, arithmetic: Arithmetic, scratch: Path, progress: Progress
) -> FileEntry:
    from containers.quantize.engine import quantize_group

    file = scratch / group.source.path.replace("/", "__")
    try:
        with job.files.open(group.source) as stream:
            written = quantize_group(group, stream, arithmetic, file, progress.advance)
        store.put_file(file, digest=written.sha256)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskFull(
                f"no space for the quantized {group.path} ({group.output.size} bytes) in {scratch}",
                remedy="free space there, or set TMPDIR to a folder with room",
            ) from error
        raise
    finally:
        file.unlink(missing_ok=True)
    entry = FileEntry(path=group.path, size=written.size, sha256=written.sha256, layer=written.layer)
    store.commit(Manifest(kind=Kind.GROUP, fingerprint=group.fingerprint(job.determinants), files=(entry,)))
    return entry
