"""The work of the step: a checkpoint in the store becomes a quantized one, group by group."""

from __future__ import annotations

import time
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from containers.contract import (
    Kind,
    QuantizedCheckpoint,
    QuantizeOptions,
    QuantizeParameters,
    Step,
    StepResult,
)
from containers.determinants import determinants
from containers.errors import BadInput
from containers.quantize.assemble import config_json, index_json, taken_over
from containers.quantize.checkpoint import CONFIG, StoredFiles
from containers.quantize.preflight import Job, prepare
from containers.quantize.worker import quantize_groups
from containers.store import FileEntry, Manifest, Store

if TYPE_CHECKING:
    from containers.contract import ArtifactRef, StepRequest
    from containers.step import Context


def work(request: StepRequest, context: Context) -> StepResult:
    """Quantize a checkpoint, or plan to."""
    parameters = QuantizeParameters.read(request.parameters)
    options = QuantizeOptions.read(request.options)
    store = Store.open(request.store, context.settings.store)
    manifest = store.load(_input(request))
    fixed = determinants(Step.QUANTIZE)
    fingerprint = request.fingerprint(fixed)
    done = store.find(Kind.CHECKPOINT, fingerprint)
    if done is not None and not options.groups:
        return _result(done, reused=True)

    started = time.monotonic()
    job = prepare(StoredFiles(store, manifest), parameters, fixed)
    planned = time.monotonic()
    for warning in job.warnings:
        context.report.log(warning, "warning")
    stored = quantize_groups(job, store, context, options)
    quantized = time.monotonic()
    if options.groups:
        return StepResult(step=Step.QUANTIZE, metrics={"groups": len(stored.shards), "reused": stored.reused})
    result = _assemble(job, store, manifest, stored.shards, fingerprint, device=stored.device)
    return _result(
        result,
        reused=False,
        groups_reused=stored.reused,
        timings={
            "plan": round(planned - started, 3),
            "quantize": round(quantized - planned, 3),
            "assemble": round(time.monotonic() - quantized, 3),
        },
        bytes_read=stored.bytes_read,
    )


def _input(request: StepRequest) -> ArtifactRef:
    if set(request.inputs) != {"checkpoint"}:
        raise BadInput("quantize takes one input, named checkpoint", remedy="give the checkpoint that download made")
    return request.inputs["checkpoint"]


def _assemble(
    job: Job, store: Store, source: Manifest, shards: dict[str, FileEntry], fingerprint: str, *, device: str
) -> Manifest:
    """Store the small files and commit the quantized checkpoint."""
    entries = {entry.path: entry for entry in source.files}
    files = [*shards.values(), *(entries[path] for path in taken_over(job.checkpoint))]
    config = config_json(job.checkpoint, job.recipe.scheme, job.ignore)
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
                "device": device,
                "versions": versions(),
            },
        },
    )
    store.commit(manifest)
    return manifest


def versions() -> dict[str, Any]:
    """The libraries that do the arithmetic and whose results these are held to."""
    return {name: version(name) for name in ("torch", "compressed-tensors", "llmcompressor")}


def _result(
    manifest: Manifest,
    *,
    reused: bool,
    groups_reused: int = 0,
    timings: dict[str, float] | None = None,
    bytes_read: int = 0,
) -> StepResult:
    facts: Any = manifest.metadata["quantization"]
    return StepResult(
        step=Step.QUANTIZE,
        outputs={"checkpoint": manifest.ref},
        values=QuantizedCheckpoint(
            groups=facts["groups"],
            reused=facts["groups"] if reused else groups_reused,
            quantized_tensors=facts["quantized_tensors"],
            kept_tensors=facts["kept_tensors"],
            size_before=facts["source_size"],
            size_after=manifest.size,
            device=facts["device"],
        ).dump(),
        metrics={"bytes_read": bytes_read, "bytes_written": 0 if reused else manifest.size},
        timings=timings or {},
        versions=facts["versions"],
    )
