"""Runs steps without a flow and without Prefect, for `carwright download`, `quantize`, `serve`, `eval` and `compare`."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from containers import suites
from containers.contract import ArtifactRef, Kind
from containers.errors import BadInput
from containers.events import Event
from containers.oci.access import resolve
from containers.oci.reference import Reference, absolute_layout
from containers.parameters import QuantizeOptions, ResolvedSource, ServeParameters
from containers.settings import absolute
from containers.verdict import PAGE_FILE, Verdict
from flows import measuring
from flows.local import embedded
from flows.requests import Subject, fingerprint
from flows.runtime import open_runtime
from flows.sequential_looks import until_decided
from flows.serving import endpoint, endpoint_probe, load_format, machine, parsers
from flows.serving.plan import ServicePlan, model_facts, plan
from flows.targets.model import read_config
from infra.environments.device import check as check_device

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from containers.contract import StepRequest, StepResult
    from containers.parameters import QuantizeParameters
    from containers.store import Store
    from flows.admission import Admitted
    from flows.requests import Requests
    from flows.runners.service import Lease
    from flows.runtime import Listener, Runtime
    from flows.ship_request import ServingOptions
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
class Located:
    """A model that is found and not fetched: a source at its commit, or a modelcar by digest; how it is called and served."""

    role: str
    name: str
    plan: ServicePlan
    serving: ServingOptions
    source: ResolvedSource | None = None
    reference: Reference | None = None


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
    _checked: set[tuple[str, ...]] = field(default_factory=set)  # arguments for vLLM that it takes

    @property
    def requests(self) -> Requests:
        return self.runtime.requests

    @property
    def store(self) -> Store:
        return self.runtime.store

    def run(self, request: StepRequest) -> StepResult:
        return self.runtime.launcher.run(request, lambda event: self.runtime.listener(request.step.value, event))

    def download(self, model: str, revision: str | None = None) -> tuple[ResolvedSource, ArtifactRef]:
        source = self._resolve(model, revision)
        return source, self.run(self.requests.download(source)).outputs["checkpoint"]

    def _resolve(self, model: str, revision: str | None = None) -> ResolvedSource:
        return ResolvedSource.read(self.run(self.requests.resolve(model, revision)).values)

    def quantize(self, checkpoint: ArtifactRef, recipe: QuantizeParameters, device: str = "auto") -> StepResult:
        """Quantize a checkpoint, or plan it when the recipe's action says so."""
        return self.run(self.requests.quantize(checkpoint, recipe, QuantizeOptions(device=device)))

    @contextmanager
    def serve(self, subject: Subject, *, port: int = 0, admitted: Admitted | None = None) -> Iterator[Lease]:
        """Serve the subject for the length of the block."""
        request = self.requests.serve(subject, port=port, admitted=admitted)
        lease = self.runtime.services.start(request, lambda event: self.runtime.listener("serve", event))
        try:
            yield lease
        finally:
            lease.end()

    def check(self, suite: str, *subjects: str) -> None:
        """Raises BadInput for an unusable suite or device, before a model is fetched or served for it.

        If all subjects are endpoints or stored measurements, only the suite's name is checked here.
        """
        request = self.requests.check(suite)
        if not all(one.startswith((*_URL, _STORED)) for one in subjects):
            self.check_device()
            self.run(request)

    def check_device(self) -> None:
        """Say why GPUs go unused; raises BadInput for a device that cannot be used."""
        check_device(self.runtime.settings, self._say)

    def _say(self, text: str) -> None:
        self.runtime.listener("carwright", Event(event="log", message=text))

    def measure(
        self, what: str | Located, role: str, suite: str, serving: ServingOptions, *, look: int = 0
    ) -> MeasuredSubject:
        """Measure a modelcar, a model source or an endpoint, or find the stored measurement. `look` is one after the first, in a
        suite with looks.

        An endpoint is measured every time, because what it serves may have changed. Raises BadInput for a stored
        measurement that does not exist or is ambiguous.
        """
        found = self._located(what, role, suite, serving) if isinstance(what, str) else what
        if isinstance(found, str):
            if found.startswith(_URL):
                return self._measure_endpoint(found, role, suite, serving, look)
            subject = Subject(role, found, ServeParameters(served_model_name=role), {})
            return MeasuredSubject(self._find_measurement(found.removeprefix(_STORED)), subject)
        subject = self.fetch(found)
        ref, _ = measuring.measure(
            subject, suite, requests=self.requests, store=self.store, run=self._measure, serve=self.serve, look=look
        )
        return MeasuredSubject(ref, subject, sum(self.store.load(one).size for one in subject.inputs.values()))

    def _located(self, what: str, role: str, suite: str, serving: ServingOptions) -> str | Located:
        """The model, located and planned for the suite; what is served or measured already stays a text."""
        if what.startswith((*_URL, _STORED)):
            return what
        files = suites.read(suite)
        length = max(serving.max_model_len, files.max_model_len)
        return self.locate(what, role, length, serving, role=role, needed=files.parsers)

    def _measure_endpoint(self, url: str, role: str, suite: str, serving: ServingOptions, look: int) -> MeasuredSubject:
        settings = self.runtime.settings
        how = (settings.http, settings.evaluate)
        served = endpoint.find(url, *how)
        endpoint_probe.check_replicas(served, *how)
        if look < 2:  # else it was said before
            for lack in endpoint_probe.features(served, *how).missing:
                self._say(f"{served.url} lacks {lack}")
            for text in parsers.unseen(served.url, suites.read(suite).parsers):
                self._say(text)
        parameters = ServeParameters(served_model_name=served.served_model_name)
        subject = Subject(
            role,
            f"{url} {served.served_model_name} {self.runtime.run}",
            parameters,
            {},
            concurrency=serving.concurrency,
        )
        request = self.requests.measure(subject, suite, served, served.server, look=look)
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

    def judge(
        self, candidate: str, baseline: str, suite: str, serving: ServingOptions, page: Path | None = None
    ) -> Verdict:
        """Measure both and judge; writes the report to `page`. Nothing is fetched before it is known that both fit.

        What the verdict leaves open is measured further if the suite has looks, unless a stored measurement was given.
        """
        found = {
            role: self._located(what, role, suite, serving)
            for role, what in (("baseline", baseline), ("candidate", candidate))
        }
        stored = any(isinstance(one, str) and one.startswith(_STORED) for one in found.values())
        if not stored and suites.read(suite).measures_speed:
            machine.check_alike(*(_plan_of(role, one) for role, one in found.items()))

        def measure(look: int) -> tuple[MeasuredSubject, MeasuredSubject]:
            theirs, mine = (
                self.measure(found[role], role, suite, serving, look=look) for role in ("baseline", "candidate")
            )
            return mine, theirs

        def judge(looks: list[tuple[MeasuredSubject, MeasuredSubject]]) -> tuple[Verdict, StepResult]:
            mine, theirs = looks[0]
            refs = [(one.ref, other.ref) for one, other in looks]
            result = self.run(self.requests.judge(refs, mine.subject, suite, (theirs.size, mine.size)))
            return Verdict.read(result.values), result

        first = measure(0)
        verdict, result = judge([first]) if stored else until_decided(first, judge=judge, measure=measure)
        if page is not None:
            files = {one.path: one.sha256 for one in self.store.load(result.outputs["verdict"]).files}
            page.write_bytes(self.store.read_bytes(files[PAGE_FILE]))
        return verdict

    def locate(
        self,
        what: str,
        name: str,
        length: int,
        serving: ServingOptions,
        *,
        role: str = "candidate",
        needed: Sequence[str] | None = None,
    ) -> Located:
        """Find a modelcar by reference or a model source, and plan how it is served, for `length` tokens at least.

        `needed` are the parsers that a suite needs, None for a model that is served for people.
        Raises BadInput for what is neither, and for a model that fits nowhere.
        """
        if what.startswith(("hf://", "file://", "s3://")):
            source = self._resolve(what)
            plan = self._plan(role, source.config, source.weights, length, serving)
            plan = plan.saying(self._arguments(source.config, serving, needed))
            return Located(role, name or source.source.rstrip("/").rpartition("/")[2], plan, serving, source=source)
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
        config, weights = read_config(str(pinned), self.runtime.settings)
        plan = self._plan(role, config, weights, length, serving)
        plan = plan.saying(self._arguments(config, serving, needed))
        return Located(role, served, plan, serving, reference=pinned)

    def _plan(
        self, role: str, config: Mapping[str, Any], weights: int, length: int, serving: ServingOptions
    ) -> ServicePlan:
        settings = self.runtime.settings
        gpus = machine.gpus(settings, lambda line: self._say(f"plan: {line}"))
        if not gpus:
            machine.check_memory(config, weights, settings, length)
        concurrency = serving.concurrency or settings.evaluate.concurrency
        made = plan(role, model_facts(config, weights), gpus, serving, length, concurrency=concurrency)
        made = load_format.chosen(made, gpus, serving.vllm_argument, settings)
        made = made.model_copy(update={"hardware": machine.hardware(settings, made)})
        self._say(f"plan: {made}")
        return made

    def _arguments(
        self, config: Mapping[str, Any], serving: ServingOptions, needed: Sequence[str] | None
    ) -> tuple[str, ...]:
        """The arguments for vLLM. It is asked whether it takes those that a person gave: what is known of a model needs no question."""
        arguments = parsers.arguments(config, serving, needed)
        given = serving.vllm_argument or serving.tool_call_parser or serving.reasoning_parser
        if given and arguments and arguments not in self._checked:
            self.run(self.requests.check_arguments(arguments))
            self._checked.add(arguments)
        return arguments

    def fetch(self, found: Located) -> Subject:
        """What was located, ready to be served: a source is downloaded into the store."""
        if found.source is not None:
            ref = self.run(self.requests.download(found.source)).outputs["checkpoint"]
            subject = Subject.checkpoint(found.role, ref, found.name)
        else:
            assert found.reference is not None
            parameters = ServeParameters(reference=str(found.reference), served_model_name=found.name)
            subject = Subject(found.role, str(found.reference.digest), parameters, {})
        return subject.planned(found.plan, found.serving)


def _plan_of(role: str, found: str | Located) -> ServicePlan:
    """How a model is served that was located, or that is at an endpoint."""
    return found.plan if isinstance(found, Located) else ServicePlan(role=role, max_model_len=0, endpoint=found)
