"""The names of the quantization schemes, for whoever takes one from a person; what they mean is in containers/quantize/schemes.py."""

from __future__ import annotations

from typing import Final

from containers.errors import BadInput

NAMES: Final = ("FP8_DYNAMIC", "FP8_BLOCK", "W8A8")
# Presets of compressed-tensors that people will ask for, and why they are not served.
_REFUSED: Final = {
    "FP8": "its activations need calibration data, and model_free_ptq has none",
    "INT8": "this is another name for W8A8",
    "NVFP4": "its activations need calibration data, and model_free_ptq has none",
}


def check_scheme(name: str) -> None:
    """Raises BadInput, with the list, for a name that is not among them."""
    if name in NAMES:
        return
    why = _REFUSED.get(name.upper(), "not supported")
    if name.upper() in NAMES:
        why = f"write it as {name.upper()}"
    raise BadInput(f"scheme {name!r}: {why}", remedy=f"use one of {', '.join(NAMES)}")
