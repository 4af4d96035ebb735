"""One description of a deployment, from which every target is rendered: the model by digest, vLLM's arguments, resources."""

from __future__ import annotations

import re
import shlex
from typing import TYPE_CHECKING, Final

from pydantic import Field

from containers.contract import Frozen
from containers.errors import BadInput
from containers.oci.reference import Reference
from containers.vllm_parsers import Parsers
from containers.vllm_parsers import choose as choose_parsers
from flows.targets.model import ModelFacts, of_folder, of_reference
from flows.targets.size import CPU, GIB, UTILIZATION, Sizing, choose
from infra.settings import IMAGES, DeploySettings

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from infra.settings import Settings

NAME_MAX: Final = 50  # KServe adds "-predictor" and more, and a DNS label has 63 characters (RFC 1123)
SLOWEST: Final = 50_000_000  # bytes a second at which weights are expected to be there, at the very least
PORT: Final = 8000
CPU_IMAGE: Final = f"{IMAGES}/serve-cpu:latest"
_STRIPPED: Final = ("modelcar-",)


class DeploymentRequest(Frozen):
    """What the user may say about a deployment; the rest follows from the model. Empty and 0 mean: choose."""

    name: str = ""
    image: str = ""
    gpu: str = "H100"
    max_model_len: int = 0
    concurrency: int = 1
    tensor_parallel_size: int = 0
    fp8_cache: bool = False
    port: int = PORT
    listen: str = "127.0.0.1"
    tool_call_parser: str = ""
    reasoning_parser: str = ""
    arguments: tuple[str, ...] = ()


class Deployment(Frozen):
    """The description. `reference` holds a digest; bytes for memory; seconds for times; processors for cpu."""

    name: str
    reference: str
    image: str
    model: ModelFacts
    gpu: str
    gpus: int
    max_model_len: int
    fp8_cache: bool = False
    sizing: Sizing | None = None
    cpu_request: int
    cpu_limit: int
    memory_request: int
    memory_limit: int
    shared_memory: int
    startup_seconds: int
    port: int = PORT
    listen: str = "127.0.0.1"
    parsers: Parsers = Parsers()
    arguments: tuple[str, ...] = ()
    images: DeploySettings = Field(default=DeploySettings(), exclude=True)

    def vllm_image(self, on_gpu: str) -> str:
        """The vLLM image: the one asked for, or the target's own for GPUs, or Carwright's for the CPU."""
        return self.image or (on_gpu if self.on_gpu else CPU_IMAGE)

    @property
    def on_gpu(self) -> bool:
        return self.gpus > 0

    @property
    def parsed(self) -> Reference:
        return Reference.parse(self.reference)

    @property
    def hub(self) -> str:
        """`registry/repository@sha256:...`; raises BadInput for a folder, which no other machine can pull from."""
        if self.parsed.layout is not None:
            raise BadInput(
                f"{self.reference} is a folder of this machine, and the target pulls from a registry",
                remedy="push it to a registry, or say with --from registry/repository where it will be pulled from",
            )
        if self.model.raw:
            raise BadInput(
                f"{self.reference} is a raw artifact, which no container engine can start or mount",
                remedy="give the modelcar; only rhel-ai takes raw files",
            )
        return self.reference

    def vllm(self, model: str, port: int) -> list[str]:
        """The arguments of vLLM's server for the model in the folder `model`, as `python3 -m MODULE` takes them."""
        return [f"--model={model}", f"--served-model-name={self.name}", f"--port={port}", *self.tuning]

    @property
    def tuning(self) -> list[str]:
        """The arguments that depend on the model and the GPUs alone."""
        said = [f"--max-model-len={self.max_model_len}"]
        if self.on_gpu:
            said.append(f"--tensor-parallel-size={self.gpus}")
            said.append(f"--gpu-memory-utilization={UTILIZATION:g}")
        else:
            said += ["--enforce-eager", "--distributed-executor-backend=uni"]
        if self.fp8_cache:
            said.append("--kv-cache-dtype=fp8")
        return [*said, *self.parsers.arguments, *self.arguments]

    @property
    def environment(self) -> dict[str, str]:
        """Nothing is fetched or reported, and files are written where any user may write."""
        said = {
            "HF_HUB_OFFLINE": "1",
            "HF_HOME": "/tmp/hf_home",  # noqa: S108 -- inside the container
            "HOME": "/tmp",  # noqa: S108 -- likewise
            "USER": "vllm",  # torch asks for the user's name, which a bare number has not
            "VLLM_NO_USAGE_STATS": "1",
            "DO_NOT_TRACK": "1",
        }
        if not self.on_gpu:
            said["VLLM_CPU_KVCACHE_SPACE"] = str(-(-self.cache_bytes // GIB))
            said |= _ON_A_CPU
        return said

    @property
    def cache_bytes(self) -> int:
        """KV cache of one sequence of the full length."""
        model, value = self.model, 1 if self.fp8_cache else self.model.value_bytes
        width = model.latent or 2 * model.kv_heads * model.head_dim
        return model.layers * width * value * self.max_model_len


MODULE: Final = "vllm.entrypoints.openai.api_server"
# As containers/serve starts it: FP8 by the plugin that our CPU image carries, nothing compiled, waiting threads asleep.
_ON_A_CPU: Final = {
    "PYTHONPATH": "/opt/carwright/lib/python3.11/site-packages/containers/serve/plugin",
    "TORCHDYNAMO_DISABLE": "1",
    "OMP_WAIT_POLICY": "PASSIVE",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
}


def describe(
    reference: str, wanted: DeploymentRequest, settings: Settings, *, folder: Path | None = None, pulled_from: str = ""
) -> Deployment:
    """Resolve the reference to a digest, read the model, size it.

    With `folder` the model is described by the config.json there and nothing is asked of the registry: the reference
    must then hold a digest. `pulled_from` is the repository, with the same image, that the target pulls from.
    """
    if folder is not None:
        model, pinned = of_folder(folder), Reference.parse(reference)
        if pinned.digest is None:
            raise BadInput(
                f"{reference} holds no digest", remedy="with --model the image is not asked for: name it by digest"
            )
    else:
        model, pinned = of_reference(reference, settings)
    assert pinned.digest is not None
    if pulled_from:
        pinned = Reference.parse(pulled_from).at(pinned.digest)
    return build(model, pinned, wanted, settings.deploy)


def build(
    model: ModelFacts,
    pinned: Reference,
    wanted: DeploymentRequest,
    images: DeploySettings = DeploySettings(),  # noqa: B008 - the defaults
) -> Deployment:
    """The description of a model whose image is `pinned`; `images` are the engines'. Raises BadInput when it does not fit the GPUs."""
    length = wanted.max_model_len or min(model.longest or 4096, 32768)
    sizing: Sizing | None = None
    gpus = 0
    if wanted.gpu.lower() != CPU:
        sizing = choose(
            model,
            wanted.gpu,
            length,
            concurrency=wanted.concurrency,
            tensor_parallel_size=wanted.tensor_parallel_size,
            fp8_cache=wanted.fp8_cache,
        )
        gpus = sizing.tensor_parallel_size
    elif wanted.tensor_parallel_size > 1:
        raise BadInput("--tensor-parallel-size is for GPUs")
    shared = 2 * GIB * max(1, gpus)
    parsers = choose_parsers(
        model.architecture.partition(",")[0], tool_call=wanted.tool_call_parser, reasoning=wanted.reasoning_parser
    )
    if parsers.arguments and not (wanted.tool_call_parser or wanted.reasoning_parser):
        model = model.model_copy(update={"notes": (*model.notes, _chosen(parsers))})
    draft = Deployment(
        name=check_name(wanted.name) if wanted.name else name_of(pinned),
        reference=str(pinned.at(pinned.digest) if pinned.digest else pinned),
        image=wanted.image,
        model=model,
        gpu=wanted.gpu if gpus else CPU,
        gpus=gpus,
        max_model_len=length,
        fp8_cache=wanted.fp8_cache,
        sizing=sizing,
        # One process for each GPU keeps a processor busy, and so do the engine and the API server.
        cpu_request=2 + gpus,
        cpu_limit=2 * (2 + gpus),
        memory_request=0,
        memory_limit=0,
        shared_memory=shared,
        startup_seconds=600 + model.weights // SLOWEST,
        port=wanted.port,
        listen=wanted.listen,
        parsers=parsers,
        arguments=wanted.arguments,
        images=images,
    )
    if gpus:
        # The weights pass through the page cache on their way, which counts against the limit and not the request.
        request = (4 + 4 * gpus) * GIB + shared
        limit = request + whole_gib(model.weights)
    else:
        # On a CPU the emulation holds FP8 weights as BF16: twice their size.
        request = limit = 4 * GIB + shared + whole_gib(2 * model.weights + draft.cache_bytes)
    return draft.model_copy(update={"memory_request": request, "memory_limit": limit})


def _chosen(parsers: Parsers) -> str:
    said = " ".join(one for one in parsers.arguments if "=" in one)
    return (
        f"vLLM is told {said}, which this architecture's models need; a vLLM image that is too old for it does not start: "
        "name another, or none, by --tool-call-parser and --reasoning-parser"
    )


def whole_gib(size_: int) -> int:
    """Bytes, rounded up to whole GiB."""
    return -(-size_ // GIB) * GIB


def name_of(reference: Reference) -> str:
    """A name for the deployment, from the repository's (or the folder's) last part, as a DNS label."""
    text = reference.layout.name if reference.layout is not None else reference.repository.rpartition("/")[2]
    for prefix in _STRIPPED:
        text = text.removeprefix(prefix)
    label = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
    if not label or not label[0].isalpha():
        label = f"model-{label}".strip("-")
    return label[:NAME_MAX].rstrip("-")


def check_name(name: str) -> str:
    """The name itself; raises BadInput when Kubernetes would refuse it."""
    if not re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", name) or len(name) > NAME_MAX:
        raise BadInput(
            f"{name!r} is not a name for a deployment",
            remedy=f"use lower case letters, digits and -, beginning with a letter, at most {NAME_MAX}",
        )
    return name


class RenderedFile(Frozen):
    """One file that a target is made of; `name` is what it should be saved as."""

    name: str
    text: str


class Rendered(Frozen):
    """What a target is made of, and what a person must know beside it."""

    files: tuple[RenderedFile, ...]
    notes: tuple[str, ...] = Field(default=())


def command(*parts: str | Iterable[str]) -> str:
    """A shell command, quoted, one line for each part; a part of several words stays on one line."""
    lines = [shlex.join([part] if isinstance(part, str) else list(part)) for part in parts]
    return " \\\n  ".join(lines) + "\n"


def pairs(option: str, values: Sequence[str]) -> list[tuple[str, str]]:
    """An option repeated for each value, a part each."""
    return [(option, value) for value in values]


def unpinned(image: str) -> tuple[str, ...]:
    """The note for a vLLM image that may move."""
    if "@sha256:" in image:
        return ()
    return (f"the vLLM image {image} is named by tag and can move: give --image NAME@sha256:... to pin it too",)
