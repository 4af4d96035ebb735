"""How many GPUs a model needs: weights + KV cache + reserve against the memory of a GPU.

docs/reference/targets.md has the formula. Everything is in bytes and per GPU. The figures are an estimate that errs on the
large side; vLLM prints the true ones when it starts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pydantic import Field

from containers.contract import Frozen
from containers.errors import BadInput

if TYPE_CHECKING:
    from flows.targets.model import ModelFacts

GB: Final = 1_000_000_000
GIB: Final = 1 << 30
_MIB: Final = 1 << 20
# Memory in MiB as `nvidia-smi` lists it, which is what the plan of a run goes by on the machine itself
# (infra/accelerators.py); data sheets have other numbers, some of them smaller.
GPUS: Final = {
    "A10": 23_028,
    "A100-40GB": 40_960,
    "A100": 81_920,
    "L4": 23_034,
    "L40S": 46_068,
    "H100": 81_559,
    "H100-NVL": 95_830,
    "H200": 143_771,
    "B200": 183_359,
}
CPU: Final = "cpu"
UTILIZATION: Final = 0.9  # given to vLLM as --gpu-memory-utilization: the part of a GPU's memory that it takes
BATCHED: Final = 8192  # vLLM's --max-num-batched-tokens: tokens of one prefill step, whose activations peak
SEQUENCES: Final = 256  # sequences whose logits vLLM holds at once while it profiles its memory
# CUDA context, NCCL buffers, CUDA graphs, fragmentation. On an H100 vLLM 0.23 kept 1.7 GiB besides weights and KV cache for a
# model of 0.15 GiB, of which 0.2 are activations and logits by the formula here; 0.3 were CUDA graphs.
CONTEXT: Final = 3 * GIB // 2
MOST: Final = 8  # GPUs of one host


class Sizing(Frozen):
    """The answer. All bytes are those of one GPU, save `weights` and `kv_per_token`, which are those of the model.

    `cache_tokens` fit into what is left; `sequences` is how many of the length asked for that makes at once.
    """

    gpu: str
    gpu_memory: int
    max_model_len: int
    tensor_parallel_size: int
    weights: int
    weights_per_gpu: int
    kv_per_token: int
    kv_per_token_per_gpu: int
    kv_needed: int
    reserve: int
    usable: int
    cache_tokens: int
    sequences: int
    tried: dict[int, str] = Field(default={})
    notes: tuple[str, ...] = ()


def choose(
    model: ModelFacts,
    gpu: str,
    max_model_len: int,
    *,
    concurrency: int = 1,
    tensor_parallel_size: int = 0,
    fp8_cache: bool = False,
) -> Sizing:
    """The smallest tensor parallel size that holds `concurrency` sequences of `max_model_len` tokens, or the one given.

    Raises BadInput for an unknown GPU, a length that the model does not have, a size that does not divide the model, and
    when eight GPUs are too few: with what is missing.
    """
    memory = gpu_memory(gpu)
    _check_length(model, max_model_len)
    tried: dict[int, str] = {}
    sizes = (tensor_parallel_size,) if tensor_parallel_size else tuple(1 << power for power in range(MOST.bit_length()))
    for size in sizes:
        if why := indivisible(model, size):
            tried[size] = why
            continue
        sizing = fit(model, gpu, memory, max_model_len, size, fp8_cache=fp8_cache)
        if sizing.sequences >= concurrency:
            return sizing.model_copy(update={"tried": tried, "notes": model.notes})
        tried[size] = _lacks(sizing, concurrency)
    raise BadInput(
        f"{model.architecture} with {max_model_len} tokens does not fit: "
        + "; ".join(f"{size} x {gpu}: {why}" for size, why in tried.items()),
        remedy="take a larger --gpu, a smaller --max-model-len or --concurrency, or --kv-cache-dtype fp8",
    )


def gpu_memory(gpu: str) -> int:
    """Bytes of one GPU: by name, or `NUMBERGB` for any other."""
    named = {name.lower(): size for name, size in GPUS.items()}
    number = gpu.lower().removesuffix("gb")
    if gpu.lower() in named:
        return named[gpu.lower()] * _MIB
    if gpu.lower().endswith("gb") and number.isdecimal() and int(number) > 0:
        return int(number) * GB
    raise BadInput(
        f"the GPU {gpu!r} is not known", remedy=f"give {', '.join(GPUS)}, or the memory of yours, for example 96GB"
    )


def fit(
    model: ModelFacts,
    gpu: str,
    memory: int,
    max_model_len: int,
    size: int,
    *,
    fp8_cache: bool = False,
    utilization: float = UTILIZATION,
) -> Sizing:
    """What lies on each of `size` GPUs, of whose memory vLLM takes the part `utilization`."""
    value = 1 if fp8_cache else model.value_bytes
    if model.latent:  # MLA: one compressed vector a token and layer, which every GPU holds whole
        per_token = per_gpu = model.layers * model.latent * value
    else:
        per_token = 2 * model.layers * model.kv_heads * model.head_dim * value
        per_gpu = 2 * model.layers * max(1, model.kv_heads // size) * model.head_dim * value
    weights = -(-model.weights // size)
    activations = BATCHED * (4 * model.hidden + 3 * -(-model.intermediate // size)) * 2
    logits = SEQUENCES * model.vocabulary * 4 * 2
    reserve = CONTEXT + activations + logits
    usable = int(memory * utilization)
    tokens = max(0, (usable - weights - reserve) // per_gpu)
    return Sizing(
        gpu=gpu,
        gpu_memory=memory,
        max_model_len=max_model_len,
        tensor_parallel_size=size,
        weights=model.weights,
        weights_per_gpu=weights,
        kv_per_token=per_token,
        kv_per_token_per_gpu=per_gpu,
        kv_needed=per_gpu * max_model_len,
        reserve=reserve,
        usable=usable,
        cache_tokens=tokens,
        sequences=tokens // max_model_len,
    )


def indivisible(model: ModelFacts, size: int) -> str:
    """Why vLLM would refuse to split the model so; empty when it would not."""
    if size < 1 or size & (size - 1):
        return "no power of two"
    if model.heads % size:
        return f"{model.heads} attention heads cannot be shared by {size}"
    if not model.latent and model.kv_heads % size and size % model.kv_heads:
        return f"{model.kv_heads} key-value heads cannot be shared by {size}"
    if model.intermediate % size:
        return f"an MLP of width {model.intermediate} cannot be shared by {size}"
    return ""


def _check_length(model: ModelFacts, length: int) -> None:
    if length < 1:
        raise BadInput(f"--max-model-len {length} is not a length")
    if model.longest and length > model.longest:
        raise BadInput(
            f"--max-model-len {length} is more than the {model.longest} tokens that the model was made for",
            remedy=f"give at most {model.longest}",
        )


def _lacks(sizing: Sizing, concurrency: int) -> str:
    needed = sizing.weights_per_gpu + sizing.reserve + concurrency * sizing.kv_needed
    return f"needs {needed / GIB:.1f} GiB of {sizing.usable / GIB:.1f}"
