"""The step as a process against a real store: killed, shared by workers, disturbed; always the same bytes."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from containers.contract import ArtifactRef, Kind, Step, StepRequest, StepResult, StoreLocation
from containers.digest import Digest
from containers.settings import Settings
from containers.store import FileEntry, Manifest, Store
from flows.launchers.process import step_environment
from infra.objectstore import EmbeddedStore
from tests.checkpoints import ends, layer, write
from tests.quantize_client import environment

if TYPE_CHECKING:
    from flows.environments import Environment

pytestmark = pytest.mark.integration
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

    def start(self, parameters: dict | None = None, **options) -> tuple[subprocess.Popen[str], Path]:
        self.starts += 1
        run = self.folder / f"run-{self.starts}"
        (run / "scratch").mkdir(parents=True)
        request = StepRequest(
            step=Step.QUANTIZE,
            run=f"test-{self.starts}",
            inputs={"checkpoint": self.checkpoint},
            parameters=parameters or {},
            options=options,
            store=self.location,
        )
        (run / "request.json").write_text(request.model_dump_json())
        command = [str(self.environment.python), "-m", "containers.quantize"]
        process = subprocess.Popen(
            [*command, "--request", str(run / "request.json"), "--result", str(run / "result.json")],
            env=step_environment(self.settings, Step.QUANTIZE, self.environment, run),
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

    def forget(self, result: StepResult) -> None:
        self.store.forget(result.outputs["checkpoint"])


def put(store: Store, folder: Path) -> ArtifactRef:
    files = [
        FileEntry(path=path.name, size=path.stat().st_size, sha256=store.put_file(path))
        for path in sorted(folder.iterdir())
    ]
    fingerprint = Digest.of(str(files).encode()).hex
    return store.commit(Manifest(kind=Kind.CHECKPOINT, fingerprint=fingerprint, files=tuple(files)))


@pytest.fixture
def world(tmp_path):
    source = write(tmp_path / "source", SHARDS)
    with EmbeddedStore(tmp_path / "store", tmp_path / "store.log") as reached:
        location = StoreLocation(endpoint=reached.endpoint, bucket=reached.bucket)
        store = Store.open(location, reached)
        settings = Settings(store=reached, home=tmp_path / "home")
        yield World(tmp_path, settings, store, location, put(store, source), environment())


def test_killed_ten_times_the_digest_is_the_same_and_no_shard_is_done_twice(world):
    """kill -9 while shards are being written; what was finished keeps its times, what was not is done later."""
    dice = random.Random(5)
    kills, moving = 0, 0
    seen: dict[str, tuple[float, ...]] = {}
    while kills < 10:
        process, _ = world.start(lanes=1)
        for line in process.stderr:
            event = json.loads(line)
            if event["event"] == "progress" and event.get("done", 0) > 0:
                break
        time.sleep(dice.random() * 0.3)
        moving += process.poll() is None
        process.send_signal(signal.SIGKILL)
        process.communicate()
        kills += 1
        now = world.finished()
        assert all(now[path] == times for path, times in seen.items())
        seen = now
    assert moving >= 5, "most kills came after the run had ended; give it more work"
    result = world.run()
    assert result.values["reused"] == len(seen)
    assert all(world.finished()[path] == times for path, times in seen.items())
    again = world.run({"scheme": "FP8_DYNAMIC"})  # a request that says the default is another fingerprint
    assert again.outputs["checkpoint"].digest == result.outputs["checkpoint"].digest
    world.forget(result)
    fresh = put_aside(world)
    assert fresh.outputs["checkpoint"].digest == result.outputs["checkpoint"].digest
    assert fresh.values["reused"] == 0


def put_aside(world: World) -> StepResult:
    """Quantize without any finished group: all of their manifests are taken away."""
    for manifest in list(world.store.manifests(Kind.GROUP)):
        world.store.forget(manifest.ref)
    for manifest in list(world.store.manifests(Kind.CHECKPOINT)):
        if "quantization" in manifest.metadata:
            world.store.forget(manifest.ref)
    return world.run()


def test_two_workers_one_of_them_killed(world):
    """Groups are spread, the dead one's are dealt out again, and the bytes are those of one process."""
    process, _ = world.start(workers=2, lanes=1)
    said, victim = [], None
    for line in process.stderr:
        said.append(line)
        if victim is None and "progress" in line and json.loads(line).get("done", 0) > 0:
            victim = next(iter(workers_below(process.pid)))
            os.kill(victim, signal.SIGKILL)
    assert process.wait(60) == 0, "".join(said)
    text = "".join(said)
    assert re.search(r"worker 0 \(cpu\): \d+ groups", text)
    assert re.search(r"worker 1 \(cpu\): \d+ groups", text)
    assert "dealt out again" in text
    assert len(world.finished()) == len(SHARDS)
    shared = StepResult.model_validate_json((world.folder / "run-1" / "result.json").read_text())
    alone = put_aside(world)
    assert alone.outputs["checkpoint"].digest == shared.outputs["checkpoint"].digest
    assert not list((world.folder / "run-1" / "scratch").rglob("*.safetensors"))


def workers_below(pid: int) -> list[int]:
    """Python processes below `pid` that work on a list of groups."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            words = (entry / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if b"containers.quantize" in words and any(b"worker-" in word for word in words) and b"-S" not in words:
            found.append(int(entry.name))
    return sorted(found)


def test_a_result_that_lost_a_blob_is_made_again(world):
    """A blob that is gone or has another size is found although the run was finished; only its shard is redone."""
    result = world.run()
    before = world.finished()
    path = "model-00003-of-00024.safetensors"
    with world.blob(path, result).open("r+b") as blob:
        blob.truncate(1000)
    again = world.run()
    assert again.outputs == result.outputs
    assert again.values["reused"] == len(SHARDS) - 1
    after = world.finished()
    assert {name for name in before if before[name] != after[name]} == {path}
    assert world.run().values["reused"] == len(SHARDS)


def test_two_runs_at_once_agree(world):
    """Neither corrupts the other's output."""
    first, one = world.start(lanes=2)
    second, two = world.start(lanes=2)
    for process in (first, second):
        _, said = process.communicate(timeout=600)
        assert process.returncode == 0, said
    outputs = [StepResult.model_validate_json((run / "result.json").read_text()).outputs for run in (one, two)]
    assert outputs[0] == outputs[1]


def test_a_worker_does_its_groups_and_the_parent_assembles(world):
    """The shape of a fan-out over machines: requests that name groups, then one that names none."""
    names = [f"model-{at + 1:05d}-of-00024.safetensors" for at in range(24)]
    part = world.run(groups=names[:10])
    assert part.outputs == {}
    assert part.metrics["groups"] == 10
    assert world.finished().keys() == set(names[:10])
    world.run(groups=names[8:])
    whole = world.run()
    assert whole.values["reused"] == 24


def test_infinite_values_are_refused_by_name(world, tmp_path):
    """Exit code 2, the tensor's name, and nothing half-published."""
    source = write(tmp_path / "bad", [ends() | layer(0)])
    shard = source / "model.safetensors"
    content = bytearray(shard.read_bytes())
    length = int.from_bytes(content[:8], "little")
    start = json.loads(content[8 : 8 + length])["model.layers.0.mlp.up_proj.weight"]["data_offsets"][0]
    content[8 + length + start + 10 : 8 + length + start + 12] = b"\x80\x7f"  # +inf in BF16
    shard.write_bytes(content)
    world.checkpoint = put(world.store, source)
    process, run = world.start()
    _, said = process.communicate(timeout=600)
    assert process.returncode == 2
    assert "model.layers.0.mlp.up_proj.weight" in said
    assert not (run / "result.json").exists()
    assert world.finished() == {}


def test_a_damaged_source_is_noticed(world):
    """A flipped bit in a stored shard: the digest tells, and no group is made of it."""
    manifest = world.store.load(world.checkpoint)
    entry = next(entry for entry in manifest.files if entry.path.startswith("model-00002"))
    blob = world.folder / "store" / world.location.bucket / "blobs" / "sha256" / entry.sha256.hex
    with blob.open("r+b") as file:
        file.seek(entry.size - 1)
        last = file.read(1)[0]
        file.seek(entry.size - 1)
        file.write(bytes([last ^ 1]))
    process, _ = world.start()
    _, said = process.communicate(timeout=600)
    assert process.returncode != 0
    assert entry.sha256.hex in said
    assert entry.path not in world.finished()


def test_the_plan_knows_what_is_stored(world):
    """As JSON in the result's values; nothing is computed for it."""
    world.run(groups=["model-00001-of-00024.safetensors"])
    plan = world.run({"action": "plan"}).values["plan"]
    assert [group["stored"] for group in plan["groups"]] == [True] + [False] * 23
    assert all(re.fullmatch("[0-9a-f]{64}", group["fingerprint"]) for group in plan["groups"])
    folder = world.run({"action": "plan"}, folder=str(world.folder / "source")).values["plan"]
    assert folder["size_after"] == plan["size_after"]
