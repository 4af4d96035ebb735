"""The step: measure a model at its endpoint, or judge a candidate against its baseline. Both are pure and cached."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from containers.contract import ArtifactRef, EvaluateOptions, EvaluateParameters, Kind, StepResult
from containers.digest import canonical_json
from containers.errors import BadInput
from containers.evaluate import benchmarks, coding, page, samples, sanity, tokenizer
from containers.evaluate import suite as suites
from containers.evaluate.benchmarks import of_benchmarks
from containers.evaluate.client import Client, NotFinite
from containers.evaluate.judge import Sizes, judge
from containers.evaluate.measure import measure
from containers.evaluate.measurement import Check, Measured
from containers.fingerprints import fingerprint_inputs, locked_version
from containers.store import FileEntry, Manifest, Store
from containers.verdict import PAGE_FILE, REPORT_FILE, VERDICT_FILE, Verdict

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from pydantic import BaseModel

    from containers.contract import StepRequest
    from containers.evaluate.benchmarks import Benchmark
    from containers.evaluate.harness.run import Harness, Ran
    from containers.step import Context
    from containers.suites import SuiteFiles

_AGAIN = 64  # questions of a benchmark, or one of each of its tasks: enough to see noise that would matter


def work(request: StepRequest, context: Context) -> StepResult:
    """Measure a served model, judge a candidate against its baseline, or check that a suite can be measured by."""
    parameters = EvaluateParameters.read(request.parameters)
    if parameters.action == "check":
        _check(suites.of_request(parameters, EvaluateOptions.read(request.options)), context)
        return StepResult(step=request.step)
    store = Store.open(request.store, context.settings.store)
    fingerprint = request.fingerprint(fingerprint_inputs(request.step, parameters.action))
    kind, make = {
        "measure": (Kind.MEASUREMENT, _measure),
        "judge": (Kind.VERDICT, _judge),
    }[parameters.action]
    manifest = store.find(kind, fingerprint)
    if manifest is not None:
        context.report.log(f"found the {kind.value} that was made before: {fingerprint[:12]}")
    else:
        files = make(request, suites.of_request(parameters, EvaluateOptions.read(request.options)), store, context)
        manifest = _keep(store, kind, fingerprint, files)
    return _result(request, store, manifest)


def _check(suite: SuiteFiles, context: Context) -> None:
    """Raises BadInput for what is wrong with the suite, or missing for it, as far as it shows without a model."""
    if coding.is_humaneval(suite):
        coding.ready(coding.parse(suite), context.settings.evaluate)
    elif of_benchmarks(suite):
        declared = benchmarks.parse(suite)
        _prepared(suite, declared.benchmarks, None, context, declared.category).check()
    else:
        loaded = suites.parse(suite)
        if loaded.suite.tasks and not suite.shipped:
            _prepared(suite, loaded.suite.tasks, None, context).check()


def _measure(request: StepRequest, suite: SuiteFiles, store: Store, context: Context) -> dict[str, bytes]:
    parameters = EvaluateParameters.read(request.parameters)
    if not parameters.subject:
        raise BadInput("the request does not say what is measured", remedy="give the digest of what is served")
    options = EvaluateOptions.read(request.options)
    if not of_benchmarks(suite) and not coding.is_humaneval(suite):
        loaded = suites.parse(suite)
        measured = asyncio.run(measure(loaded, parameters, options, context.report))
        if loaded.suite.tasks:
            try:
                ran = _harness(suite, loaded.suite.tasks, options, store, context)
            except NotFinite as error:  # a finding, which refuses; without it no broken model would get a verdict
                measured = measured.with_check(Check(name="small tasks", passed=False, detail=str(error)))
            else:
                measured = measured.with_tasks(ran.scored, ran.requests)
        return measured.files()
    cut: dict[str, int] = {}
    noise: dict[str, float] = {}
    commands: tuple[str, ...] = ()
    if coding.is_humaneval(suite):
        coded = asyncio.run(coding.measure(coding.parse(suite), options, context.settings.evaluate, context.report))
        scored, requests, length, cut, noise = coded.scored, coded.requests, coded.length, coded.cut, coded.noise
    else:
        declared = benchmarks.parse(suite)
        length = asyncio.run(_served(options, declared.serving.max_model_len))
        ran = _harness(suite, declared.benchmarks, options, store, context, declared.category, again=_AGAIN)
        scored, requests, cut, commands, noise = ran.scored, ran.requests, ran.cut, ran.commands, ran.noise
    return samples.Samples(
        suite=suite.name,
        suite_digest=suite.digest,
        subject=parameters.subject,
        engine=parameters.engine,
        max_model_len=length,
        tensor_parallel_size=parameters.tensor_parallel_size,
        benchmarks=scored,
        requests=requests,
        commands=commands,
        cut=cut,
        noise=noise,
    ).files()


async def _served(options: EvaluateOptions, needed: int) -> int:
    async with Client(options) as client:
        return await sanity.served(client, needed)


def _harness(  # noqa: PLR0917 - a suite, what it declares, and where things are
    suite: SuiteFiles,
    declared: Sequence[Benchmark],
    options: EvaluateOptions,
    store: Store,
    context: Context,
    category: str = "",
    again: int = 0,
) -> Ran:
    folder = tokenizer.materialize(options, store, context.settings, context.scratch / "tokenizer")
    return _prepared(suite, declared, folder, context, category, again).run(options, context.report)


def _prepared(  # noqa: PLR0917 - a suite, what it declares, and where things are
    suite: SuiteFiles,
    declared: Sequence[Benchmark],
    tokenizer_folder: Path | None,
    context: Context,
    category: str = "",
    again: int = 0,
) -> Harness:
    from containers.evaluate.harness.run import Harness  # the harness itself comes with it, later

    return Harness(suite, declared, category, tokenizer_folder, context.scratch / "harness", context.settings, again)


def _judge(request: StepRequest, suite: SuiteFiles, store: Store, context: Context) -> dict[str, bytes]:
    parameters = EvaluateParameters.read(request.parameters)
    sizes = Sizes(baseline=parameters.size_baseline, candidate=parameters.size_candidate)
    folders = []
    for name in ("candidate", "baseline"):
        ref = request.inputs.get(name)
        if ref is None or ref.kind is not Kind.MEASUREMENT:
            raise BadInput(f"judge needs a measurement as its input {name!r}")
        store.materialize(ref, context.scratch / name)
        folders.append(context.scratch / name)
    if of_benchmarks(suite) or coding.is_humaneval(suite):
        candidate, baseline = (samples.Samples.read(folder) for folder in folders)
        scored = samples.judge(suite, candidate, baseline, sizes)
        shown = page.render_gate(scored).encode()
        return {VERDICT_FILE: _json(scored.verdict), REPORT_FILE: _json(scored), PAGE_FILE: shown}
    loaded = suites.parse(suite)
    mine, theirs = (Measured.read(folder) for folder in folders)
    report = judge(loaded, mine, theirs, sizes)
    return {
        VERDICT_FILE: _json(report.verdict),
        REPORT_FILE: _json(report),
        PAGE_FILE: page.render(report).encode(),
    }


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
