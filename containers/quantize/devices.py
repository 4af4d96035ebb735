"""Where the arithmetic is done."""

from __future__ import annotations

import torch

from containers.errors import BadInput


def choose(name: str) -> torch.device:
    """The device of that name; `auto` is the first GPU, or the CPU. Raises BadInput for one that is not there."""
    if name == "auto":
        return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise BadInput(f"{name!r} is not a device", remedy="take auto, cpu, cuda or cuda:N") from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise BadInput(
            f"the device {name} is not there ({torch.cuda.device_count()} GPUs are)", remedy="take auto or cpu"
        )
    if device.type not in ("cpu", "cuda"):
        raise BadInput(f"the device {name} is not served", remedy="take auto, cpu, cuda or cuda:N")
    return torch.device("cuda", device.index or 0) if device.type == "cuda" else device
