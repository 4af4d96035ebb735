"""What a push needs before its plan: the bases by name, and the limits of the registry."""

from __future__ import annotations

import re
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Final

from containers.errors import BadInput
from containers.oci.access import open_repository
from containers.oci.base import Base, busybox_base, empty_base, image_base
from containers.oci.reference import Reference

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from containers.settings import Settings

# Most bytes that a registry takes in one layer, by host: Amazon ECR ("Amazon ECR service quotas"), GitHub ("Working with
# the Container registry").
_LAYER_BYTES: Final = (
    (re.compile(r"[0-9]+\.dkr\.ecr\..*|public\.ecr\.aws"), 52_000 << 20),
    (re.compile(r"ghcr\.io"), 10_000_000_000),
)


@contextmanager
def open_bases(name: str, platforms: Sequence[str], settings: Settings) -> Iterator[tuple[Base, ...]]:
    """The base of each platform: `busybox`, `none`, or an image reference; open while its layers may be read."""
    if not platforms or len(set(platforms)) != len(platforms):
        raise BadInput("give each platform once, and at least one", remedy="for example linux/amd64")
    with ExitStack() as stack:
        if name == "busybox":
            yield tuple(busybox_base(platform, settings) for platform in platforms)
        elif name == "none":
            yield tuple(empty_base(platform) for platform in platforms)
        else:
            repository = stack.enter_context(open_repository(Reference.parse(name), settings))
            yield tuple(image_base(repository, platform) for platform in platforms)


def registry_layer_bytes(target: Reference, settings: Settings) -> int:
    """Most bytes in one layer of that registry, 0 where no limit is known."""
    if settings.registry.layer_bytes:
        return settings.registry.layer_bytes
    return next((limit for host, limit in _LAYER_BYTES if host.fullmatch(target.registry)), 0)
