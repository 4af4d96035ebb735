"""buildah, without a network: a laid out context becomes an image in a storage of its own under the cache.

As root the build runs in a network namespace that has nothing in it (unshare(1)) with buildah's chroot isolation, which
needs no container runtime; otherwise buildah is rootless and gives its containers no network. Either way a program in the
image checks that there is none (inside/offline.py). Dates are all 0: `--timestamp 0`. The format is OCI's: in Docker's, buildah
1.28 writes the random names of its containers into the image. OCI's has no room for HEALTHCHECK; `local_engine.load` adds it.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from containers.errors import BadInput, DiskFull, Error, Temporary
from containers.events import Event
from containers.process import Child, ProcessFailed, inherited, run
from infra.images.context import LABELLED, LAID_OUT

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from infra.images.context import Inputs

_STEP: Final = re.compile(r"(\[\d+/\d+\] )?STEP (?P<done>\d+)/(?P<total>\d+): (?P<what>.*)")
_REMEDY: Final = "install it (Debian: apt-get install buildah)"


@dataclass(frozen=True)
class Built:
    """An image in the storage. `layers` are (diff id, bytes), the base's first; `size` is uncompressed."""

    name: str
    image_id: str
    digest: str
    layers: tuple[tuple[str, int], ...]
    labels: Mapping[str, str]

    @property
    def size(self) -> int:
        return sum(size for _, size in self.layers)


@dataclass(frozen=True)
class Buildah:
    """A buildah whose storage is `folder`; make it with `open_storage`."""

    folder: Path
    driver: str

    @classmethod
    def open_storage(cls, folder: Path) -> Buildah:
        """Overlay where this system has it, else vfs, which copies every layer. Raises BadInput when buildah is missing."""
        if shutil.which("buildah") is None:
            raise BadInput("buildah is not installed", remedy=_REMEDY)
        folder = folder.absolute()
        folder.mkdir(parents=True, exist_ok=True)
        marker = folder / "driver"
        if not marker.is_file():
            works = run(cls(folder, "overlay").argv("info"), env=_environment(), check=False).code == 0
            if not works:
                shutil.rmtree(folder / "overlay", ignore_errors=True)
            marker.write_text("overlay" if works else "vfs")
        return cls(folder, marker.read_text())

    def argv(self, *arguments: str) -> list[str]:
        places = ["--root", str(self.folder / "root"), "--runroot", str(self.folder / "run")]
        return ["buildah", *places, "--storage-driver", self.driver, *arguments]

    def build(
        self,
        inputs: Inputs,
        context: Path,
        name: str,
        on_event: Callable[[Event], None],
        *,
        cached: bool = True,
    ) -> Built:
        """Build `context` and call the image `name`; raises DiskFull, Temporary, or Error with the end of buildah's output."""
        title = inputs.target.name
        for reference in inputs.pulled:
            self.pull(reference)
        argv = self.argv("build", "--layers", "--timestamp", "0", "--format", "oci", "--pull-never")
        argv += ["--target", LABELLED, "--build-context", f"{LAID_OUT}={context}"]
        argv += ["--tag", name]
        argv += ["--isolation", "chroot"] if os.geteuid() == 0 else ["--network", "none"]
        for key, value in inputs.arguments.items():
            argv += ["--build-arg", f"{key}={value}"]
        if not cached:
            argv.append("--no-cache")
        argv += ["--file", str(context / "Containerfile"), str(context)]
        if os.geteuid() == 0:
            argv = ["unshare", "--net", "--mount", "--", *argv]  # what a failed build leaves mounted ends with it

        lines: list[str] = []

        def listen(line: str) -> None:
            lines.append(line)
            if match := _STEP.fullmatch(line):
                slow = match["what"].startswith(("RUN", "ADD"))  # the rest is for --verbose
                text = f"{match['done']}/{match['total']} {match['what'][:90]}"
                on_event(Event(event="log", level="info" if slow else "debug", message=text))

        with Child(argv, {**_environment(), "TMPDIR": str(self._scratch())}, on_line=listen) as child:
            code = child.wait()
        if code != 0:
            text = "\n".join(lines)
            if "no space left" in text.lower():
                raise DiskFull(f"no space left under {self.folder}", remedy="free some space, or set CARWRIGHT_CACHE")
            raise Error(f"the image {title} cannot be built:\n" + "\n".join(lines[-15:]))
        # What no image stands on any more: layers of older inputs, and stages that were only copied from.
        run(self.argv("rmi", "--prune"), env=_environment(), check=False)
        return self.inspect(name)

    def pull(self, reference: str) -> None:
        """Pull a base image unless it is in the storage; raises Temporary if it cannot be pulled."""
        if run(self.argv("inspect", "--type", "image", reference), env=_environment(), check=False).code == 0:
            return
        local = reference.startswith(("127.0.0.1:", "localhost:"))
        flags = ["--tls-verify=false"] if local else []
        try:
            run(self.argv("pull", "--quiet", *flags, reference), env=_environment(), timeout=3600)
        except ProcessFailed as error:
            raise Temporary(
                f"cannot pull {reference}:\n{error.output.strip()}",
                remedy="check the reference, the login and the network",
            ) from error

    def inspect(self, name: str) -> Built:
        """The image of this name in the storage; raises BadInput if there is none."""
        try:
            found = json.loads(run(self.argv("inspect", "--type", "image", name), env=_environment()).stdout)
        except ProcessFailed as error:
            raise BadInput(f"{name} was not built", remedy="run `carwright images build`") from error
        manifest: dict[str, Any] = json.loads(found["Manifest"])
        config: dict[str, Any] = json.loads(found["Config"])
        sizes = [layer["size"] for layer in manifest["layers"]]
        return Built(
            name=name,
            image_id="sha256:" + found["FromImageID"],
            digest=found["FromImageDigest"],
            layers=tuple(zip(config["rootfs"]["diff_ids"], sizes, strict=True)),
            labels=config["config"].get("Labels") or {},
        )

    def find(self, name: str) -> Built | None:
        try:
            return self.inspect(name)
        except BadInput:
            return None

    def export(self, built: Built, archive: Path, name: str) -> None:
        """Write the image in the format of `docker save`, under this name only."""
        argv = self.argv("push", "--quiet", built.image_id.removeprefix("sha256:"), f"docker-archive:{archive}:{name}")
        run(argv, env={**_environment(), "TMPDIR": str(self._scratch())}, timeout=1800)

    def remove_all(self) -> None:
        """Remove the storage, unmounting folders that overlay had mounted."""
        run(self.argv("rmi", "--all", "--force"), env=_environment(), check=False)
        # As root buildah binds this folder to itself, and leaves it so when nothing was built: no stat() shows it.
        run(["umount", str(self.folder / "root" / "overlay")], check=False)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _scratch(self) -> Path:
        folder = self.folder / "tmp"
        folder.mkdir(exist_ok=True)
        return folder


def _environment() -> dict[str, str]:
    return inherited("BUILDAH_", "CONTAINERS_", "XDG_", "REGISTRY_AUTH_FILE")
