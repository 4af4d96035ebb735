"""The step: measure a model at its endpoint, or judge a candidate against its baseline. Both are pure and cached."""

from __future__ import annotations

import asyncio
from importlib.metadata import version
from typing import TYPE_CHECKING

from containers.contract import ArtifactRef, EvaluateOptions, EvaluateParameters, Kind, StepResult, Verdict
from containers.determinants import determinants
from containers.digest import canonical_json
from containers.errors import BadInput
from containers.evaluate import page
from containers.evaluate import suite as suites
from containers.evaluate.judge import judge
from containers.evaluate.measure import measure
from containers.evaluate.measurement import Measured
from containers.store import FileEntry, Manifest, Store

if TYPE_CHECKING:
    from containers.contract import StepRequest
    from containers.evaluate.suite import Loaded
    from containers.step import Context

VERDICT_FILE = "verdict.json"
REPORT_FILE = "report.json"
PAGE_FILE = "report.html"


def work(request: StepRequest, context: Context) -> StepResult:
    """Measure a served model, or judge a candidate against its baseline."""
    parameters = EvaluateParameters.read(request.parameters)
    store = Store.open(request.store, context.settings.store)
    fingerprint = request.fingerprint(determinants(request.step))
    kind, make = {
        "measure": (Kind.MEASUREMENT, _measure),
        "judge": (Kind.VERDICT, _judge),
    }[parameters.action]
    manifest = store.find(kind, fingerprint)
    if manifest is not None:
        context.report.log(f"found the {kind.value} that was made before: {fingerprint[:12]}")
    else:
        loaded = suites.of_request(parameters, EvaluateOptions.read(request.options))
        files = make(request, loaded, store, context)
        manifest = _keep(store, kind, fingerprint, files)
    return _result(request, store, manifest)


def _measure(request: StepRequest, loaded: Loaded, store: Store, context: Context) -> dict[str, bytes]:
    parameters = EvaluateParameters.read(request.parameters)
    if not parameters.subject:
        raise BadInput("the request does not say what is measured", remedy="give the digest of what is served")
    options = EvaluateOptions.read(request.options)
    return asyncio.run(measure(loaded, parameters, options, context.report)).files()


def _judge(request: StepRequest, loaded: Loaded, store: Store, context: Context) -> dict[str, bytes]:
    measured = {}
    for name in ("candidate", "baseline"):
        ref = request.inputs.get(name)
        if ref is None or ref.kind is not Kind.MEASUREMENT:
            raise BadInput(f"judge needs a measurement as its input {name!r}")
        store.materialize(ref, context.scratch / name)
        measured[name] = Measured.read(context.scratch / name)
    report = judge(loaded, measured["candidate"], measured["baseline"])
    return {
        VERDICT_FILE: canonical_json(report.verdict.model_dump(mode="json")),
        REPORT_FILE: canonical_json(report.model_dump(mode="json")),
        PAGE_FILE: page.render(report).encode(),
    }


def _keep(store: Store, kind: Kind, fingerprint: str, files: dict[str, bytes]) -> Manifest:
    entries = tuple(
        FileEntry(path=path, size=len(content), sha256=store.put_bytes(content))
        for path, content in sorted(files.items())
    )
    manifest = Manifest(kind=kind, fingerprint=fingerprint, files=entries)
    store.commit(manifest)
    return manifest


def _result(request: StepRequest, store: Store, manifest: Manifest) -> StepResult:
    versions = {name: version(name) for name in ("httpx", "numpy")}
    outputs: dict[str, ArtifactRef] = {manifest.kind.value: manifest.ref}
    if manifest.kind is Kind.MEASUREMENT:
        return StepResult(step=request.step, outputs=outputs, versions=versions)
    entry = next(entry for entry in manifest.files if entry.path == VERDICT_FILE)
    verdict = Verdict.model_validate_json(store.read_bytes(entry.sha256))
    return StepResult(
        step=request.step, outputs=outputs, values=verdict.dump(), metrics=verdict.measures, versions=versions
    )
