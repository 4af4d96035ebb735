"""The step as a process against a real store: killed, shared by workers, disturbed; always the same bytes."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import time

import pytest

from containers.contract import StepResult
from containers.store.failures import DamagedBlob
from tests.support.checkpoints import ends, layer, write
from tests.support.quantize_world import SHARDS, open_world, put, put_aside, workers_of
from tests.support.waiting import until

pytestmark = pytest.mark.integration


@pytest.fixture
def world(tmp_path):
    with open_world(tmp_path) as opened:
        yield opened


@pytest.mark.parametrize("times", [3, pytest.param(10, marks=pytest.mark.campaign)])
def test_killed_again_and_again_the_digest_is_the_same_and_no_shard_is_done_twice(world, times):
    """kill -9 while shards are being written; what was finished keeps its times, what was not is done later."""
    dice = random.Random(5)
    kills, moving = 0, 0
    seen: dict[str, tuple[float, ...]] = {}
    while kills < times:
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
    assert moving >= times / 2, "most kills came after the run had ended; give it more work"
    result = world.run()
    assert result.values["reused"] == len(seen)
    assert all(world.finished()[path] == times for path, times in seen.items())
    again = world.run({"scheme": "FP8_DYNAMIC"})  # a request that says the default is another fingerprint
    assert again.outputs["checkpoint"].digest == result.outputs["checkpoint"].digest
    world.forget(result)
    fresh = put_aside(world)
    assert fresh.outputs["checkpoint"].digest == result.outputs["checkpoint"].digest
    assert fresh.values["reused"] == 0


def test_two_workers_one_of_them_killed(world):
    """Groups are spread, the dead one's are dealt out again, and the bytes are those of one process."""
    process, _ = world.start(workers=2, lanes=1)
    said, victim = [], None
    for line in process.stderr:
        said.append(line)
        if victim is None and "progress" in line and json.loads(line).get("done", 0) > 0:
            victim = next(iter(workers_of(world.folder)))
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


def until_missed(world, path, result):
    """The embedded server takes some seconds to see what happens behind its back."""
    entry = next(one for one in world.store.load(result.outputs["checkpoint"]).files if one.path == path)
    until(lambda: not world.store.has_blob(entry.sha256, entry.size), f"the blob of {path} is missed")


def test_a_result_that_lost_a_blob_is_made_again(world):
    """A blob that is gone, has another size or other bits is found although the run was finished; it alone is redone."""
    result = world.run()
    before = world.finished()
    path = "model-00003-of-00024.safetensors"
    with world.blob(path, result).open("r+b") as blob:
        blob.truncate(1000)
    until_missed(world, path, result)
    again = world.run()
    assert again.outputs == result.outputs
    assert again.values["reused"] == len(SHARDS) - 1
    after = world.finished()
    assert {name for name in before if before[name] != after[name]} == {path}
    assert world.run().values["reused"] == len(SHARDS)

    # Of the right size and with other bits: whoever reads it (push, serve) is told, and the next run makes it again.
    other = "model-00007-of-00024.safetensors"
    with world.blob(other, result).open("r+b") as blob:
        blob.seek(100_000)
        blob.write(b"tampered")
    with pytest.raises(DamagedBlob):
        world.store.materialize(result.outputs["checkpoint"], world.folder / "read")
    assert not world.blob(other, result).exists()
    mended = world.run()
    assert mended.outputs == result.outputs
    assert mended.values["reused"] == len(SHARDS) - 1
    world.store.materialize(result.outputs["checkpoint"], world.folder / "read")

    world.blob(other, result).unlink()
    until_missed(world, other, result)
    assert world.run().values["reused"] == len(SHARDS) - 1


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
