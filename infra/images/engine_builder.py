"""Builds images with an ordinary builder, `docker build` (BuildKit) or `podman build`: from the checkout and with the network.

The Containerfile is the one of the hermetic build; its stage `laid-out` fetches there what is locked (infra/images/ordinary.py).
`docker compose -f infra/compose.yaml build` does the same without Python on the machine.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from pydantic_settings import BaseSettings, SettingsConfigDict

from containers.errors import BadInput, DiskFull, Error
from containers.events import Event
from containers.process import Child, inherited, run
from infra.images import local_engine
from infra.images.builders import CLIENT, Builder
from infra.images.context import Inputs, inputs_of, labels
from infra.images.ordinary import BASE
from infra.images.targets import ROOT

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from infra.images.targets import Target
    from infra.settings import Settings

# Taken from this process's variables by the builder: an index's URL may hold a password, and command lines are public.
_PASSED_ON: Final = ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "CARWRIGHT_PIP_PYTORCH_INDEX_URL")
_TIMEOUT: Final = 60.0  # seconds


class BuildVariables(BaseSettings):
    """The variables of a build that infra/compose.yaml has, too: CARWRIGHT_<NAME>."""

    model_config = SettingsConfigDict(env_prefix="CARWRIGHT_", extra="ignore")

    base: str = BASE
    build_network: str = "default"
    ca_certificates: str = ""


@dataclass
class EngineBuilder:
    """Builds in the storage of `engine`, DOCKER or PODMAN. `on_event` gets the target's name and each event."""

    engine: Builder
    settings: Settings
    on_event: Callable[[str, Event], None]
    base: str = ""
    vllm: str = ""
    source: str = "carwright"
    root: Path = ROOT

    def __post_init__(self) -> None:
        self.variables = BuildVariables()
        self.base = self.base or self.variables.base

    def name(self, target: Target) -> str:
        return self.settings.docker.image.format(target=target.name)

    def inputs(self, target: Target) -> Inputs:
        if not target.python:
            raise BadInput(
                f"the image {target.name} is made by the hermetic build only",
                remedy="install buildah, mmdebstrap, apt and dpkg; the other images do not need it",
            )
        return replace(inputs_of(target, vllm=self.vllm, root=self.root), base_debs=(), base=self.base)

    def update(self, targets: Sequence[Target]) -> None:
        """Build each image that the engine has not from these inputs. Raises what `build` raises."""
        for target in targets:
            if self._labels(target).get(local_engine.INPUTS) == self.inputs(target).digest:
                self._say(target, f"{self.name(target)} is up to date")
            else:
                self.build(target)

    def build(self, target: Target) -> str:
        """Build the image and return its id. Raises DiskFull, or Error with the end of the builder's output."""
        lines: list[str] = []

        def listen(line: str) -> None:
            lines.append(line)
            self.on_event(target.name, Event(event="log", level="debug", message=line))

        self._say(target, f"building {self.name(target)}")
        with Child(self.argv(target), self._environment(), on_line=listen) as child:
            code = child.wait()
        if code != 0:
            text = "\n".join(lines)
            if "no space left" in text.lower():
                raise DiskFull(f"no space left for {self.engine}'s images", remedy="free some space")
            raise Error(f"the image {target.name} cannot be built:\n" + "\n".join(lines[-25:]))
        (found,) = json.loads(self._run("image", "inspect", self.name(target)))
        return str(found["Id"])

    def argv(self, target: Target) -> list[str]:
        """The builder's command line."""
        inputs = self.inputs(target)
        argv = [self.engine.value, "build", "--file", str(inputs.containerfile), "--target", target.name]
        # Docker's format has HEALTHCHECK, OCI's has not.
        argv += ["--progress=plain"] if self.engine is Builder.DOCKER else ["--format=docker"]
        arguments = {"BASE": inputs.base, "TARGET": target.name, **({"VLLM": inputs.vllm} if inputs.vllm else {})}
        arguments |= {"BENEATH": inputs.arguments["BENEATH"]} if inputs.libraries else {}
        for key, value in arguments.items():
            argv += ["--build-arg", f"{key}={value}"]
        for key in ("CA_CERTIFICATES", *_PASSED_ON):
            argv += ["--build-arg", key]
        if self.variables.build_network != "default":
            argv += ["--network", self.variables.build_network]
        for key, value in labels(inputs, self.source).items():
            argv += ["--label", f"{key}={value}"]
        return [*argv, "--tag", self.name(target), str(self.root)]

    def _environment(self) -> dict[str, str]:
        pytorch, extra = self.settings.pip_pytorch_index_url.get_secret_value(), self.settings.pip_extra_index_url
        return {
            **inherited("PIP_", *CLIENT),
            **({"PIP_EXTRA_INDEX_URL": extra.get_secret_value()} if extra else {}),
            "DOCKER_BUILDKIT": "1",
            "CA_CERTIFICATES": self.variables.ca_certificates,
            "CARWRIGHT_PIP_PYTORCH_INDEX_URL": pytorch,
            **({"DOCKER_HOST": self.settings.docker.host} if self.settings.docker.host else {}),
        }

    def _labels(self, target: Target) -> dict[str, str]:
        found = self._run("image", "ls", "--quiet", self.name(target)).split()
        if not found:
            return {}
        (image,) = json.loads(self._run("image", "inspect", self.name(target)))
        return image["Config"].get("Labels") or {}

    def _run(self, *arguments: str) -> str:
        return run([self.engine.value, *arguments], env=self._environment(), timeout=_TIMEOUT).stdout

    def _say(self, target: Target, message: str) -> None:
        self.on_event(target.name, Event(event="log", message=message))
