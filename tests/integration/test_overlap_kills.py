"""A run that is killed while download, quantize and push overlap: the next one ends with the same digest, and each goes on."""

from __future__ import annotations

import hashlib
import json
import os
import random
import re
import signal
import subprocess
import sys
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from containers.process import inherited
from infra.hub import Fault, Hub, Repositories
from tests.support.checkpoints import ends, layer, write
from tests.support.local_registry import LocalRegistry
from tests.support.processes import descendants
from tests.support.quantize_client import environment
from tests.support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.integration, pytest.mark.timeout(1800)]

REPOSITORY: Final = "org/tiny"
SHARDS: Final = [ends(256, 512), *[layer(index, 256, 1024) for index in range(15)]]  # of about 2 MB
SLOW: Final = 1_000_000  # bytes a second of each connection: the download lasts as long as the others take
PROGRAM: Final = (sys.executable, "-m", "tests.support.overlapped_run")
HEADER: Final = (
    500_000  # bytes: what is read of every shard before any is downloaded is less, a shard is four times more
)
SIDES: Final = ("download", "quantize", "push")


@dataclass
class World:
    folder: Path
    hub: Hub
    registry: str
    digests: frozenset[str]
    expected: str = ""

    def start(self, home: Path, name: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*PROGRAM, str(home), self.hub.endpoint, REPOSITORY, f"{self.registry}/{name}/car"],
            env=inherited(),
            stdout=subprocess.PIPE,
            stderr=(home.parent / f"{home.name}.log").open("a"),
            text=True,
        )

    def run(self, home: Path, name: str) -> str:
        process = self.start(home, name)
        said, _ = process.communicate(timeout=600)
        assert process.returncode == 0, (home.parent / f"{home.name}.log").read_text()[-3000:]
        return str(json.loads(said.splitlines()[-1])["digest"])

    def done(self, home: Path, name: str) -> dict[str, dict[Path, int]]:
        """What each side has finished, with the times at which it was."""
        store = home / "store" / "carwright"
        sources = {path.name: path for path in (store / "blobs" / "sha256").glob("[0-9a-f]*")}
        found = {
            "download": [path for digest, path in sources.items() if digest in self.digests],
            "quantize": list((store / "artifacts" / "group").glob("*.json")),
            "push": list(
                (self.folder / "registry" / "data/docker/registry/v2/repositories" / name / "car" / "_layers").glob(
                    "sha256/*/link"
                )
            ),
        }
        return {side: {path: path.stat().st_mtime_ns for path in paths} for side, paths in found.items()}

    def fetched(self) -> dict[str, int]:
        """Bytes of each shard that the hub has sent."""
        counts: dict[str, int] = {}
        for one in self.hub.served:
            if one.origin == "cdn" and one.sent:
                digest = next(iter(re.findall(r"[0-9a-f]{64}", one.path)), "")
                counts[digest] = counts.get(digest, 0) + one.sent
        return counts


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    environment()
    folder = tmp_path_factory.mktemp("overlap")
    source = write(folder / "source", SHARDS)
    with ExitStack() as stack:
        repositories = Repositories(folder / "hub")
        repositories.publish(REPOSITORY, source)
        hub = stack.enter_context(Hub(repositories))
        shards = [path.read_bytes() for path in source.glob("*.safetensors")]
        digests = frozenset(hashlib.sha256(one).hexdigest() for one in shards)
        made = World(folder, hub, stack.enter_context(LocalRegistry(folder / "registry")), digests)
        made.expected = made.run(folder / "undisturbed", "undisturbed")
        hub.faults.add(Fault(r"[0-9a-f]{64}", bytes_per_second=SLOW))
        yield made


def killed(world: World, home: Path, name: str, side: str, more: int) -> dict[str, dict[Path, int]]:
    """Start a run and kill it, as nobody can catch it, once one side has finished so many more; what was finished then."""
    before = len(world.done(home, name)[side])
    process = world.start(home, name)
    below: list[int] = []

    def far_enough() -> bool:
        assert process.poll() is None, "it ended before it could be killed"
        return len(world.done(home, name)[side]) >= min(before + more, len(SHARDS))

    until(far_enough, f"{more} more of {side}", within=300)
    below = descendants(process.pid)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate(timeout=60)
    until(lambda: not [pid for pid in below if _alive(pid)], "its processes end, too", within=60)
    return world.done(home, name)


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def check(world: World, name: str, places: list[tuple[str, int]]) -> None:
    """Kill runs one after the other, each when one side has finished so many more, and let one end."""
    home = world.folder / name
    finished: dict[str, dict[Path, int]] = {side: {} for side in SIDES}
    for side_of_kill, more in places:
        done = killed(world, home, name, side_of_kill, more)
        for side in SIDES:
            assert finished[side].items() <= done[side].items(), f"{side} began again"
        finished = done
        assert not list(
            (world.folder / "registry/data/docker/registry/v2/repositories" / name).glob("car/_manifests/tags/*")
        )
    already = {digest for digest in world.digests if any(path.name == digest for path in finished["download"])}
    before = world.fetched()
    assert world.run(home, name) == world.expected
    for side in SIDES:
        assert finished[side].items() <= world.done(home, name)[side].items(), f"{side} began again"
    assert "waiting for it" not in home.with_name(f"{name}.log").read_text(), "what a killed run held is free at once"
    again = {digest for digest, sent in world.fetched().items() if sent - before.get(digest, 0) > HEADER}
    assert not already & again, "a stored shard was downloaded once more"


def test_killed_while_all_three_are_under_way(world: World) -> None:
    """Two layers are in the registry while shards are still missing."""
    check(world, "killed", [("push", 2)])


@pytest.mark.campaign
@pytest.mark.parametrize("seed", range(12))
def test_killed_anywhere(world: World, seed: int) -> None:
    chosen = random.Random(seed)
    check(world, f"killed-{seed}", [(chosen.choice(SIDES), chosen.randint(1, 6)) for _ in range(3)])
