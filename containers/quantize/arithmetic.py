"""The arithmetic of one weight: compressed-tensors' functions on as many rows at a time as fit into a cache.

The result is what `model_free_ptq` writes on a CPU, to the bit. Rows (blocks of rows for a block scheme) do not depend
on one another, so cutting a weight changes nothing. Two things are done otherwise than in the library's own loop:

- Its `quantize` casts to the narrow type, back and again, which changes no value and costs most of the time on a CPU;
  `round_to_quantized_type_args` is asked for the narrow type directly.
- On a GPU of compute capability 9.0 its `quantize` takes a Triton kernel that divides in float32 and rounds once, where
  every other device rounds the quotient to the weight's type first: of normally distributed BF16 weights three values
  in a hundred (eight with W8A8) come out one step away, which is why its files differ between a CPU and an H200. Here
  the quotient is rounded to the weight's type on every device, so that a checkpoint has one digest.
  `tests/bench/_quantize_gpu.py` shows both.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import torch
from compressed_tensors.quantization import preset_name_to_scheme
from compressed_tensors.quantization.quant_args import round_to_quantized_type_args
from compressed_tensors.quantization.utils import calculate_qparams, calculate_range, maybe_pad_tensor_for_block_quant

if TYPE_CHECKING:
    from containers.quantize.schemes import Scheme

DTYPES: Final = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32}
_CACHED: Final = 1 << 19  # elements worked on at once on a CPU: what the passes touch stays in a core's cache


@dataclass(frozen=True)
class Quantized:
    """Rows of a weight, as bytes (uint8 tensors) on the device where they were made.

    `sound` (one bool) says whether every scale is a finite number: they are not when a value is infinite or not a
    number. It is a tensor because asking a GPU for it waits for all the work before.
    """

    weight: torch.Tensor
    scale: torch.Tensor
    sound: torch.Tensor


class Arithmetic:
    """One scheme on one device."""

    def __init__(self, scheme: Scheme, device: torch.device) -> None:
        self.scheme = scheme
        self.device = device
        self._args: Any = preset_name_to_scheme(scheme.name, ["Linear"]).weights
        self._low, self._high = calculate_range(self._args, device)
        self._dtype: torch.dtype = self._args.pytorch_dtype()

    def quantize(self, raw: torch.Tensor, dtype: str, columns: int) -> Quantized:
        """Quantize whole rows: `raw` is their bytes (uint8, on this device), `columns` the length of one.

        For a block scheme the rows start at a block's first.
        """
        rows = raw.view(DTYPES[dtype]).view(-1, columns)  # plain tensors, so nothing here records gradients
        step = self._step(columns) if self.device.type == "cpu" else rows.shape[0]
        if step >= rows.shape[0]:
            weight, scale = self._rows(rows)
        else:
            weight = torch.empty(rows.shape, dtype=self._dtype, device=self.device)
            scale = torch.empty(self.scheme.scale_shape(*rows.shape), dtype=rows.dtype, device=self.device)
            height = self.scheme.block[0]
            for start in range(0, rows.shape[0], step):
                part, part_scale = self._rows(rows[start : start + step])
                weight[start : start + step].copy_(part)
                scale[start // height : start // height + part_scale.shape[0]].copy_(part_scale)
        sound = torch.isfinite(scale).all()
        return Quantized(weight.view(torch.uint8).view(-1), scale.view(torch.uint8).view(-1), sound)

    def _step(self, columns: int) -> int:
        height = self.scheme.block[0]
        return max(_CACHED // columns // height, 1) * height

    def _rows(self, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The weight in its narrow type and the scales, for rows that are worked on in one go."""
        if self.scheme.strategy == "channel":
            scale, _ = calculate_qparams(
                torch.amin(rows, dim=-1, keepdim=True), torch.amax(rows, dim=-1, keepdim=True), self._args
            )
            return self._narrow(rows / scale), scale
        height, width = self.scheme.block
        padded = maybe_pad_tensor_for_block_quant(rows, (height, width))
        blocks = padded.view(padded.shape[0] // height, height, padded.shape[1] // width, width)
        scale, _ = calculate_qparams(torch.amin(blocks, dim=(1, 3)), torch.amax(blocks, dim=(1, 3)), self._args)
        narrow = self._narrow(blocks / scale[:, None, :, None])
        return narrow.view(padded.shape)[: rows.shape[0], : rows.shape[1]].contiguous(), scale

    def _narrow(self, quotient: torch.Tensor) -> torch.Tensor:
        rounded = round_to_quantized_type_args(
            quotient, args=self._args, min=self._low, max=self._high, cast_to_original_dtype=False
        )
        return rounded.to(self._dtype)
