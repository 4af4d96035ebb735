"""A store with a checkpoint of 24 shards in it, and the quantize step as a process against it."""

from __future__ import annotations

import json
import subprocess
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from containers.contract import ArtifactRef, Kind, Step, StepRequest, StepResult, StoreLocation
from containers.digest import Digest
from containers.store import FileEntry, Manifest, Store
from flows.runners.process.launcher import step_environment
from infra.objectstore import EmbeddedStore
from infra.settings import Settings
from tests.support.checkpoints import ends, layer, write
from tests.support.quantize_client import environment

if TYPE_CHECKING:
    from collections.abc import Iterator

    from infra.environments.environment import Environment

SHARDS = [ends(256, 512), *[layer(index, 256, 1024) for index in range(23)]]  # 24 shards of about 2 MB


@dataclass
class World:
    """A store with a checkpoint in it, and a way to start the step."""

    folder: Path
    settings: Settings
    store: Store
    location: StoreLocation
    checkpoint: ArtifactRef
    environment: Environment
    starts: int = 0

    def start(
        self, parameters: dict | None = None, *, without_input: bool = False, **options
    ) -> tuple[subprocess.Popen[str], Path]:
        self.starts += 1
        run = self.folder / f"run-{self.starts}"
        (run / "scratch").mkdir(parents=True)
        request = StepRequest(
            step=Step.QUANTIZE,
            run=f"test-{self.starts}",
            inputs={} if without_input else {"checkpoint": self.checkpoint},
            parameters=parameters or {},
            options=options,
            store=self.location,
        )
        (run / "request.json").write_text(request.model_dump_json())
        command = [str(self.environment.python), "-m", "containers.quantize"]
        process = subprocess.Popen(
            [*command, "--request", str(run / "request.json"), "--result", str(run / "result.json")],
            env=step_environment(self.settings, request, self.environment, run),
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        return process, run

    def run(self, parameters: dict | None = None, **options) -> StepResult:
        process, run = self.start(parameters, **options)
        _, said = process.communicate(timeout=600)
        assert process.returncode == 0, said
        return StepResult.model_validate_json((run / "result.json").read_text())

    def finished(self) -> dict[str, tuple[float, ...]]:
        """The shards whose groups are in the store, with the times at which blob and manifest were written."""
        top = self.folder / "store" / self.location.bucket
        found = {}
        for path in (top / "artifacts" / "group").glob("*.json"):
            entry = json.loads(path.read_text())["files"][0]
            blob = top / "blobs" / "sha256" / entry["sha256"].removeprefix("sha256:")
            found[entry["path"]] = (path.stat().st_mtime, blob.stat().st_mtime)
        return found

    def blob(self, path: str, result: StepResult) -> Path:
        manifest = self.store.load(result.outputs["checkpoint"])
        entry = next(entry for entry in manifest.files if entry.path == path)
        return self.folder / "store" / self.location.bucket / "blobs" / "sha256" / entry.sha256.hex

    def forget_sources(self) -> None:
        """Remove the shards of the source from the store, as before a download; its manifest stays."""
        for entry in self.store.load(self.checkpoint).files:
            if entry.path.endswith(".safetensors"):
                self.store.discard_blob(entry.sha256)

    def forget(self, result: StepResult) -> None:
        self.store.forget(result.outputs["checkpoint"])


def put(store: Store, folder: Path) -> ArtifactRef:
    files = [
        FileEntry(path=path.name, size=path.stat().st_size, sha256=store.put_file(path))
        for path in sorted(folder.iterdir())
    ]
    fingerprint = Digest.of(str(files).encode()).hex
    return store.commit(Manifest(kind=Kind.CHECKPOINT, fingerprint=fingerprint, files=tuple(files)))


@contextmanager
def open_world(folder: Path) -> Iterator[World]:
    source = write(folder / "source", SHARDS)
    with EmbeddedStore(folder / "store", folder / "store.log") as reached:
        location = StoreLocation(endpoint=reached.endpoint, bucket=reached.bucket)
        store = Store.open(location, reached)
        settings = Settings(store=reached, home=folder / "home")
        yield World(folder, settings, store, location, put(store, source), environment())


def put_aside(world: World) -> StepResult:
    """Quantize without any finished group: all of their manifests are taken away."""
    for manifest in list(world.store.manifests(Kind.GROUP)):
        world.store.forget(manifest.ref)
    for manifest in list(world.store.manifests(Kind.CHECKPOINT)):
        if "quantization" in manifest.metadata:
            world.store.forget(manifest.ref)
    return world.run()


def workers_of(folder: Path) -> list[int]:
    """Python processes that work on a list of groups, with a request below `folder`."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            words = (entry / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        mine = any(word.startswith(str(folder).encode()) and b"/worker-" in word for word in words)
        if mine and b"containers.quantize" in words and b"-S" not in words:  # -S: their supervisors
            found.append(int(entry.name))
    return sorted(found)
