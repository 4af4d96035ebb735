"""The local container engine: which of our images it has, and giving it one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flows.engine.failures import speaking

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from flows.engine.client import Engine

INPUTS = "io.carwright.inputs"


def labels_of(engine: Engine, name: str) -> Mapping[str, str]:
    """The labels of an image that the engine has; empty when it has none of that name."""
    if not engine.has_image(name):
        return {}
    with speaking(f"look at the image {name}"):
        labels: Mapping[str, str] | None = engine.api.inspect_image(name)["Config"]["Labels"]
    return labels or {}


def load(engine: Engine, archive: Path) -> None:
    """Give the engine an image that `Buildah.export` wrote."""
    with speaking(f"load {archive.name}"), archive.open("rb") as file:
        for told in engine.api.load_image(file):
            if "error" in told:
                raise OSError(told["error"])
