"""What a container engine says about itself, for `carwright doctor`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from infra.container_engine.client import connect
from infra.container_engine.failures import translated_errors

if TYPE_CHECKING:
    from infra.settings import DockerSettings

_CDI: Final = ("/etc/cdi", "/var/run/cdi")  # where engines look for device specifications unless told otherwise


@dataclass(frozen=True)
class EngineFacts:
    """`product` is Docker or Podman, `api` the version of its API. `nvidia` says how it gives NVIDIA's GPUs to containers:
    with a `runtime`, with device specifications (`CDI`), or, empty, not at all.
    """

    product: str
    version: str
    api: tuple[int, ...]
    rootless: bool
    nvidia: str

    def __str__(self) -> str:
        return f"{self.product} {self.version}, API {'.'.join(map(str, self.api))}" + (
            ", rootless" if self.rootless else ""
        )


def inspect_engine(settings: DockerSettings) -> EngineFacts:
    """Ask the engine; raises what `connect` raises."""
    with connect(settings) as engine, translated_errors("say what it is"):
        version, info = engine.api.version(), engine.api.info()
    parts = [str(one.get("Name", "")) for one in version.get("Components") or ()]
    podman = any("podman" in part.lower() for part in parts)
    return EngineFacts(
        product="Podman" if podman else "Docker",
        version=str(version.get("Version", "?")),
        api=tuple(int(part) for part in str(version.get("ApiVersion", "0")).split(".")),
        rootless="name=rootless" in (info.get("SecurityOptions") or ()),
        nvidia=_nvidia(info),
    )


def _nvidia(info: dict[str, Any]) -> str:
    if "nvidia" in (info.get("Runtimes") or {}):
        return "runtime"
    if any("nvidia.com/gpu" in str(device.get("ID")) for device in info.get("DiscoveredDevices") or ()):
        return "CDI"
    folders = info.get("CDISpecDirs") or _CDI  # Docker 28 names devices, earlier ones and podman only their folders
    return "CDI" if any(any(Path(folder).glob("*nvidia*")) for folder in folders if Path(folder).is_dir()) else ""
