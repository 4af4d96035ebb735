"""Runs steps without a flow and without Prefect, for `carwright download`, `quantize`, `serve`, `eval` and `compare`."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from containers.contract import ArtifactRef, Kind, QuantizeOptions, ResolvedSource, ServeParameters
from containers.errors import BadInput
from containers.oci.access import resolve
from containers.oci.reference import Reference, absolute_layout
from containers.settings import absolute
from containers.verdict import PAGE_FILE, Verdict
from flows import endpoint, measuring
from flows.local import embedded
from flows.requests import Subject, fingerprint
from flows.runtime import open_runtime

if TYPE_CHECKING:
    from collections.abc import Iterator

    from containers.contract import QuantizeParameters, StepRequest, StepResult
    from containers.store import Store
    from flows.requests import Requests
    from flows.runners.service import Lease
    from flows.runtime import Listener, Runtime
    from infra.settings import Settings

_STORED = "measurement:"
_URL = ("http://", "https://")


@contextmanager
def open_session(settings: Settings, listener: Listener) -> Iterator[Session]:
    """A session with the store of the settings or the embedded one."""
    with embedded.store(absolute(settings)) as started:
        run = datetime.now(UTC).strftime("%Y%m%dT%H%M%S")
        yield Session(open_runtime(started, listener, run))


@dataclass(frozen=True)
class MeasuredSubject:
    """A measurement and its subject; `size` is that of the checkpoint in bytes, 0 if unknown."""

    ref: ArtifactRef
    subject: Subject
    size: int = 0


@dataclass(frozen=True)
class Session:
    """Runs single steps for one command."""

    runtime: Runtime

    @property
    def requests(self) -> Requests:
        return self.runtime.requests

    @property
    def store(self) -> Store:
        return self.runtime.store

    def run(self, request: StepRequest) -> StepResult:
        return self.runtime.launcher.run(request, lambda event: self.runtime.listener(request.step.value, event))

    def download(self, model: str, revision: str | None = None) -> tuple[ResolvedSource, ArtifactRef]:
        source = ResolvedSource.read(self.run(self.requests.resolve(model, revision)).values)
        return source, self.run(self.requests.download(source)).outputs["checkpoint"]

    def quantize(self, checkpoint: ArtifactRef, recipe: QuantizeParameters, device: str = "auto") -> StepResult:
        """Quantize a checkpoint, or plan it when the recipe's action says so."""
        return self.run(self.requests.quantize(checkpoint, recipe, QuantizeOptions(device=device)))

    @contextmanager
    def serve(self, subject: Subject, *, port: int = 0) -> Iterator[Lease]:
        """Serve the subject for the length of the block."""
        request = self.requests.serve(subject, port=port)
        lease = self.runtime.services.start(request, lambda event: self.runtime.listener("serve", event))
        try:
            yield lease
        finally:
            lease.end()

    def check(self, suite: str, *subjects: str) -> None:
        """Raises BadInput for an unusable suite, before a model is fetched or served for it.

        If all subjects are endpoints or stored measurements, only the suite's name is checked here.
        """
        request = self.requests.check(suite)
        if not all(one.startswith((*_URL, _STORED)) for one in subjects):
            self.run(request)

    def measure(self, what: str, role: str, suite: str, max_model_len: int) -> MeasuredSubject:
        """Measure a modelcar, a model source or an endpoint, or find the stored measurement.

        An endpoint is measured every time, because what it serves may have changed. Raises BadInput for a stored
        measurement that does not exist or is ambiguous.
        """
        if what.startswith(_URL):
            return self._measure_endpoint(what, role, suite)
        if what.startswith(_STORED):
            subject = Subject(role, what, ServeParameters(served_model_name=role), {})
            return MeasuredSubject(self._find_measurement(what.removeprefix(_STORED)), subject)
        subject = self.subject(what, role, max_model_len, role=role)
        ref, _ = measuring.measure(
            subject, suite, requests=self.requests, store=self.store, run=self._measure, serve=self.serve
        )
        return MeasuredSubject(ref, subject, sum(self.store.load(one).size for one in subject.inputs.values()))

    def _measure_endpoint(self, url: str, role: str, suite: str) -> MeasuredSubject:
        served = endpoint.find(url, self.runtime.settings.http)
        parameters = ServeParameters(served_model_name=served.served_model_name)
        subject = Subject(role, f"{url} {served.served_model_name} {self.runtime.run}", parameters, {})
        request = self.requests.measure(subject, suite, served, served.server)
        return MeasuredSubject(self.run(request).outputs["measurement"], subject)

    def _find_measurement(self, prefix: str) -> ArtifactRef:
        found = [one.ref for one in self.store.manifests(Kind.MEASUREMENT) if one.fingerprint.startswith(prefix)]
        if len(found) != 1 or not prefix:
            raise BadInput(
                f"{len(found)} stored measurements begin with {prefix!r}", remedy="give more of the fingerprint"
            )
        return found[0]

    def _measure(self, request: StepRequest) -> ArtifactRef:
        known = self.store.find(Kind.MEASUREMENT, fingerprint(request))
        return known.ref if known is not None else self.run(request).outputs["measurement"]

    def judge(self, candidate: str, baseline: str, suite: str, max_model_len: int, page: Path | None = None) -> Verdict:
        """Measure both and judge; writes the report to `page`."""
        before = self.measure(baseline, "baseline", suite, max_model_len)
        after = self.measure(candidate, "candidate", suite, max_model_len)
        result = self.run(self.requests.judge(after.ref, before.ref, after.subject, suite, (before.size, after.size)))
        if page is not None:
            files = {one.path: one.sha256 for one in self.store.load(result.outputs["verdict"]).files}
            page.write_bytes(self.store.read_bytes(files[PAGE_FILE]))
        return Verdict.read(result.values)

    def subject(self, what: str, name: str, max_model_len: int, role: str = "candidate") -> Subject:
        """A modelcar by reference or a model source, ready to be served."""
        if what.startswith(("hf://", "file://", "s3://")):
            source, ref = self.download(what)
            return Subject.checkpoint(role, ref, name or source.source.rstrip("/").rpartition("/")[2], max_model_len)
        if not what.startswith("oci:") and ("/" not in what or Path(what).exists()):
            raise BadInput(
                f"{what!r} is neither a reference nor a model source nor an endpoint",
                remedy=f"a folder is file://{Path(what).resolve()}"
                if Path(what).is_dir()
                else "write hf://org/name, file:///dir, registry/repository:tag, oci:DIR:TAG or http://HOST:PORT/v1",
            )
        what = absolute_layout(what)
        digest = resolve(what, self.runtime.settings)
        pinned = replace(Reference.parse(what), tag="", digest=digest)
        served = name or (pinned.layout.name if pinned.layout else pinned.repository.rpartition("/")[2])
        parameters = ServeParameters(reference=str(pinned), served_model_name=served, max_model_len=max_model_len)
        return Subject(role, str(digest), parameters, {})
