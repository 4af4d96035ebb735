"""Where the arithmetic is done: pieces of a weight go to the device and come back while others are under way."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from containers.errors import BadInput
from containers.quantize.arithmetic import Arithmetic, Quantized
from containers.quantize.resources import CPU_PIECE, CUDA_PIECE, SMALLEST_PIECE, threads_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from containers.quantize.schemes import Scheme


@dataclass(frozen=True)
class Device:
    """A device for one scheme. `piece` is bytes of a weight at a time, `threads` compute at once for one group."""

    arithmetic: Arithmetic
    piece: int
    threads: int
    out_of_memory: type[Exception] = torch.OutOfMemoryError

    @property
    def pinned(self) -> bool:
        """Whether the device copies by itself from memory that is pinned."""
        return bool(self.arithmetic.device.type == "cuda")

    def buffer(self, size: int, *, pinned: bool) -> torch.Tensor:
        return torch.empty(size, dtype=torch.uint8, pin_memory=pinned)

    @contextmanager
    def thread(self) -> Iterator[Lane]:
        """What one computing thread needs, a stream of its own on a GPU."""
        if self.arithmetic.device.type != "cuda":
            yield Lane(self.arithmetic)
            return
        stream = torch.cuda.Stream(self.arithmetic.device)
        with torch.cuda.device(self.arithmetic.device), torch.cuda.stream(stream):
            yield CudaLane(self.arithmetic)

    def free(self) -> None:
        """Give memory that nothing uses back to the GPU."""
        if self.pinned:
            torch.cuda.empty_cache()

    def smaller(self) -> Device | None:
        """The same with half as many bytes at a time; None when that would be too few to go on."""
        half = self.piece // 2
        return Device(self.arithmetic, half, 1) if half >= SMALLEST_PIECE else None


class Lane:
    """One computing thread on the CPU."""

    def __init__(self, arithmetic: Arithmetic) -> None:
        self.arithmetic = arithmetic

    def quantize(self, raw: torch.Tensor, dtype: str, columns: int) -> tuple[Quantized, Callable[[], None]]:
        """The result in host memory, and what waits until it is there."""
        return self.arithmetic.quantize(raw, dtype, columns), lambda: None


class CudaLane(Lane):
    """One computing thread with a stream on a GPU: nothing here waits, so copies and kernels of pieces overlap."""

    def quantize(self, raw: torch.Tensor, dtype: str, columns: int) -> tuple[Quantized, Callable[[], None]]:
        there = raw.to(self.arithmetic.device, non_blocking=True)
        done = self.arithmetic.quantize(there, dtype, columns)
        back = Quantized(_fetch(done.weight), _fetch(done.scale), _fetch(done.sound))
        event = torch.cuda.Event()
        event.record()
        return back, event.synchronize


def open_device(scheme: Scheme, name: str, lanes: int) -> Device:
    """The device of that name, shared by `lanes` groups at once; raises BadInput for one that is not there."""
    device = choose(name)
    torch.set_num_threads(1)  # pieces are computed side by side: threads inside one would only wait for each other
    if device.type == "cuda":
        return Device(Arithmetic(scheme, device), CUDA_PIECE, 1)
    return Device(Arithmetic(scheme, device), CPU_PIECE, threads_for(lanes))


def choose(name: str) -> torch.device:
    """The device of that name; `auto` is the first GPU, or the CPU."""
    if name == "auto":
        return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise BadInput(f"{name!r} is not a device", remedy="use auto, cpu, cuda or cuda:N") from error
    if device.type not in ("cpu", "cuda"):
        raise BadInput(f"the device {name} is not supported", remedy="use auto, cpu, cuda or cuda:N")
    if device.type == "cpu":
        return torch.device("cpu")
    index = device.index or 0
    if index >= torch.cuda.device_count():
        raise BadInput(
            f"the device {name} does not exist (GPUs here: {torch.cuda.device_count()})", remedy="use auto or cpu"
        )
    return torch.device("cuda", index)


def _fetch(tensor: torch.Tensor) -> torch.Tensor:
    host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    return host.copy_(tensor, non_blocking=True)
