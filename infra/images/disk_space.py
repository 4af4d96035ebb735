"""How much of a disk images need while they are built, told before anything is fetched or built.

Counted in the sizes of the budget (`budget.toml`), by what was seen (docs/measurements/images.md): all images for CPUs took 10 GB for
5.2 GB of images, one build of serve-cuda 29.6 GB for 9.1, and building twice 40.6 GB, or 30.8 GB for the 5.4 of quantize-cuda.
"""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Final

from containers.errors import DiskFull
from containers.events import amount

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from infra.images.targets import Target

_KEPT: Final = 1.6  # of its size: the image in the storage, and the wheels that it is made from
_PASSING: Final = 1.5  # of the largest: the context that it is built in, or its archive for the engine
_TWICE: Final = 5.2  # of its size: two contexts and two storages, and the wheels
_UNKNOWN: Final = 10_000_000_000  # bytes: an image that has no budget is made from upstream's of vLLM


def needed(targets: Sequence[Target], sizes: Mapping[str, int]) -> int:
    """Bytes that building these takes at most, one after the other; `sizes` are those of the budget, in bytes by name."""
    each = [sizes.get(target.name, _UNKNOWN) for target in targets]
    return int(_KEPT * sum(each) + _PASSING * max(each, default=0))


def needed_twice(target: Target, sizes: Mapping[str, int]) -> int:
    """Bytes that building it twice from scratch takes at most."""
    return int(_TWICE * sizes.get(target.name, _UNKNOWN))


def check(folder: Path, size: int, what: str) -> None:
    """Raises DiskFull where `folder`, which is there, has less than `size` bytes free for `what`."""
    free = shutil.disk_usage(folder).free
    if free < size:
        raise DiskFull(
            f"{folder} has {amount(free, 'B')} free, and {what} may need {amount(size, 'B')}",
            remedy="free some space, or set CARWRIGHT_CACHE to a folder on a larger disk",
        )
