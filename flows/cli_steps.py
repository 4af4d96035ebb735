"""The steps one by one: `carwright download`, `quantize`, `serve` and `eval`, without a flow and without Prefect."""

from __future__ import annotations

import time
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from containers.contract import (
    ArtifactRef,
    Kind,
    QuantizeOptions,
    QuantizeParameters,
    ResolvedSource,
    ServeParameters,
    Verdict,
)
from containers.errors import GateInconclusive, GateRefused
from containers.events import amount
from containers.settings import Settings
from flows import embedded, requests, runtime, terminal
from flows.ship import source as source_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from containers.contract import StepRequest, StepResult
    from flows.requests import Subject
    from flows.runtime import Runtime

app = typer.Typer()

Model = Annotated[
    str | None,
    typer.Argument(
        help="hf://org/name, file:///dir or s3://bucket/prefix. Without it: the demo model.", show_default=False
    ),
]
Revision = Annotated[str | None, typer.Option(help="Branch, tag or commit on the hub.")]
Output = Annotated[Path | None, typer.Option("--output", "-o", help="Also write the files into this folder.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Show what the libraries print, too.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON document on standard output.")]
MaxModelLen = Annotated[int, typer.Option(help="Tokens of context.")]


@contextmanager
def _session(model: str | None, *, verbose: bool, source: bool = True) -> Iterator[tuple[str, Runtime]]:
    """A store, a launcher and a display for one command; the model, or the demo when none was named."""
    with terminal.display(verbose=verbose) as show, ExitStack() as stack:
        settings = stack.enter_context(embedded.store(Settings()))
        if source:
            model, settings = source_of(model, settings, stack, show)
        run = datetime.now(UTC).strftime("%Y%m%dT%H%M%S")
        yield model or "", stack.enter_context(runtime.use(runtime.on_this_machine(settings, show, run)))


def _run(request: StepRequest) -> StepResult:
    now = runtime.current()
    return now.launcher.run(request, lambda event: now.listener(request.step.value, event))


def _checkpoint(model: str, revision: str | None) -> tuple[ResolvedSource, ArtifactRef]:
    source = ResolvedSource.read(_run(requests.resolve(model, revision)).values)
    return source, _run(requests.download(source)).outputs["checkpoint"]


def _show_artifact(ref: ArtifactRef, output: Path | None, *, as_json: bool) -> None:
    store = runtime.current().store
    manifest = store.load(ref)
    if output is not None:
        store.materialize(ref, output)
    if as_json:
        print(manifest.model_dump_json(indent=2))
        return
    table = Table("file", "size", "sha256", box=None, padding=(0, 2))
    for file in manifest.files:
        table.add_row(file.path, amount(file.size, "B"), file.sha256.short)
    terminal.out.print(table)
    terminal.out.print(f"{ref.kind} {ref.digest}" + (f", written to {output}" if output else ""))


@app.command()
def download(
    model: Model = None, revision: Revision = None, output: Output = None, json_: Json = False, verbose: Verbose = False
) -> None:
    """Bring a checkpoint into the store: safetensors only, every file verified, a broken transfer resumed."""
    with _session(model, verbose=verbose) as (name, _):
        _, ref = _checkpoint(name, revision)
        _show_artifact(ref, output, as_json=json_)


@app.command()
def quantize(  # noqa: PLR0917 - typer makes options of them
    model: Model = None,
    revision: Revision = None,
    scheme: Annotated[str, typer.Option(help="How weights and activations are quantized.")] = "FP8_DYNAMIC",
    ignore: Annotated[
        list[str] | None, typer.Option(help="Module names to leave alone; a regular expression begins with re:.")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    output: Output = None,
    json_: Json = False,
    verbose: Verbose = False,
) -> None:
    """Quantize a checkpoint with llm-compressor's arithmetic, shard by shard; a killed run goes on where it stopped."""
    with _session(model, verbose=verbose) as (name, _):
        _, checkpoint = _checkpoint(name, revision)
        recipe = QuantizeParameters(scheme=scheme, **({"ignore": tuple(ignore)} if ignore else {}))
        result = _run(requests.quantize(checkpoint, recipe, QuantizeOptions(device=device)))
        _show_artifact(result.outputs["checkpoint"], output, as_json=json_)


@app.command()
def serve(
    what: Annotated[
        str,
        typer.Argument(help="A modelcar by reference (oci:DIR@sha256:..., registry/repository:tag) or a model source."),
    ],
    port: Annotated[int, typer.Option(help="Port on loopback; 0 takes a free one.")] = 8000,
    name: Annotated[str, typer.Option(help="Name that requests must give.", show_default="from the reference")] = "",
    max_model_len: MaxModelLen = 2048,
    verbose: Verbose = False,
) -> None:
    """Serve a modelcar or a checkpoint with vLLM on this machine, until Ctrl-C."""
    with _session(what, verbose=verbose, source=False) as (_, now):
        subject = _subject(what, name, max_model_len)
        lease = now.services.start(requests.serve(subject, port=port), lambda event: now.listener("serve", event))
        try:
            terminal.out.print(f"serving {lease.endpoint.served_model_name} at {lease.endpoint.url}  (Ctrl-C ends it)")
            terminal.out.print(
                f"  curl {lease.endpoint.url}/chat/completions -H 'Content-Type: application/json' -d "
                f"""'{{"model": "{lease.endpoint.served_model_name}", "messages": [{{"role": "user", "content": "Hello"}}]}}'"""
            )
            while True:
                time.sleep(3600)
        finally:
            lease.end()


@app.command(name="eval")
def evaluate(  # noqa: PLR0917 - typer makes options of them
    candidate: Annotated[str, typer.Argument(help="A modelcar by reference, or a model source.")],
    baseline: Annotated[str, typer.Option(help="What it is compared with: a model source or another modelcar.")],
    suite: Annotated[str, typer.Option(help="The suite to measure and judge by.")] = "smoke",
    max_model_len: MaxModelLen = 2048,
    json_: Json = False,
    verbose: Verbose = False,
) -> None:
    """Measure a candidate against its baseline, both served by vLLM, and judge. Exits 3 when it is refused."""
    with _session(candidate, verbose=verbose, source=False) as (_, now):
        before = _measured(now, _subject(baseline, "baseline", max_model_len, role="baseline"), suite)
        subject = _subject(candidate, "candidate", max_model_len)
        after = _measured(now, subject, suite)
        verdict = Verdict.read(_run(requests.judge(after, before, subject, suite)).values)
        if json_:
            print(verdict.model_dump_json(indent=2))
        else:
            table = Table("measure", "value", box=None, padding=(0, 2))
            for measure, value in verdict.measures.items():
                table.add_row(measure, f"{value:.4g}")
            terminal.out.print(table)
            terminal.out.print(f"{verdict.decision.upper()}: " + "; ".join(verdict.reasons))
    if verdict.decision == "refuse":
        raise GateRefused(f"{candidate} was refused by {suite}")
    if verdict.decision == "inconclusive":
        raise GateInconclusive(f"{suite} could not decide about {candidate}")


def _measured(now: Runtime, subject: Subject, suite: str) -> ArtifactRef:
    known = now.store.find(Kind.MEASUREMENT, requests.fingerprint(requests.measure(subject, suite)))
    if known is not None:
        return known.ref
    lease = now.services.start(requests.serve(subject), lambda event: now.listener("serve", event))
    try:
        return _run(requests.measure(subject, suite, lease.endpoint)).outputs["measurement"]
    finally:
        lease.end()


def _subject(what: str, name: str, max_model_len: int, role: str = "candidate") -> Subject:
    """A modelcar by reference or a model source, ready to be served."""
    if what.startswith(("hf://", "file://", "s3://")):
        source, ref = _checkpoint(what, None)
        return requests.Subject.checkpoint(
            role, ref, name or source.source.rstrip("/").rpartition("/")[2], max_model_len
        )
    from containers.oci.access import resolve
    from containers.oci.reference import Reference

    digest = resolve(what, runtime.current().settings)
    pinned = replace(Reference.parse(what), tag="", digest=digest)
    served = name or (pinned.layout.name if pinned.layout else pinned.repository.rpartition("/")[2])
    parameters = ServeParameters(reference=str(pinned), served_model_name=served, max_model_len=max_model_len)
    return requests.Subject(role, str(digest), parameters, {})
