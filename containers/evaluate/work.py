"""The step: measure a model at its endpoint, or judge a candidate against its baseline. Both are pure and cached."""

from __future__ import annotations

from typing import TYPE_CHECKING

from containers.contract import ArtifactRef, Kind, StepResult
from containers.digest import canonical_json
from containers.endpoint_key import authorization
from containers.errors import BadInput
from containers.evaluate import kinds, look_parts, serving_speed
from containers.evaluate.suite import Sizes, of_request
from containers.fingerprints import fingerprint_inputs, locked_version
from containers.parameters import EvaluateOptions, EvaluateParameters
from containers.store import FileEntry, Manifest, Store
from containers.verdict import PAGE_FILE, REPORT_FILE, VERDICT_FILE, Serving, Verdict

if TYPE_CHECKING:
    from pathlib import Path

    from pydantic import BaseModel

    from containers.contract import StepRequest
    from containers.digest import Digest
    from containers.evaluate.suite import Suite
    from containers.step import Context


def work(request: StepRequest, context: Context) -> StepResult:
    """Measure a served model, judge a candidate against its baseline, or check that a suite can be used."""
    parameters = EvaluateParameters.read(request.parameters)
    if parameters.action == "check":
        _suite(request, context).check(context)
        return StepResult(step=request.step)
    store = Store.open(request.store, context.settings.store)
    fingerprint = request.fingerprint(fingerprint_inputs(request.step, parameters.action))
    kind, make = {
        "measure": (Kind.MEASUREMENT, _measure),
        "judge": (Kind.VERDICT, _judge),
    }[parameters.action]
    manifest = store.find(kind, fingerprint)
    if manifest is not None:
        context.report.log(f"found the stored {kind.value} {fingerprint[:12]}")
    else:
        manifest = _keep(store, kind, fingerprint, make(request, _suite(request, context), store, context))
    return _result(request, store, manifest)


def _suite(request: StepRequest, context: Context) -> Suite:
    """The requested suite; raises BadInput if it does not match its digest or is invalid."""

    def stored(digest: Digest) -> bytes:
        return Store.open(request.store, context.settings.store).read_bytes(digest)

    parameters, options = EvaluateParameters.read(request.parameters), EvaluateOptions.read(request.options)
    return kinds.load(of_request(parameters, options, stored))


def _measure(request: StepRequest, suite: Suite, store: Store, context: Context) -> dict[str, bytes]:
    parameters = EvaluateParameters.read(request.parameters)
    if not parameters.subject:
        raise BadInput("the request does not name a subject", remedy="give the digest of the served model")
    options = EvaluateOptions.read(request.options)
    files = suite.measure(parameters, options, store, context)
    if options.load_levels:
        key = authorization(context.settings.evaluate, options.endpoint)
        files[serving_speed.FILE] = _json(serving_speed.measure(options.role, options, context.report, key))
    return files


def _judge(request: StepRequest, suite: Suite, store: Store, context: Context) -> dict[str, bytes]:
    parameters = EvaluateParameters.read(request.parameters)
    folders = {name: context.scratch / name for name in ("candidate", "baseline")}
    for look in range(1, 1 + max(1, len(request.inputs) // len(folders))):
        for name, folder in folders.items():
            known = name if look == 1 else f"{name}-{look}"
            ref = request.inputs.get(known)
            if ref is None or ref.kind is not Kind.MEASUREMENT:
                raise BadInput(f"judge needs a measurement as its input {known!r}")
            store.materialize(ref, folder / look_parts.folder_of(look))
    serving = tuple(filter(None, (_serving(folders[name]) for name in ("baseline", "candidate"))))
    sizes = Sizes(baseline=parameters.size_baseline, candidate=parameters.size_candidate, serving=serving)
    judged = suite.judge(**folders, sizes=sizes)
    return {
        VERDICT_FILE: _json(judged.verdict.model_copy(update={"serving": serving})),
        REPORT_FILE: _json(judged.report),
        PAGE_FILE: judged.page.encode(),
    }


def _serving(folder: Path) -> Serving | None:
    """How the measured model was served; None where that was not measured."""
    path = folder / serving_speed.FILE
    return Serving.model_validate_json(path.read_bytes()) if path.is_file() else None


def _json(value: BaseModel) -> bytes:
    return canonical_json(value.model_dump(mode="json"))


def _keep(store: Store, kind: Kind, fingerprint: str, files: dict[str, bytes]) -> Manifest:
    entries = tuple(
        FileEntry(path=path, size=len(content), sha256=store.put_bytes(content))
        for path, content in sorted(files.items())
    )
    manifest = Manifest(kind=kind, fingerprint=fingerprint, files=entries)
    store.commit(manifest)
    return manifest


def _result(request: StepRequest, store: Store, manifest: Manifest) -> StepResult:
    versions = {name: locked_version(request.step, name) for name in ("httpx", "lm-eval", "numpy")}
    outputs: dict[str, ArtifactRef] = {manifest.kind.value: manifest.ref}
    if manifest.kind is Kind.MEASUREMENT:
        return StepResult(step=request.step, outputs=outputs, versions=versions)
    entry = next(entry for entry in manifest.files if entry.path == VERDICT_FILE)
    verdict = Verdict.model_validate_json(store.read_bytes(entry.sha256))
    return StepResult(
        step=request.step, outputs=outputs, values=verdict.dump(), metrics=verdict.measures, versions=versions
    )
