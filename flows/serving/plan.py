"""How a model is served on the GPUs at hand: over how many, with how much of their memory, for how many tokens.

Planned from the model's configuration and the bytes of its weights, before anything is downloaded, with the formula of
`carwright size` (flows/targets/size.py). What fits nowhere is an error that says what would fit.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from containers.contract import Frozen
from containers.errors import BadInput, Error, NotReady
from flows.ship_request import ServingOptions
from flows.targets import size
from flows.targets.model import ModelFacts, facts
from infra.accelerators import Gpu

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pydantic import JsonValue

_GB: Final = size.GB
_UTILIZATIONS: Final = (size.UTILIZATION, 0.95)  # vLLM's own, and for what just fits
_ENOUGH: Final = 2  # of the requests at once, this part at full length: few are ever that long
_SPARE: Final = 0.01  # of a GPU's memory that a driver or a display takes after we have looked


class ServicePlan(Frozen):
    """One service. `gpus` are CUDA's indices, empty on a CPU or where they are not known; bytes are of one GPU.

    `sequences` of `max_model_len` tokens fit into the KV cache at once. `note` says why something is not planned. `load_format`
    is vLLM's name for how it reads the weights, empty for its default, and `loading` says so in words. A model that somebody
    else serves has an `endpoint`, and `server` is the name and version of what answers there. `hardware` is what it will
    run on, by which measured times are told apart; empty where only the service itself will know. `arguments` are vLLM's,
    beside those that the other fields stand for.
    """

    role: str
    gpu: str = ""
    gpus: tuple[str, ...] = ()
    tensor_parallel_size: int = 1
    pipeline_parallel_size: int = 1
    max_model_len: int
    gpu_memory_utilization: float = 0.0
    weights: int = 0
    cache_tokens: int = 0
    sequences: int = 0
    note: str = ""
    load_format: str = ""
    loading: str = ""
    endpoint: str = ""
    server: str = ""
    hardware: str = ""
    arguments: tuple[str, ...] = ()

    def __str__(self) -> str:
        if self.endpoint:
            return f"{self.role}: at {self.endpoint} ({self.server}), which is not started here"
        if not self.gpu:
            return f"{self.role}: {self.note or 'on the CPU'}, {self.max_model_len} tokens"
        count = self.tensor_parallel_size * self.pipeline_parallel_size
        split = f", tensor parallel {self.tensor_parallel_size}" if self.tensor_parallel_size > 1 else ""
        split += f", pipeline parallel {self.pipeline_parallel_size}" if self.pipeline_parallel_size > 1 else ""
        room = (
            f"{self.weights / _GB:.1f} GB of weights each, room for {self.cache_tokens} tokens"
            if self.weights
            else self.note
        )
        return (
            f"{self.role}: {count} x {self.gpu}{split}, {self.gpu_memory_utilization:.2f} of the memory, "
            f"{self.max_model_len} tokens; {room}" + (f"; loaded {self.loading}" if self.loading else "")
        )

    def saying(self, arguments: tuple[str, ...]) -> ServicePlan:
        """The same with these arguments for vLLM."""
        return self.model_copy(update={"arguments": arguments})

    def beside(self, other: ServicePlan) -> bool:
        """Whether both can be served at the same time, on GPUs of their own."""
        return bool(self.gpus and other.gpus) and not set(self.gpus) & set(other.gpus)


class Plans(Frozen):
    """Both services, and what can go on at the same time: `at_once`, both measurements; `quantize_devices` are torch's names
    of the GPUs that quantize while the baseline is measured on others, empty where there are none. With `alone` nothing goes on
    beside a measurement.
    """

    baseline: ServicePlan
    candidate: ServicePlan
    quantize_devices: tuple[str, ...] = ()
    alone: bool = False

    def saying(self, arguments: tuple[str, ...]) -> Plans:
        """The same with these arguments for vLLM."""
        both = {"baseline": self.baseline.saying(arguments), "candidate": self.candidate.saying(arguments)}
        return self.model_copy(update=both)

    @property
    def at_once(self) -> bool:
        return not self.alone and self.baseline.beside(self.candidate)

    def one_by_one(self) -> Plans:
        """The same for a suite of speed: what else is done on the machine would be measured, too."""
        return self.model_copy(update={"alone": True, "quantize_devices": ()})


def plan_both(
    config: Mapping[str, JsonValue],
    weights: int,
    gpus: Sequence[Gpu],
    wanted: ServingOptions,
    length: int,
    *,
    concurrency: int,
    elsewhere: Mapping[str, ServicePlan] = MappingProxyType({}),
) -> Plans:
    """Plan the model as it is and as it will be, from its config.json and the bytes of its weights; raises what `plan` does.

    `elsewhere` are the plans of those roles that somebody else serves.
    """
    model = model_facts(config, weights)
    baseline = elsewhere.get("baseline") or plan("baseline", model, gpus, wanted, length, concurrency=concurrency)
    smaller = quantized(model) if model is not None else None
    candidate = elsewhere.get("candidate") or plan(
        "candidate", smaller, gpus, wanted, length, concurrency=concurrency, avoid=baseline.gpus
    )
    rest = [f"cuda:{place}" for place, gpu in enumerate(gpus) if str(gpu.index) not in baseline.gpus]
    return Plans(
        baseline=baseline,
        candidate=candidate,
        quantize_devices=tuple(rest) if baseline.gpus and baseline.beside(candidate) else (),
    )


def model_facts(config: Mapping[str, JsonValue], weights: int) -> ModelFacts | None:
    """What planning needs of a model; None for one whose memory cannot be told from its configuration and its weights."""
    if not weights:
        return None
    try:
        return facts(config, weights, "the files of the source")
    except BadInput:
        return None


def vocabulary(config: Mapping[str, JsonValue]) -> int:
    """The entries of a model's vocabulary by its config.json; 0 where that does not say."""
    text = config.get("text_config")
    said = {**config, **(text if isinstance(text, dict) else {})}.get("vocab_size")
    return said if isinstance(said, int) and said > 0 else 0


def quantized(model: ModelFacts) -> ModelFacts:
    """The same model with 8-bit weights, before it is quantized: embeddings and the head keep 16 bits, scales are small."""
    embeddings = min(2 * 2 * model.vocabulary * model.hidden, model.weights)
    weights = embeddings + (model.weights - embeddings) // 2
    return model.model_copy(update={"weights": weights})


def plan(
    role: str,
    model: ModelFacts | None,
    gpus: Sequence[Gpu],
    wanted: ServingOptions,
    length: int,
    *,
    concurrency: int,
    avoid: Sequence[str] = (),
) -> ServicePlan:
    """The plan of one service on these GPUs; an empty sequence stands for a CPU.

    The fewest GPUs that hold half of `concurrency` sequences of `length` tokens are taken, or that hold at least one where
    no number holds more; those that are not in `avoid` first, and of them those with the most free memory. What the request
    says itself (sizes, utilization) is taken as it is, and only checked. Raises BadInput for sizes that do not divide the
    model, a model that does not fit, and more GPUs than there are; NotReady when it would fit if other programs left.
    """
    if not gpus:
        return ServicePlan(role=role, max_model_len=length)
    ordered = sorted(gpus, key=lambda gpu: (str(gpu.index) in avoid, -gpu.free, gpu.index))
    if model is None:
        return _unsized(role, ordered, wanted, length)
    found, tried = _fewest(role, model, ordered, wanted, length, concurrency=concurrency)
    if found is None:
        raise _refused(role, model, tried, ordered, length)
    return found


def _fewest(
    role: str, model: ModelFacts, ordered: Sequence[Gpu], wanted: ServingOptions, length: int, *, concurrency: int
) -> tuple[ServicePlan | None, dict[int, Error]]:
    """What `plan` says of GPUs in the order in which they are to be taken, and why numbers of them do not do."""
    found: ServicePlan | None = None
    tried: dict[int, Error] = {}
    for tensor, pipeline in _splits(wanted, len(ordered)):
        count = tensor * pipeline
        if why := size.indivisible(model, tensor):
            tried[count] = BadInput(why)
            continue
        if count > len(ordered):
            tried[count] = BadInput(f"there are only {len(ordered)} GPUs")
            continue
        try:
            fitted = _fit(role, model, ordered[:count], split=(tensor, pipeline), wanted=wanted, length=length)
        except Error as error:
            tried[count] = error
            continue
        if fitted.sequences >= max(1, concurrency // _ENOUGH):
            return fitted, tried
        if found is None or fitted.sequences > found.sequences:
            found = fitted
    return found, tried


def _splits(wanted: ServingOptions, count: int) -> list[tuple[int, int]]:
    """Tensor and pipeline parallel sizes to try, fewest GPUs first."""
    pipeline = wanted.pipeline_parallel_size or 1
    if wanted.tensor_parallel_size:
        return [(wanted.tensor_parallel_size, pipeline)]
    sizes = [1 << power for power in range(8) if (1 << power) * pipeline <= count]
    return [(one, pipeline) for one in sizes] or [(1, pipeline)]


def _fit(
    role: str, model: ModelFacts, gpus: Sequence[Gpu], *, split: tuple[int, int], wanted: ServingOptions, length: int
) -> ServicePlan:
    """On these very GPUs; the smallest of them bounds all. Raises BadInput or NotReady when not one sequence fits."""
    tensor, pipeline = split
    smallest = min(gpus, key=lambda gpu: gpu.memory)
    part = model.model_copy(update={"weights": -(-model.weights // pipeline), "layers": -(-model.layers // pipeline)})
    fitted: size.Sizing | None = None
    asked = (wanted.gpu_memory_utilization,) if wanted.gpu_memory_utilization else _UTILIZATIONS
    for utilization in asked:
        fitted = size.fit(part, smallest.name, smallest.memory, length, tensor, utilization=utilization)
        if not fitted.sequences:
            continue
        for gpu in gpus:
            if gpu.free < utilization * gpu.memory - _SPARE * gpu.memory:
                raise NotReady(
                    f"GPU {gpu.index} ({gpu.name}) has {gpu.free / _GB:.1f} of its {gpu.memory / _GB:.1f} GB free, and vLLM "
                    f"would take {utilization * gpu.memory / _GB:.1f} GB",
                    remedy="`nvidia-smi` shows which program has the rest: stop it, choose other GPUs (CUDA_VISIBLE_DEVICES), or "
                    "lower --gpu-memory-utilization",
                )
        return ServicePlan(
            role=role,
            gpu=smallest.name,
            gpus=_indices(gpus),
            tensor_parallel_size=tensor,
            pipeline_parallel_size=pipeline,
            max_model_len=length,
            gpu_memory_utilization=utilization,  # always said: vLLM's default moves from version to version
            weights=fitted.weights_per_gpu,
            cache_tokens=fitted.cache_tokens,
            sequences=fitted.sequences,
        )
    assert fitted is not None
    needed = fitted.weights_per_gpu + fitted.reserve + fitted.kv_needed
    raise BadInput(f"each needs {needed / _GB:.1f} GB of {fitted.usable / _GB:.1f}")


def _unsized(role: str, gpus: Sequence[Gpu], wanted: ServingOptions, length: int) -> ServicePlan:
    """Where the model's memory is not known: as the request says, or every GPU, in a power of two."""
    pipeline = wanted.pipeline_parallel_size or 1
    tensor = wanted.tensor_parallel_size or 1 << ((len(gpus) // pipeline).bit_length() - 1)
    if tensor * pipeline > len(gpus):
        raise BadInput(f"{tensor * pipeline} GPUs are asked for, and there are {len(gpus)}")
    return ServicePlan(
        role=role,
        gpu=gpus[0].name,
        gpus=_indices(gpus[: tensor * pipeline]),
        tensor_parallel_size=tensor,
        pipeline_parallel_size=pipeline,
        max_model_len=length,
        gpu_memory_utilization=wanted.gpu_memory_utilization or size.UTILIZATION,
        note="its memory cannot be told from config.json",
    )


def _indices(gpus: Sequence[Gpu]) -> tuple[str, ...]:
    return tuple(str(gpu.index) for gpu in sorted(gpus, key=lambda gpu: gpu.index) if gpu.index >= 0)


def _refused(role: str, model: ModelFacts, tried: dict[int, Error], gpus: Sequence[Gpu], length: int) -> Error:
    """The error when nothing fits: what each number of GPUs lacks, and what would do."""
    reasons = "; ".join(f"on {count}: {error.message}" for count, error in tried.items())
    name = min(gpus, key=lambda gpu: gpu.memory).name
    message = f"the {role} ({model.architecture}, {model.weights / _GB:.1f} GB) with {length} tokens does not fit the GPUs ({len(gpus)} x {name}): {reasons}"
    busy = [error for error in tried.values() if isinstance(error, NotReady)]
    if busy:
        return NotReady(message, remedy=busy[0].remedy)
    return BadInput(message, remedy=what_would_fit(model, length))


def what_would_fit(model: ModelFacts, length: int) -> str:
    """The smallest known machines with GPUs that hold one sequence, as they would be planned for."""
    fitting = []
    for name in ("L40S", "H100", "H200", "B200"):
        memory = size.gpu_memory(name)
        cards = (Gpu(index=-1, name=name, memory=memory, free=memory),) * size.MOST
        found, _ = _fewest("", model, cards, ServingOptions(), length, concurrency=1)
        if found is not None:
            fitting.append(f"{found.tensor_parallel_size} x {name}")
    said = f"it would fit on {', '.join(fitting)}" if fitting else "it fits on no machine with 8 GPUs that we know"
    return f"{said}; a smaller --max-model-len needs less"
