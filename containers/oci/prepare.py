"""What a push needs before its plan: the bases by name, and the limits of the registry."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from containers.errors import BadInput
from containers.oci.access import open_repository
from containers.oci.base import Base, busybox_base, empty_base, image_base, minimal_base
from containers.oci.reference import Reference
from containers.registry_limits import layer_limit

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from containers.settings import StepSettings


@contextmanager
def open_bases(name: str, platforms: Sequence[str], settings: StepSettings) -> Iterator[tuple[Base, ...]]:
    """The base of each platform: one of `BASES` or an image reference; open while its layers may be read."""
    if not platforms or len(set(platforms)) != len(platforms):
        raise BadInput("give each platform once, and at least one", remedy="for example linux/amd64")
    with ExitStack() as stack:
        if name == "minimal":
            yield tuple(minimal_base(platform) for platform in platforms)
        elif name == "busybox":
            yield tuple(busybox_base(platform, settings) for platform in platforms)
        elif name == "none":
            yield tuple(empty_base(platform) for platform in platforms)
        else:
            repository = stack.enter_context(open_repository(Reference.parse(name), settings))
            yield tuple(image_base(repository, platform) for platform in platforms)


def registry_layer_bytes(target: Reference, settings: StepSettings) -> int:
    """Most bytes in one layer of that registry, 0 where no limit is known."""
    return settings.registry.layer_bytes or layer_limit(target.registry)
