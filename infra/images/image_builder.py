"""Implements `carwright images`: fetch, build, load, and compare with the budget."""

from __future__ import annotations

import fcntl
import shutil
import tempfile
import tomllib
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from containers.errors import DiskFull, is_disk_full
from containers.events import Event, amount
from infra.container_engine.client import connect
from infra.environments.pip_indexes import PipIndexes
from infra.images import debian, disk_space, local_engine
from infra.images.buildah import Buildah, Built
from infra.images.context import Inputs, inputs_of, lay_out
from infra.images.targets import ROOT
from infra.images.wheels import Wheelhouse

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from infra.images.targets import Target
    from infra.settings import Settings

BUDGET: Final = Path(__file__).with_name("budget.toml")
_MEGABYTE: Final = 1_000_000


@dataclass
class ImageBuilder:
    """Builds images in the cache. `on_event` gets the target's name and each event."""

    settings: Settings
    on_event: Callable[[str, Event], None]
    base: str = ""
    vllm: str = ""
    source: str = "carwright"
    root: Path = ROOT
    wheelhouse: Wheelhouse = field(init=False)

    def __post_init__(self) -> None:
        self.wheelhouse = Wheelhouse(self.cache / "wheels")

    @property
    def cache(self) -> Path:
        return self.settings.cache.expanduser().absolute() / "images"

    def inputs(self, target: Target) -> Inputs:
        return inputs_of(target, base=self.base, vllm=self.vllm, root=self.root)

    def name(self, target: Target) -> str:
        """The image's name in the container engine, by the setting docker.image."""
        return self.settings.docker.image.format(target=target.name)

    def stored_name(self, target: Target) -> str:
        """The image's name in the storage that buildah builds in."""
        return f"localhost/{self.name(target).removeprefix('localhost/')}"

    def fetch(self, targets: Sequence[Target]) -> int:
        """Fetch and check all inputs of the targets; returns the number of fetched files."""
        came = 0
        for target in targets:
            inputs, listen = self.inputs(target), self._listener(target)
            came += self.wheelhouse.fetch(target.name, inputs.python, listen, PipIndexes.of(self.settings))
            came += debian.fetch(inputs.all_debs, self.cache / "debs", listen)
        return came

    def build(self, target: Target) -> Built:
        """Build one image, using the layers that are there; one build at a time in one cache."""
        with self._build_lock(target), self.laid_out(target) as (inputs, context), self._disk():
            return self.storage().build(
                inputs,
                context,
                self.stored_name(target),
                self._listener(target),
            )

    def need_room(self, targets: Sequence[Target]) -> None:
        """Raises DiskFull where the cache has too little room to build those of these that were never built in it."""
        if not targets or shutil.which("buildah") is None:
            return  # that it is missing is said by whoever needs it
        storage = self.storage()
        absent = [target for target in targets if storage.find(self.stored_name(target)) is None]
        names = ", ".join(target.name for target in absent)
        disk_space.check(self.cache, disk_space.needed(absent, budget()), f"building {names}")

    def storage(self) -> Buildah:
        return Buildah.open_storage(self.cache / "storage")

    @contextmanager
    def laid_out(self, target: Target, *, fresh: bool = False) -> Iterator[tuple[Inputs, Path]]:
        """The target's context in a folder that goes with the block."""
        inputs = self.inputs(target)
        with self._disk():
            self.cache.mkdir(parents=True, exist_ok=True)
            scratch = tempfile.TemporaryDirectory(prefix=".context-", dir=self.cache)
        with scratch as folder:
            context = Path(folder)
            context.chmod(0o755)
            with self._disk():
                lay_out(
                    inputs,
                    context,
                    self.cache,
                    self.wheelhouse,
                    self._listener(target),
                    source=self.source,
                    fresh=fresh,
                )
            yield inputs, context

    def loaded(self, target: Target) -> bool:
        """Whether the container engine has the image, built from the current inputs."""
        with connect(self.settings.docker) as there:
            return (
                local_engine.labels_of(there, self.name(target)).get(local_engine.INPUTS) == self.inputs(target).digest
            )

    def load(self, target: Target, built: Built) -> None:
        """Load a built image into the container engine."""
        with (
            connect(self.settings.docker) as there,
            self._disk(),
            tempfile.TemporaryDirectory(prefix=".load-", dir=self.cache) as scratch,
        ):
            archive = Path(scratch, f"{target.name}.tar")
            self.say(target, f"loading {amount(built.size, 'B')} into the container engine as {self.name(target)}")
            self.storage().export(built, archive, self.name(target))
            local_engine.load(there, archive)

    def update(self, targets: Sequence[Target]) -> None:
        """Give the engine each image that it has not from these inputs, and build it first.

        While one is built, what the next ones are made from is fetched and the one before goes to the engine: each of the
        three waits most of its time for another part of the machine. Raises what `fetch`, `build` and `load` raise; what
        was loaded by then stays.
        """
        missing = [target for target in targets if not self.loaded(target)]
        for target in targets:
            if target not in missing:
                self.say(target, f"{self.name(target)} is up to date")
        self.need_room(missing)
        fetcher, loader = (ThreadPoolExecutor(1, thread_name_prefix=name) for name in ("fetch", "load"))
        try:
            fetched = [(target, fetcher.submit(self.fetch, [target])) for target in missing]
            loads = []
            for target, came in fetched:
                came.result()
                loads.append(loader.submit(self.load, target, self.build(target)))
            for load in loads:
                load.result()
        finally:
            for pool in (fetcher, loader):
                pool.shutdown(cancel_futures=True)

    @contextmanager
    def _build_lock(self, target: Target) -> Iterator[None]:
        """Hold a file lock (flock(2)); it is given up when this process ends, in whatever way."""
        self.cache.mkdir(parents=True, exist_ok=True)
        with (self.cache / ".lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                self.say(target, "another build is using this cache; waiting for it")
                fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def say(self, target: Target, message: str) -> None:
        self.on_event(target.name, Event(event="log", message=message))

    def _listener(self, target: Target) -> Callable[[Event], None]:
        return lambda event: self.on_event(target.name, event)

    @contextmanager
    def _disk(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if is_disk_full(error):
                raise DiskFull(
                    f"no space left under {self.cache}", remedy="free some space, or set CARWRIGHT_CACHE"
                ) from error
            raise


def budget(path: Path = BUDGET) -> dict[str, int]:
    """Target -> the most bytes that it may have."""
    return {name: int(most * _MEGABYTE) for name, most in tomllib.loads(path.read_text())["megabytes"].items()}


def over_budget(sizes: dict[str, int], limits: dict[str, int]) -> list[str]:
    """One sentence for each image that exceeds its budget or has none."""
    wrong = [
        f"{name} has {size / _MEGABYTE:.0f} MB, and its budget is {limits[name] / _MEGABYTE:.0f} MB"
        for name, size in sizes.items()
        if size > limits.get(name, size)
    ]
    return wrong + [f"{name} has no budget" for name in sizes if name not in limits]
