# ruff: noqa: INP001 - vLLM imports it by this name from this folder; a package would be imported with all of containers
"""A vLLM plugin that serves FP8 checkpoints on CPUs without FP8 units: same numbers as a GPU's, no GPU.

vLLM loads it by its entry point (group `vllm.general_plugins`, see the `.dist-info` folder beside this file) in every
process that has this folder on PYTHONPATH, which is how `containers.serve.vllm_command` starts vLLM on a CPU. It puts two
kernels first in the CPU's lists of FP8 linear kernels. Without them vLLM multiplies FP8 on such CPUs with a reference
loop (minutes for a sentence), and has no kernel at all for block-wise scales.

What a GPU computes for a linear layer is `s_x * s_w * (q_x @ q_w)`, with q in E4M3 and sums in float32. E4M3 has 4
significant bits and bfloat16 has 8, so every q is a bfloat16 number and every product is exact: the same matrix
multiplication as that of a bfloat16 model gives the same sum, rounded once more (to bfloat16) before it is scaled.

The module imports torch and vLLM only: it runs in vLLM's processes and not in a step.
"""

import ctypes
import platform
from collections.abc import Callable
from typing import TypeVar

import torch
from vllm import _custom_ops as ops
from vllm.logger import init_logger
from vllm.model_executor.kernels import linear
from vllm.model_executor.kernels.linear.scaled_mm.BlockScaledMMLinearKernel import Fp8BlockScaledMMLinearKernel
from vllm.model_executor.kernels.linear.scaled_mm.ScaledMMLinearKernel import (
    FP8ScaledMMLinearKernel,
    FP8ScaledMMLinearLayerConfig,
)
from vllm.model_executor.layers.utils import dispatch_cpu_unquantized_gemm
from vllm.model_executor.models import registry
from vllm.model_executor.utils import replace_parameter
from vllm.platforms import PlatformEnum, current_platform

T = TypeVar("T")

logger = init_logger("vllm.carwright_cpu_fp8")

# Linux, Documentation/arch/x86/xstate.rst and arch/x86/include/uapi/asm/prctl.h
_ARCH_PRCTL = 158  # number of the system call on x86-64
_ARCH_REQ_XCOMP_PERM = 0x1023
_XTILEDATA = 18


def register() -> None:
    """Put the emulation first in the CPU's lists; does nothing on a GPU, and no more when called again."""
    if not current_platform.is_cpu():
        return
    _allow_amx()
    # vLLM's own `register_linear_kernel` appends, and what comes first is taken.
    for table, kernel in (
        (linear._POSSIBLE_FP8_KERNELS, EmulatedFp8LinearKernel),  # noqa: SLF001
        (linear._POSSIBLE_FP8_BLOCK_KERNELS, EmulatedFp8BlockLinearKernel),  # noqa: SLF001
    ):
        kernels = table.setdefault(PlatformEnum.CPU, [])
        if kernel not in kernels:
            kernels.insert(0, kernel)
    # vLLM looks at a model's class in a process of its own, so that no GPU is initialized in this one. There is none,
    # and the process costs 12 s of a core when an architecture is served for the first time.
    registry._run_in_subprocess = _run_here  # noqa: SLF001


def _allow_amx() -> None:
    """Ask Linux for the registers of AMX: a process that uses them without it ends with an illegal instruction.

    oneDNN asks when it first multiplies matrices of some size. vLLM's own attention does not, so that a small model, whose
    matrices oneDNN multiplies otherwise, killed vLLM on processors with AMX. Elsewhere the call fails, which is fine.
    """
    if platform.machine() == "x86_64":
        ctypes.CDLL(None).syscall(_ARCH_PRCTL, _ARCH_REQ_XCOMP_PERM, _XTILEDATA)


def _run_here(function: Callable[[], T]) -> T:
    return function()


class _OnlyCpu:
    """Where the emulation applies; the reason goes into vLLM's own message when no kernel fits."""

    @classmethod
    def is_supported(cls, compute_capability: int | None = None) -> tuple[bool, str | None]:
        if not current_platform.is_cpu():
            return False, "emulates FP8 on a CPU only"
        if ops.cpu_has_amx_fp8():
            return False, "is not needed on a CPU with FP8 units"
        return True, None

    @classmethod
    def can_implement(cls, config: FP8ScaledMMLinearLayerConfig) -> tuple[bool, str | None]:
        return True, None


class EmulatedFp8LinearKernel(_OnlyCpu, FP8ScaledMMLinearKernel):  # type: ignore[misc] # vLLM is Any here
    """One weight scale per tensor or per output channel; activation scales per token or per tensor.

    Weights are turned into bfloat16 once, when loaded, which is exact. Activations are quantized by vLLM's own
    `QuantFP8`, and stay E4M3 numbers, held as bfloat16.
    """

    def process_weights_after_loading(self, layer: torch.nn.Module) -> None:
        logger.warning_once("FP8 is EMULATED in bfloat16 on this CPU: right for answers, meaningless for speed")
        name, scale_name, *_ = self.layer_param_names
        weight = getattr(layer, name)  # [in, out], E4M3
        scale = getattr(layer, scale_name).to(torch.float32).reshape(1, -1)  # per tensor [1, 1], per channel [1, out]
        replace_parameter(layer, scale_name, torch.nn.Parameter(scale, requires_grad=False))
        _hold(layer, name, weight.t().to(torch.bfloat16))

    def apply_weights(self, layer: torch.nn.Module, x: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        _, scale_name, input_scale_name, bound_name = self.layer_param_names
        rows = x.reshape(-1, x.shape[-1])
        quantized, input_scale = self.quant_fp8(
            rows, getattr(layer, input_scale_name, None), getattr(layer, bound_name, None)
        )
        sums = _multiply(layer, quantized.to(torch.bfloat16))
        scaled = sums.to(torch.float32).mul_(input_scale).mul_(getattr(layer, scale_name))
        if bias is not None:
            scaled += bias
        return scaled.to(x.dtype).reshape(*x.shape[:-1], -1)

    def apply_scaled_mm(self, **_: object) -> torch.Tensor:
        raise NotImplementedError("apply_weights does all of it")


class EmulatedFp8BlockLinearKernel(_OnlyCpu, Fp8BlockScaledMMLinearKernel):  # type: ignore[misc] # likewise
    """Weight scales per block (128 x 128), activation scales per token and group of 128.

    Scales that change along the sum cannot be applied behind it, so they are multiplied into weights and activations,
    which rounds both to bfloat16: close to a GPU's numbers, and not as close as the other kernel.
    """

    def process_weights_after_loading(self, layer: torch.nn.Module) -> None:
        logger.warning_once("block-wise FP8 is EMULATED in bfloat16 on this CPU: meaningless for speed")
        params = self._get_layer_params(layer)
        rows, columns = self.weight_group_shape
        out_features, in_features = params.weight.shape
        wide = params.block_scale.to(torch.float32).repeat_interleave(rows, 0)[:out_features]
        wide = wide.repeat_interleave(columns, 1)[:, :in_features]
        _hold(layer, params.WEIGHT, (params.weight.to(torch.float32) * wide).to(torch.bfloat16))

    def apply_weights(
        self, layer: torch.nn.Module, x: torch.Tensor, bias: torch.Tensor | None = None, **_: object
    ) -> torch.Tensor:
        rows = x.reshape(-1, x.shape[-1])
        quantized, scale = self.quant_fp8(rows)
        group = self.config.activation_quant_key.scale.group_shape.col
        wide = scale.to(torch.float32).repeat_interleave(group, 1)[:, : rows.shape[1]]
        result = _multiply(layer, (quantized.to(torch.float32) * wide).to(torch.bfloat16))
        if bias is not None:
            result = result + bias
        return result.to(x.dtype).reshape(*x.shape[:-1], -1)

    def apply_block_scaled_mm(self, *_: object, **__: object) -> torch.Tensor:
        raise NotImplementedError("apply_weights does all of it")


def _hold(layer: torch.nn.Module, name: str, weight: torch.Tensor) -> None:
    """Give the layer a bfloat16 weight [out, in], packed by vLLM for the CPU as the weight of a bfloat16 model is."""
    holder = torch.nn.Module()
    holder.weight = torch.nn.Parameter(weight.contiguous(), requires_grad=False)
    dispatch_cpu_unquantized_gemm(holder, remove_weight=True)
    layer.carwright_bf16 = holder
    # What was loaded is not needed any more; a model must not be held twice.
    replace_parameter(layer, name, torch.nn.Parameter(torch.empty(0, dtype=torch.bfloat16), requires_grad=False))


def _multiply(layer: torch.nn.Module, rows: torch.Tensor) -> torch.Tensor:
    holder = layer.carwright_bf16
    return holder.cpu_linear(rows, holder.weight, None)
