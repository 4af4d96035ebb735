"""One step by itself, from a command line: what `carwright download`, `quantize`, `serve` and `eval` have in common.

No flow and no Prefect: a store, a launcher, services, and somebody who watches.
"""

from __future__ import annotations

import json
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from rich.table import Table

from containers.contract import ArtifactRef, Kind, ResolvedSource, ServeParameters
from containers.events import amount
from containers.oci.access import resolve
from containers.oci.reference import Reference
from containers.settings import Settings
from flows import embedded, requests, runtime, terminal
from flows.plan import plan_view
from flows.ship import source as source_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from containers.contract import StepRequest, StepResult
    from flows.requests import Subject
    from flows.runtime import Runtime


@contextmanager
def session(model: str | None, *, verbose: bool, source: bool = True) -> Iterator[tuple[str, Runtime]]:
    """A store, a launcher and a display for one command; the model, or the demo when none was named."""
    with terminal.display(verbose=verbose) as show, ExitStack() as stack:
        settings = stack.enter_context(embedded.store(Settings()))
        if source:
            model, settings = source_of(model, settings, stack, show)
        run = datetime.now(UTC).strftime("%Y%m%dT%H%M%S")
        yield model or "", stack.enter_context(runtime.use(runtime.open_runtime(settings, show, run)))


def run(request: StepRequest) -> StepResult:
    now = runtime.current()
    return now.launcher.run(request, lambda event: now.listener(request.step.value, event))


def checkpoint(model: str, revision: str | None) -> tuple[ResolvedSource, ArtifactRef]:
    source = ResolvedSource.read(run(requests.resolve(model, revision)).values)
    return source, run(requests.download(source)).outputs["checkpoint"]


def show_artifact(ref: ArtifactRef, output: Path | None, *, as_json: bool) -> None:
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


def show_plan(result: StepResult, *, as_json: bool) -> None:
    plan = result.values["plan"]
    if as_json:
        print(json.dumps(plan, indent=2))
    elif isinstance(plan, dict):
        terminal.out.print(plan_view(plan))


def measured(now: Runtime, subject: Subject, suite: str) -> ArtifactRef:
    known = now.store.find(Kind.MEASUREMENT, requests.fingerprint(requests.measure(subject, suite)))
    if known is not None:
        return known.ref
    lease = now.services.start(requests.serve(subject), lambda event: now.listener("serve", event))
    try:
        return run(requests.measure(subject, suite, lease.endpoint)).outputs["measurement"]
    finally:
        lease.end()


def subject(what: str, name: str, max_model_len: int, role: str = "candidate") -> Subject:
    """A modelcar by reference or a model source, ready to be served."""
    if what.startswith(("hf://", "file://", "s3://")):
        source, ref = checkpoint(what, None)
        return requests.Subject.checkpoint(
            role, ref, name or source.source.rstrip("/").rpartition("/")[2], max_model_len
        )
    digest = resolve(what, runtime.current().settings)
    pinned = replace(Reference.parse(what), tag="", digest=digest)
    served = name or (pinned.layout.name if pinned.layout else pinned.repository.rpartition("/")[2])
    parameters = ServeParameters(reference=str(pinned), served_model_name=served, max_model_len=max_model_len)
    return requests.Subject(role, str(digest), parameters, {})
