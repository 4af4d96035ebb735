"""The quantization schemes that this step serves: what each one writes, known without torch.

The names are those of compressed-tensors' presets (`compressed_tensors.quantization.PRESET_SCHEMES`). Every scheme here
is data-free (no calibration) and stores 8-bit weights beside their scales, as llm-compressor's `model_free_ptq` does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from containers.scheme_names import check_scheme


@dataclass(frozen=True)
class Scheme:
    """How one weight of shape (rows, columns) is stored.

    `weight_dtype` is the safetensors name of the quantized weight's type. A `channel` scheme has one scale for each
    row, a `block` scheme one for each `block` (rows, columns) of the weight, the last ones partly filled. Scales have
    the type of the unquantized weight.
    """

    name: str
    weight_dtype: Literal["F8_E4M3", "I8"]
    strategy: Literal["channel", "block"]
    block: tuple[int, int] = (1, 1)

    def scale_shape(self, rows: int, columns: int) -> tuple[int, int]:
        if self.strategy == "channel":
            return rows, 1
        height, width = self.block
        return -(-rows // height), -(-columns // width)


SCHEMES: Final = {
    scheme.name: scheme
    for scheme in (
        Scheme("FP8_DYNAMIC", "F8_E4M3", "channel"),
        Scheme("FP8_BLOCK", "F8_E4M3", "block", (128, 128)),
        Scheme("W8A8", "I8", "channel"),
    )
}


def scheme_named(name: str) -> Scheme:
    """The scheme of that name; raises BadInput with the list for any other."""
    check_scheme(name)
    return SCHEMES[name]
