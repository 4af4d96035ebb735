"""Runs inside the environment of the serve step: the plugin's kernels beside plain arithmetic; prints JSON.

    PYTHONPATH=containers/serve/plugin VLLM_CACHE_ROOT=<new> python tests/support/cpu_fp8_check.py

The reference is written out in float64 and shares no code with the plugin or with vLLM.
"""

import json
import subprocess

import carwright_cpu_fp8 as plugin  # type: ignore[import-not-found] # on PYTHONPATH of this program alone
import torch
from vllm.config import CompilationConfig, CompilationMode, VllmConfig, set_current_vllm_config
from vllm.model_executor.kernels import linear
from vllm.model_executor.layers.quantization.utils.quant_utils import (
    GroupShape,
    create_fp8_quant_key,
    kFp8DynamicTokenSym,
    kFp8StaticChannelSym,
)
from vllm.model_executor.models import registry
from vllm.plugins import load_general_plugins

E4M3 = torch.float8_e4m3fn


def quantized(rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Dynamic and per token, as the FP8_DYNAMIC scheme has it: the largest magnitude of a row becomes 448."""
    scale = rows.to(torch.float32).abs().amax(-1, keepdim=True) / 448
    return (rows.to(torch.float32) * scale.reciprocal()).clamp(-448, 448).to(E4M3), scale


def per_channel(
    weight: torch.Tensor, weight_scale: torch.Tensor, rows: torch.Tensor, bias: torch.Tensor | None
) -> tuple[str, torch.Tensor, int]:
    """What the plugin makes of a layer that vLLM hands it; weight [out, in] in E4M3, scales [out, 1]."""
    kernel = linear.init_fp8_linear_kernel(
        activation_quant_key=kFp8DynamicTokenSym,
        weight_quant_key=kFp8StaticChannelSym,
        input_dtype=torch.bfloat16,
        out_dtype=torch.bfloat16,
        weight_shape=tuple(weight.shape),
    )
    layer = torch.nn.Module()
    layer.weight = torch.nn.Parameter(weight.t(), requires_grad=False)  # vLLM hands over [in, out]
    layer.weight_scale = torch.nn.Parameter(weight_scale, requires_grad=False)
    layer.input_scale = None
    kernel.process_weights_after_loading(layer)
    held = sum(one.numel() for one in layer.parameters(recurse=False))
    return type(kernel).__name__, kernel.apply_weights(layer, rows, bias), held


def whole_numbers() -> dict[str, object]:
    """Numbers that E4M3 holds, scales that are powers of two and sums below 2**8: nothing is rounded anywhere."""
    generator = torch.Generator().manual_seed(1)
    weight = torch.randint(-1, 2, (48, 64), generator=generator).to(torch.float32)
    rows = torch.randint(-2, 3, (5, 64), generator=generator).to(torch.float32)
    rows[:, 0] = 448.0  # makes the scale of every row a power of two ...
    weight[:, 0] = 0.0  # ... and adds nothing
    weight_scale = torch.exp2(torch.randint(-6, 3, (48, 1), generator=generator).to(torch.float32))
    row_scale = torch.exp2(torch.randint(-6, 3, (5, 1), generator=generator).to(torch.float32))
    bias = torch.full((48,), 0.0)
    expected = (rows * row_scale).double() @ (weight * weight_scale).double().t()
    name, got, held = per_channel(
        weight.to(E4M3), weight_scale, (rows * row_scale).to(torch.bfloat16), bias.to(torch.bfloat16)
    )
    return {"kernel": name, "equal": bool(torch.equal(got.double(), expected)), "held": held}


def any_numbers() -> dict[str, object]:
    """Ordinary numbers, 3-D input and a bias: the distance to the exact result in units of bfloat16's precision."""
    generator = torch.Generator().manual_seed(2)
    weight = (torch.randn(96, 256, generator=generator) * 100).clamp(-448, 448).to(E4M3)
    weight_scale = torch.rand(96, 1, generator=generator) * 0.01 + 1e-4
    rows = (torch.randn(2, 7, 256, generator=generator) * 3).to(torch.bfloat16)
    bias = torch.randn(96, generator=generator).to(torch.bfloat16)
    q, scale = quantized(rows)
    sums = q.double() @ weight.double().t()
    exact = sums * scale.double() * weight_scale.double().t() + bias.double()
    _, got, _ = per_channel(weight, weight_scale, rows, bias)
    # One rounding of the sum to bfloat16 (8 significant bits: half a unit is 2**-9), one of the result.
    allowed = (sums * scale.double() * weight_scale.double().t()).abs() * 2.0**-8 + exact.abs() * 2.0**-8
    unquantized = rows.double() @ (weight.double() * weight_scale.double()).t() + bias.double()
    return {
        "shape": list(got.shape),
        "worst": float(((got.double() - exact).abs() / allowed).max()),
        "error": float((got.double() - exact).norm() / exact.norm()),
        "error_of_no_quantization": float((unquantized - exact).norm() / exact.norm()),
    }


def block_wise() -> dict[str, object]:
    """Scales per 128 x 128 block and per group of 128, with a ragged last block in both directions."""
    generator = torch.Generator().manual_seed(3)
    weight = (torch.randn(160, 320, generator=generator) * 100).clamp(-448, 448).to(E4M3)
    weight_scale = torch.rand(2, 3, generator=generator) * 0.01 + 1e-4
    rows = (torch.randn(4, 320, generator=generator) * 3).to(torch.bfloat16)
    kernel = linear.init_fp8_linear_kernel(
        activation_quant_key=create_fp8_quant_key(static=False, group_shape=GroupShape(1, 128)),
        weight_quant_key=create_fp8_quant_key(static=True, group_shape=GroupShape(128, 128)),
        input_dtype=torch.bfloat16,
        out_dtype=torch.bfloat16,
        weight_shape=(160, 320),
    )
    layer = torch.nn.Module()
    layer.weight = torch.nn.Parameter(weight, requires_grad=False)
    layer.weight_scale = torch.nn.Parameter(weight_scale, requires_grad=False)
    kernel.process_weights_after_loading(layer)
    got = kernel.apply_weights(layer, rows)
    exact = torch.zeros(4, 160, dtype=torch.float64)
    for column in range(0, 320, 128):
        q, scale = quantized(rows[:, column : column + 128])
        for row in range(0, 160, 128):
            block = weight[row : row + 128, column : column + 128].double()
            factor = weight_scale[row // 128, column // 128].double()
            exact[:, row : row + 128] += (q.double() @ block.t()) * scale.double() * factor
    return {"kernel": type(kernel).__name__, "error": float((got.double() - exact).norm() / exact.norm())}


def inspected() -> str:
    """The class of a model, looked at without another process; nothing is cached in a new VLLM_CACHE_ROOT."""
    subprocess.run = None  # type: ignore[assignment] # whoever calls it fails
    return str(registry.ModelRegistry.models["LlamaForCausalLM"].inspect_model_cls().architecture)


def main() -> None:
    load_general_plugins()
    plugin.register()  # a second time: vLLM does so in several processes
    fp8 = [kernel.__name__ for kernel in linear._POSSIBLE_FP8_KERNELS[linear.PlatformEnum.CPU]]
    architecture = inspected()
    eager = VllmConfig(compilation_config=CompilationConfig(mode=CompilationMode.NONE))
    with set_current_vllm_config(eager), torch.no_grad():
        print(
            "RESULT "
            + json.dumps(
                {
                    "architecture": architecture,
                    "kernels": fp8,
                    "whole_numbers": whole_numbers(),
                    "any_numbers": any_numbers(),
                    "block_wise": block_wise(),
                }
            )
        )


if __name__ == "__main__":
    main()
