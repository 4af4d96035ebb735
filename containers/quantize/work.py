"""The work of the step: a checkpoint in the store becomes a quantized one, group by group."""

from __future__ import annotations

import time
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from containers import shard_feed
from containers.checkpoint_files import CONFIG
from containers.contract import Kind, Step, StepResult
from containers.errors import BadInput, Temporary
from containers.fingerprints import fingerprint_inputs
from containers.parameters import QuantizedCheckpoint, QuantizeOptions, QuantizeParameters
from containers.quantize.assemble import config_json, copied_files, index_json
from containers.quantize.checkpoint import FolderFiles, StoredFiles
from containers.quantize.config_cache import remembered_config
from containers.quantize.during_download import quantize_during_download
from containers.quantize.plan import make_plan
from containers.quantize.preflight import prepare
from containers.quantize.resources import lanes_for, largest_first
from containers.quantize.worker import StoredShards, find_stored, quantize_groups
from containers.quantize.worker_pool import WorkerPool, worker_devices
from containers.store import FileEntry, Manifest, Store

if TYPE_CHECKING:
    from collections.abc import Mapping

    from containers.contract import ArtifactRef, StepRequest
    from containers.quantize.groups import Group
    from containers.quantize.plan import QuantizationPlan
    from containers.quantize.preflight import QuantizeJob
    from containers.step import Context


def work(request: StepRequest, context: Context) -> StepResult:
    """Quantize a checkpoint, or plan to."""
    parameters = QuantizeParameters.read(request.parameters)
    options = QuantizeOptions.read(request.options)
    fixed = fingerprint_inputs(Step.QUANTIZE)
    if parameters.action == "plan" and options.folder:
        job = prepare(FolderFiles(Path(options.folder)), parameters, fixed)
        return _planned(make_plan(job, lanes=options.lanes))

    store = Store.open(request.store, context.settings.store)
    if options.arriving:
        stored = quantize_during_download(parameters, options, store, context, fixed)
        counts: dict[str, float] = {"groups": len(stored.shards), "bytes_read": stored.bytes_read}
        return StepResult(step=Step.QUANTIZE, metrics=counts, versions=versions())
    source = store.load(_input(request))
    fingerprint = request.fingerprint(fixed)
    if parameters.action == "quantize" and not options.groups:
        done = store.find(Kind.CHECKPOINT, fingerprint)
        if done is not None:
            return _result(done)

    clock = Clock()
    job = prepare(StoredFiles(store, source), parameters, fixed)
    shards, missing = find_stored(job, store, options.groups)
    for shard in shards.values():
        shard_feed.publish(store, options.announce, shard)
    if parameters.action == "plan":
        return _planned(make_plan(job, shards, options.lanes))
    clock.lap("plan")
    for warning in job.warnings:
        context.report.log(warning, "warning")
    if shards:
        context.report.log(f"{len(shards)} of {len(shards) + len(missing)} shards are already quantized")
    done_now = _quantize_missing(missing, request, job, store, context) if missing else StoredShards({})
    clock.lap("quantize")
    reused = len(shards)
    shards |= done_now.shards
    metrics = {"groups": len(shards), "groups_reused": reused, "bytes_read": done_now.bytes_read}
    if options.groups:
        return StepResult(step=Step.QUANTIZE, metrics=metrics, timings=clock.laps, versions=versions())
    manifest = _assemble(job, store, source, shards, fingerprint)
    clock.lap("assemble")
    result = _result(manifest, reused, done_now.device)
    written = sum(entry.size for entry in done_now.shards.values())
    return result.model_copy(update={"metrics": {**metrics, "bytes_written": written}, "timings": clock.laps})


def _quantize_missing(
    missing: list[Group], request: StepRequest, job: QuantizeJob, store: Store, context: Context
) -> StoredShards:
    """Quantize groups into the store, in this process or in several."""
    options = QuantizeOptions.read(request.options)
    devices = worker_devices(options) if not options.groups else []
    if min(len(devices), len(missing)) <= 1:
        if devices:
            options = options.model_copy(update={"device": devices[0]})
            # One by one it gains nothing, and a list that was dealt keeps its order: its end may be dealt to another.
            missing = largest_first(missing) if lanes_for(options.lanes, len(missing)) > 1 else missing
        return quantize_groups(job, store, context, options, missing)
    WorkerPool(request, job, store, context, options).run(missing, devices)
    shards, lost = find_stored(job, store, [group.path for group in missing])
    if lost:
        raise Temporary(f"{lost[0].path} was stored and has disappeared from the store", remedy="run it again")
    return StoredShards(shards, sum(group.source.size for group in missing), ", ".join(sorted(set(devices))))


def _planned(plan: QuantizationPlan) -> StepResult:
    return StepResult(step=Step.QUANTIZE, values={"plan": plan.model_dump(mode="json")})


def _input(request: StepRequest) -> ArtifactRef:
    if set(request.inputs) != {"checkpoint"}:
        raise BadInput("quantize takes one input, named checkpoint", remedy="give the checkpoint that download made")
    return request.inputs["checkpoint"]


def _assemble(
    job: QuantizeJob, store: Store, source: Manifest, shards: Mapping[str, FileEntry], fingerprint: str
) -> Manifest:
    """Store the small files and commit the quantized checkpoint."""
    entries = {entry.path: entry for entry in source.files}
    files = [*shards.values(), *(entries[path] for path in copied_files(job.checkpoint))]
    config = config_json(job.checkpoint, remembered_config(job, store))
    files.append(FileEntry(path=CONFIG, size=len(config), sha256=store.put_bytes(config)))
    if job.checkpoint.index is not None:
        index = index_json(job.groups, job.checkpoint.index.rpartition("/")[0])
        files.append(FileEntry(path=job.checkpoint.index, size=len(index), sha256=store.put_bytes(index)))
    parts = [part for group in job.groups for part in group.parts]
    quantized = sum(part.kept is None for part in parts)
    manifest = Manifest(
        kind=Kind.CHECKPOINT,
        fingerprint=fingerprint,
        files=tuple(sorted(files, key=lambda entry: entry.path)),
        metadata={
            **source.metadata,
            "quantization": {
                "scheme": job.recipe.scheme.name,
                "ignore": list(job.ignore),
                "source": str(source.digest),
                "source_size": source.size,
                "groups": len(job.groups),
                "quantized_tensors": quantized,
                "kept_tensors": len(parts) - quantized,
                "versions": versions(),
            },
        },
    )
    store.commit(manifest)
    return manifest


def versions() -> dict[str, str]:
    """The libraries that do the arithmetic and whose results these are held to."""
    return {name: version(name) for name in ("torch", "compressed-tensors", "llmcompressor")}


def _result(manifest: Manifest, reused: int | None = None, device: str = "") -> StepResult:
    """The result for a quantized checkpoint in the store; `reused` None means that nothing had to be done."""
    facts: Any = manifest.metadata["quantization"]
    return StepResult(
        step=Step.QUANTIZE,
        outputs={"checkpoint": manifest.ref},
        values=QuantizedCheckpoint(
            groups=facts["groups"],
            reused=facts["groups"] if reused is None else reused,
            quantized_tensors=facts["quantized_tensors"],
            kept_tensors=facts["kept_tensors"],
            size_before=facts["source_size"],
            size_after=manifest.size,
            device=device,
        ).dump(),
        versions=facts["versions"],
    )


class Clock:
    """Seconds between laps, by name."""

    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._last = time.monotonic()

    def lap(self, name: str) -> None:
        now = time.monotonic()
        self.laps[name] = round(now - self._last, 3)
        self._last = now
