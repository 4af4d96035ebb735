"""How many layers an image may have, and how large a layer may be.

The limit of a layer is documented by Amazon ("Amazon ECR service quotas": 52,000 MiB) and GitHub ("Working with the
Container registry": 10 GB) and known by their hosts: a push refuses what they would refuse. Harbor and Quay name no limit:
Harbor was seen to fail above 32 GiB, and Quay to take layers of up to 20 GB. These two run under any host name, so they
can only be warned of.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

MOUNTABLE_LAYERS: Final = 127  # what overlay file systems mount
MODEL_LAYERS: Final = (
    120  # what an image's model may have of them: the base, the card and whoever builds on it need some
)


@dataclass(frozen=True)
class LayerLimit:
    """The most `size` bytes in one layer; `hosts` are those that are known to hold to it."""

    registry: str
    size: int
    hosts: re.Pattern[str] | None = None


LAYER_LIMITS: Final = (
    LayerLimit("GitHub", 10_000_000_000, re.compile(r"ghcr\.io")),
    LayerLimit("Quay", 20_000_000_000),
    LayerLimit("Harbor", 32 << 30),
    LayerLimit("Amazon ECR", 52_000 << 20, re.compile(r"[0-9]+\.dkr\.ecr\..*|public\.ecr\.aws")),
)


def layer_limit(host: str) -> int:
    """Most bytes in one layer of the registry at `host`, 0 where no limit is known."""
    return next((one.size for one in LAYER_LIMITS if one.hosts is not None and one.hosts.fullmatch(host)), 0)


def may_refuse(size: int) -> list[str]:
    """The registries that a layer of this size may be too large for, each with what it takes."""
    return [f"{one.registry} (up to {one.size / 1e9:.1f} GB)" for one in LAYER_LIMITS if size > one.size]
