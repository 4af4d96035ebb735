"""One step by itself, from a command line: what `carwright download`, `quantize`, `serve` and `eval` have in common.

No flow and no Prefect: a store, a launcher, services, and somebody who watches.
"""

from __future__ import annotations

import json
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
from rich.table import Table

from containers.contract import ArtifactRef, Endpoint, Kind, ResolvedSource, ServeParameters
from containers.errors import BadInput, NotReady
from containers.events import amount
from containers.oci.access import resolve
from containers.oci.reference import Reference, absolute_layout
from containers.settings import absolute
from containers.verdict import Verdict
from flows import requests, runtime
from flows.cli import terminal
from flows.cli.plan_view import plan_view
from flows.local import embedded
from flows.local.ship import source as source_of
from flows.release.report import PAGE
from infra.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from containers.contract import StepRequest, StepResult
    from flows.requests import Subject
    from flows.runtime import Runtime

_STORED = "measurement:"
_BASE = "give its base, such as http://HOST:8000/v1"


@contextmanager
def session(model: str | None, *, verbose: bool, source: bool = True) -> Iterator[tuple[str, Runtime]]:
    """A store, a launcher and a display for one command; the model, or the demo when none was named."""
    with terminal.display(verbose=verbose) as show, ExitStack() as stack:
        settings = stack.enter_context(embedded.store(absolute(Settings())))
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


def check(suite: str, *subjects: str) -> None:
    """Raises BadInput for a suite that nothing can be measured by, before a model is fetched or served for it.

    Of a suite for endpoints alone only the name is looked at: its measurement begins with the rest.
    """
    request = requests.check(suite)
    if not all(one.startswith(("http://", "https://", _STORED)) for one in subjects):
        run(request)


def measured(now: Runtime, subject: Subject, suite: str) -> ArtifactRef:
    subject = subject.fitting(suite)
    known = now.store.find(Kind.MEASUREMENT, requests.fingerprint(requests.measure(subject, suite)))
    if known is not None:
        return known.ref
    lease = now.services.start(requests.serve(subject), lambda event: now.listener("serve", event))
    try:
        return run(requests.measure(subject, suite, lease.endpoint)).outputs["measurement"]
    finally:
        lease.end()


@dataclass(frozen=True)
class Measured:
    """A measurement, and what is known of its subject: the bytes of a checkpoint, 0 where they are not known."""

    ref: ArtifactRef
    subject: Subject
    size: int = 0


def measurement(what: str, role: str, suite: str, max_model_len: int) -> Measured:
    """Measure what was named, or find it measured.

    An endpoint is measured anew each time, because nobody knows what it serves. Raises BadInput when a stored measurement
    is not there, or is not the only one.
    """
    now = runtime.current()
    if what.startswith(("http://", "https://")):
        endpoint = served_at(what)
        parameters = ServeParameters(served_model_name=endpoint.served_model_name)
        there = requests.Subject(role, f"{what} {endpoint.served_model_name} {now.run}", parameters, {})
        return Measured(run(requests.measure(there, suite, endpoint, endpoint.engine)).outputs["measurement"], there)
    if what.startswith(_STORED):
        begins = what.removeprefix(_STORED)
        found = [one.ref for one in now.store.manifests(Kind.MEASUREMENT) if one.fingerprint.startswith(begins)]
        if len(found) != 1 or not begins:
            raise BadInput(
                f"{len(found)} stored measurements begin with {begins!r}", remedy="give more of the fingerprint"
            )
        stored = requests.Subject(role, what, ServeParameters(served_model_name=role), {})
        return Measured(found[0], stored)
    named = subject(what, role, max_model_len, role=role)
    size = sum(now.store.load(ref).size for ref in named.inputs.values())
    return Measured(measured(now, named, suite), named, size)


def judged(candidate: str, baseline: str, suite: str, max_model_len: int, page: Path | None = None) -> Verdict:
    """Measure both and judge; the report's page goes to `page`."""
    before = measurement(baseline, "baseline", suite, max_model_len)
    after = measurement(candidate, "candidate", suite, max_model_len)
    result = run(requests.judge(after.ref, before.ref, after.subject, suite, (before.size, after.size)))
    if page is not None:
        store = runtime.current().store
        files = {one.path: one.sha256 for one in store.load(result.outputs["verdict"]).files}
        page.write_bytes(store.read_bytes(files[PAGE]))
    return Verdict.read(result.values)


def served_at(url: str) -> Endpoint:
    """An endpoint that somebody else serves: the model named behind a `#`, or the only one that it lists.

    Raises NotReady when nothing answers or the server says that it cannot, BadInput for everything else.
    """
    base, _, name = url.partition("#")
    base = base.rstrip("/")
    try:
        answer = httpx.get(f"{base}/models", timeout=30, trust_env=False)
    except (httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
        raise BadInput(f"not an endpoint: {base!r}", remedy=_BASE) from error
    except httpx.HTTPError as error:
        raise NotReady(
            f"{base}/models does not answer: {error}", remedy="start the server, or check the address"
        ) from error
    if answer.status_code == httpx.codes.TOO_MANY_REQUESTS or answer.is_server_error:
        raise NotReady(f"{base}/models answers with status {answer.status_code}", remedy="see the server's log")
    try:
        models = [str(one["id"]) for one in answer.raise_for_status().json()["data"]]
    except (httpx.HTTPStatusError, ValueError, KeyError, TypeError) as error:
        raise BadInput(
            f"{base} is no OpenAI-compatible endpoint: {base}/models answers with status {answer.status_code} and no list "
            "of models",
            remedy=_BASE,
        ) from error
    if not models:
        raise BadInput(f"{base} serves no model", remedy="see the server's log")
    if name and name not in models:
        raise BadInput(f"{base} serves {', '.join(models)}, and not {name!r}", remedy=f"give {base}#{models[0]}")
    if not name and len(models) > 1:
        raise BadInput(f"{base} serves {', '.join(models)}", remedy=f"name one of them: {base}#{models[0]}")
    return Endpoint(url=base, served_model_name=name or models[0], engine=f"the endpoint {base}")


def subject(what: str, name: str, max_model_len: int, role: str = "candidate") -> Subject:
    """A modelcar by reference or a model source, ready to be served."""
    if what.startswith(("hf://", "file://", "s3://")):
        source, ref = checkpoint(what, None)
        return requests.Subject.checkpoint(
            role, ref, name or source.source.rstrip("/").rpartition("/")[2], max_model_len
        )
    if not what.startswith("oci:") and ("/" not in what or Path(what).exists()):
        raise BadInput(
            f"{what!r} is neither a reference nor a model source nor an endpoint",
            remedy=f"a folder is file://{Path(what).resolve()}"
            if Path(what).is_dir()
            else "write hf://org/name, file:///dir, registry/repository:tag, oci:DIR:TAG or http://HOST:PORT/v1",
        )
    what = absolute_layout(what)
    digest = resolve(what, runtime.current().settings)
    pinned = replace(Reference.parse(what), tag="", digest=digest)
    served = name or (pinned.layout.name if pinned.layout else pinned.repository.rpartition("/")[2])
    parameters = ServeParameters(reference=str(pinned), served_model_name=served, max_model_len=max_model_len)
    return requests.Subject(role, str(digest), parameters, {})
