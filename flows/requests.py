"""Makes the requests of the chain, one method per step; nothing here knows Prefect.

The flow wraps them in tasks (`flows.steps`); the command line runs them directly (`flows.local.session`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from containers import suites
from containers.contract import ArtifactRef, Step, StepRequest, StoreLocation
from containers.fingerprints import VLLM_DISTRIBUTIONS, fingerprint_inputs, locked_vllm
from containers.interpreter import versions
from containers.parameters import (
    DownloadOptions,
    DownloadParameters,
    PushOptions,
    PushParameters,
    QuantizeOptions,
    QuantizeParameters,
    ServeOptions,
    ServeParameters,
)
from flows.runners.backends import BACKENDS
from flows.runners.step_container import image_name, serving_target
from infra.environments.device import device

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from containers.contract import Values
    from containers.parameters import Endpoint, PushedImage, ResolvedSource
    from containers.suites import SuiteFiles
    from flows.admission import Admitted
    from flows.serving.plan import ServicePlan
    from flows.ship_request import ServingOptions
    from infra.settings import Settings


LOAD_LEVELS: Final = (1, 16, 128)  # requests at once: a person's, a team's, and what the machine gives at most


def fingerprint(request: StepRequest) -> str:
    """The fingerprint of the artifact that a pure step makes for this request."""
    return request.fingerprint(fingerprint_inputs(request.step, request.parameters.get("action")))


@dataclass(frozen=True)
class Subject:
    """Something that can be served and measured: a modelcar by digest, or a checkpoint of the store.

    `tokenizer` is the checkpoint that a modelcar was made from, if the store has it. `devices` are the GPUs to serve on,
    `load_format` how vLLM reads the weights (`flows.serving.load_format`) and `concurrency` the requests at once to measure with; empty
    and 0 leave them to the machine, vLLM and the settings. What somebody else serves has an `endpoint` and the name of its
    `server`. `hardware` is what it will be served on, empty where that is not known.
    """

    role: str
    digest: str
    parameters: ServeParameters
    inputs: dict[str, ArtifactRef]
    tokenizer: ArtifactRef | None = None
    devices: tuple[str, ...] = ()
    load_format: str = ""
    concurrency: int = 0
    endpoint: str = ""
    server: str = ""
    hardware: str = ""

    @classmethod
    def checkpoint(cls, role: str, ref: ArtifactRef, name: str, max_model_len: int = 0) -> Subject:
        parameters = ServeParameters(served_model_name=name, max_model_len=max_model_len)
        return cls(role, str(ref.digest), parameters, {"checkpoint": ref}, tokenizer=ref)

    @classmethod
    def modelcar(cls, role: str, image: PushedImage, name: str, tokenizer: ArtifactRef | None = None) -> Subject:
        parameters = ServeParameters(reference=image.reference, served_model_name=name)
        return cls(role, str(image.digest), parameters, {}, tokenizer=tokenizer)

    def planned(self, plan: ServicePlan, wanted: ServingOptions) -> Subject:
        """The same subject, served as planned."""
        parameters = self.parameters.model_copy(
            update={
                "max_model_len": plan.max_model_len,
                "tensor_parallel_size": plan.tensor_parallel_size,
                "pipeline_parallel_size": plan.pipeline_parallel_size,
                "gpu_memory_utilization": plan.gpu_memory_utilization,
                "arguments": plan.arguments,
            }
        )
        return replace(
            self,
            parameters=parameters,
            devices=plan.gpus,
            load_format=plan.load_format,
            concurrency=wanted.concurrency,
            endpoint=plan.endpoint,
            server=plan.server,
            hardware=plan.hardware,
        )

    def fitting(self, suite: str) -> Subject:
        """The same subject, served with at least the context length that the suite needs."""
        length = max(self.parameters.max_model_len, suites.read(suite).max_model_len)
        return replace(self, parameters=self.parameters.model_copy(update={"max_model_len": length}))


def inference_server(settings: Settings, parameters: ServeParameters | None = None) -> str:
    """Name and version of the inference server, and the arguments that a user has given it.

    A measurement is named by it, so a CPU's baseline never meets a GPU's answers.
    """
    name = _server_name(settings)
    if parameters is None:
        return name
    split = (
        [f"--pipeline-parallel-size={parameters.pipeline_parallel_size}"]
        if parameters.pipeline_parallel_size > 1
        else []
    )
    return " ".join([name, *split, *parameters.arguments])


def _server_name(settings: Settings) -> str:
    if settings.serve.engine:
        return settings.serve.engine
    if settings.placement.serve:
        return f"vllm by {settings.placement.serve}"
    images = BACKENDS[settings.launcher].images(settings)
    if images is None and settings.serve.python is not None:
        return _vllm_of(settings.serve.python)
    if images is None:
        return locked_vllm(cuda=device(settings) == "cuda")
    on_gpus = bool(settings.resources.of(Step.SERVE).gpus)
    if on_gpus and serving_target(settings) == "serve":  # whose version its builder knows
        return f"vllm of {image_name(images, Step.SERVE, settings)}"
    return locked_vllm(cuda=on_gpus)


def _vllm_of(python: Path) -> str:
    return " ".join(next(iter(versions(python, VLLM_DISTRIBUTIONS).items()), ("vllm", "of unknown version")))


@dataclass(frozen=True)
class Requests:
    """Makes the requests of one run: `run` identifies it, `store` is where its artifacts are.

    `keep` puts bytes there that are too many for a request; without it requests carry them.
    """

    run: str
    store: StoreLocation
    settings: Settings
    keep: Callable[[bytes], object] | None = None

    def resolve(self, model: str, revision: str | None = None) -> StepRequest:
        source = f"{model}@{revision}" if revision else model
        return self._request(Step.DOWNLOAD, DownloadParameters(action="resolve", source=source))

    def download(self, source: ResolvedSource, *, announce: bool = False) -> StepRequest:
        options = DownloadOptions(revision=source.revision or "", announce=announce)
        return self._request(Step.DOWNLOAD, DownloadParameters(source=source.pinned), options=options)

    def quantize(self, checkpoint: ArtifactRef, recipe: QuantizeParameters, options: QuantizeOptions) -> StepRequest:
        return self._request(Step.QUANTIZE, recipe, {"checkpoint": checkpoint}, self._on_device(options))

    def quantize_during_download(
        self, source: ResolvedSource, recipe: QuantizeParameters, *, announce: str = ""
    ) -> StepRequest:
        """Quantize the shards of a source while it downloads."""
        options = QuantizeOptions(arriving=fingerprint(self.download(source)), announce=announce)
        return self._request(Step.QUANTIZE, recipe, options=self._on_device(options))

    def _on_device(self, options: QuantizeOptions) -> QuantizeOptions:
        """With the device of the settings: a torch of the user's own would find GPUs that are not to be used."""
        local = self.settings.launcher == "process" and not self.settings.placement.quantize
        unsaid = options.device == "auto" and not options.devices
        if local and unsaid and self.settings.device == "cpu":
            return options.model_copy(update={"device": "cpu"})
        return options

    def plan(self, recipe: QuantizeParameters, options: QuantizeOptions) -> StepRequest:
        """Plan the quantization of the checkpoint in the folder that the options name."""
        return self._request(Step.QUANTIZE, recipe, options=options)

    def push(self, checkpoint: ArtifactRef, parameters: PushParameters, options: PushOptions) -> StepRequest:
        return self._request(Step.PUSH, parameters, {"checkpoint": checkpoint}, options)

    def push_layers(self, target: PushParameters, feed: str) -> StepRequest:
        """Push the layers of shards whose quantization publishes them in the feed."""
        parameters = PushParameters(action="push-layers", target=target.target)
        return self._request(Step.PUSH, parameters, options=PushOptions(arriving=feed))

    def promote(
        self,
        reference: str,
        verdict: ArtifactRef,
        card: ArtifactRef | None,
        tags: tuple[str, ...],
        options: PushOptions,
    ) -> StepRequest:
        parameters = PushParameters(action="promote", reference=reference, tags=tags)
        inputs = {"verdict": verdict, **({"card": card} if card is not None else {})}
        return self._request(Step.PUSH, parameters, inputs, options)

    def serve(self, subject: Subject, *, port: int = 0, admitted: Admitted | None = None) -> StepRequest:
        """`admitted` is a policy that the model has passed: the step checks it again, and the files as they lie there."""
        timeout = self.settings.serve.ready_timeout
        how = {"devices": subject.devices, "load_format": subject.load_format}
        options = ServeOptions(port=port, ready_timeout=timeout, **how)
        if admitted is not None:
            options = options.model_copy(update={"policy": admitted.policy.dump(), "files": admitted.trusted.files})
        return self._request(Step.SERVE, subject.parameters, subject.inputs, options)

    def check_arguments(self, arguments: tuple[str, ...]) -> StepRequest:
        """Check whether the vLLM that would serve takes these arguments."""
        parameters = ServeParameters(action="check", served_model_name="none", arguments=arguments)
        return self._request(Step.SERVE, parameters, options=ServeOptions(stage="serve"))  # which gets no secrets

    def measure(
        self, subject: Subject, suite: str, endpoint: Endpoint | None = None, server: str = "", *, look: int = 0
    ) -> StepRequest:
        """Without an endpoint the request serves to look up a stored measurement. `server` names one that Carwright did not start;
        `look` is one after the first, in a suite with looks.
        """
        files = suites.read(suite)
        parameters = files.parameters(
            action="measure",
            subject=subject.digest,
            server=server or subject.server or self._server(subject, files),
            tensor_parallel_size=subject.parameters.tensor_parallel_size,
            look=look or files.first_look,
        )
        where: dict[str, object] = {}
        if endpoint is not None:
            patience = self.settings.evaluate.model_dump(include={"concurrency", "request_timeout", "attempts"})
            where = {"endpoint": endpoint.url, "served_model_name": endpoint.served_model_name, **patience}
            if subject.concurrency:
                where["concurrency"] = subject.concurrency
            if files.measures_speed:
                where |= {"hardware": subject.hardware or endpoint.hardware, "emulated_fp8": endpoint.emulated_fp8}
            elif look < 2 and (subject.devices or endpoint.start is not None):  # on processors the speed says nothing
                where |= {"role": subject.role, "load_levels": LOAD_LEVELS, "gpus": subject.parameters.gpus}
                where["server_start"] = endpoint.start
            if subject.tokenizer is not None:
                where["tokenizer"] = subject.tokenizer
            else:
                where["tokenizer_reference"] = subject.parameters.reference
        return self._request(Step.EVALUATE, parameters, options=files.options(self.keep, **where))

    def _server(self, subject: Subject, files: SuiteFiles) -> str:
        """The server by which a measurement is named: where times are measured, with what changes times and no answers, and with the
        hardware, that of no other machine.
        """
        name = inference_server(self.settings, subject.parameters)
        if files.measures_speed:
            name += f" --max-model-len={subject.parameters.max_model_len}"
            if taken := subject.parameters.gpu_memory_utilization:
                name += f" --gpu-memory-utilization={taken:g}"
            if (own := self.settings.evaluate.load_python) is not None:
                name += f" load by {_vllm_of(own)}"
            name += f" on {subject.hardware or f'the hardware of the run {self.run}'}"
        return name

    def check(self, suite: str) -> StepRequest:
        """Check whether the suite can be used here. Raises BadInput for an unknown name."""
        files = suites.read(suite)
        return self._request(Step.EVALUATE, files.parameters(action="check"), options=files.options(self.keep))

    def judge(
        self,
        looks: Sequence[tuple[ArtifactRef, ArtifactRef]],
        subject: Subject,
        suite: str,
        sizes: tuple[int, int] = (0, 0),
    ) -> StepRequest:
        """`looks` are the measurements of candidate and baseline, one pair where the suite has no looks. `sizes` are the bytes of the
        baseline's and the candidate's checkpoint, for the report; 0 if unknown.
        """
        files = suites.read(suite)
        parameters = files.parameters(
            action="judge",
            subject=subject.digest,
            engine=subject.server or inference_server(self.settings, subject.parameters),
        )
        parameters = parameters.model_copy(update={"size_baseline": sizes[0], "size_candidate": sizes[1]})
        inputs: dict[str, ArtifactRef] = {}
        for look, (mine, theirs) in enumerate(looks, start=1):
            which = f"-{look}" if look > 1 else ""
            inputs |= {f"candidate{which}": mine, f"baseline{which}": theirs}
        return self._request(Step.EVALUATE, parameters, inputs, files.options(self.keep))

    def _request(
        self,
        step: Step,
        parameters: Values,
        inputs: dict[str, ArtifactRef] | None = None,
        options: Values | None = None,
    ) -> StepRequest:
        return StepRequest(
            step=step,
            run=self.run,
            inputs=inputs or {},
            parameters=parameters.dump(),
            options=options.dump() if options is not None else {},
            store=self.store,
        )
