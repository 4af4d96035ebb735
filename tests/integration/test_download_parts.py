"""Large files come in parts, over all connections at once; parts of 64 KiB stand for those of 128 MiB."""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from containers.download import fetch, retries
from containers.download.partial_file import PartialFile
from containers.errors import BadInput, DiskFull, Temporary
from containers.fingerprints import fingerprint_inputs
from containers.process import Child
from infra.hub import Fault, Hub, Repositories
from tests.support.download_world import REPO, World, checkpoint
from tests.support.processes import descendants
from tests.support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from containers.contract import StepResult
    from containers.settings import StoreSettings

pytestmark = pytest.mark.integration

SOURCE = f"hf://{REPO}"
PART = 64 << 10
FIRST = "model-00001-of-00003.safetensors"


@pytest.fixture(params=[True, False], ids=["store-here", "store-elsewhere"])
def world(server: StoreSettings, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[World]:
    """A hub with three shards of 200 kB, and a bucket of the test's own."""
    repositories = Repositories(tmp_path / "hub")
    model = checkpoint(tmp_path / "model", shards=3)
    (model / "tokenizer.json").write_text(json.dumps({"version": "1.0", "vocab": [*range(20_000)]}))  # of several parts
    repositories.publish(REPO, model)
    bucket = "t" + hashlib.sha1(request.node.nodeid.encode()).hexdigest()[:20]
    with Hub(repositories) as hub:
        yield World(tmp_path / "home", server.model_copy(update={"bucket": bucket, "direct": request.param}), hub)


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "PART", PART)
    monkeypatch.setattr(retries, "FIRST_WAIT", 0.01)


def asked(hub: Hub, since: int = 0) -> list[tuple[str, int, int]]:
    """Blob, start and end of each range of contents."""
    ranges = (
        (served.path, re.fullmatch(r"bytes=(\d+)-(\d+)", served.range or ""))
        for served in hub.served[since:]
        if served.origin == "cdn"
    )
    return [(path, int(found[1]), int(found[2]) + 1) for path, found in ranges if found]


def assert_whole(world: World, result: StepResult, tmp_path: Path) -> None:
    manifest = world.manifest(result)
    world.store.materialize(manifest.ref, tmp_path / "out")
    for entry in manifest.files:
        assert (tmp_path / "out" / entry.path).read_bytes() == (tmp_path / "model" / entry.path).read_bytes()
    assert not list((world.home / "partial").iterdir())


def test_parts_make_the_whole_file(world: World, tmp_path: Path) -> None:
    """Each byte is asked for once, over as many connections as was said."""
    world.hub.faults.add(Fault(match=r"^/lfs/", bytes_per_second=4_000_000))
    result = world.download(SOURCE, parallel=3)
    assert_whole(world, result, tmp_path)
    assert result.metrics["bytes_read"] == world.manifest(result).size
    assert world.hub.peak == 3
    size = (tmp_path / "model" / FIRST).stat().st_size
    parts = [(start, min(start + PART, size)) for start in range(0, size, PART)]
    ranges = sorted((start, stop) for _, start, stop in asked(world.hub))
    # The headers of the three files were read before, by the range of a first part.
    assert ranges == sorted([*parts * 3, *[(0, PART)] * 3])


def test_files_are_whole_one_after_the_other(world: World) -> None:
    """So that the first can be quantized while the others come: nothing of the third is asked for before the first is there."""
    world.hub.faults.add(Fault(match=r"^/lfs/", bytes_per_second=1_000_000))
    result = world.download(SOURCE, parallel=2)
    shards = [entry.sha256.hex for entry in world.manifest(result).files if entry.path.endswith(".safetensors")]
    order = [
        next(at for at, name in enumerate(shards) if name in path) for path, _, _ in asked(world.hub)[len(shards) :]
    ]
    assert len(order) == 12
    third = order.index(2)
    assert order[:third].count(0) == 4
    assert order[:third].count(1) >= 2


def test_one_connection_asks_for_whole_files(world: World, tmp_path: Path) -> None:
    result = world.download(SOURCE, parallel=1)
    assert_whole(world, result, tmp_path)
    assert {(start, stop) for _, start, stop in asked(world.hub)} == {(0, PART)}  # headers alone


def test_every_part_goes_on_after_a_cut(world: World, tmp_path: Path) -> None:
    world.hub.faults.add(Fault(match=r"^/lfs/", cut_after=50_000, probability=0.5))
    result = world.download(SOURCE, parallel=3)
    assert_whole(world, result, tmp_path)
    assert result.metrics["bytes_read"] == world.manifest(result).size


def test_what_an_earlier_run_left_of_the_parts_is_kept(world: World, tmp_path: Path) -> None:
    """Of each part the rest is asked for, and no more."""
    request = world.request("download", world.resolve(SOURCE).pinned, parallel=3)
    content = (tmp_path / "model" / FIRST).read_bytes()
    folder = world.home / "partial" / request.fingerprint(fingerprint_inputs(request.step))
    with PartialFile(folder / "large" / FIRST, len(content), part=PART) as left:
        for part, size in zip(left.parts, (PART, 1000, 0, 3000), strict=True):
            part.write(content[part.start : part.start + size])
            part.note()
    result = world.run(request)
    assert_whole(world, result, tmp_path)
    assert (
        result.metrics["bytes_read"]
        == world.manifest(result).size - left.present
        == world.manifest(result).size - PART - 4000
    )
    assert (PART + 1000, 2 * PART) in [(start, stop) for _, start, stop in asked(world.hub)]


def test_a_killed_download_goes_on_in_all_its_parts(world: World, tmp_path: Path) -> None:
    """SIGKILL while three parts are on their way; the next run asks for less than the whole, and the file is right."""
    request = world.request("download", world.resolve(SOURCE).pinned, parallel=3)
    (tmp_path / "request.json").write_text(request.model_dump_json())
    world.hub.faults.add(Fault(match=r"^/lfs/", times=3))  # the headers
    world.hub.faults.add(Fault(match=r"^/lfs/", bytes_per_second=100_000))
    step = (
        "from containers.contract import Step; from containers.download import fetch, partial_file, work;"
        f"from containers.step import run; fetch.PART = {PART}; partial_file._NOTED = 1 << 12; run(Step.DOWNLOAD, work.work)"
    )
    argv = [
        sys.executable,
        "-c",
        step,
        "--request",
        str(tmp_path / "request.json"),
        "--result",
        str(tmp_path / "r.json"),
    ]
    partial = world.home / "partial"
    with Child(argv, world.environment, cwd=Path(__file__).parents[2]) as child:

        def under_way() -> list[int]:
            assert child.poll() is None, child.tail
            return [
                len({line.split()[0] for line in path.read_text().splitlines()[1:]})
                for path in partial.rglob("*.parts")
            ]

        until(lambda: 3 in under_way(), under_way)
        for pid in descendants(child.pid):
            signal.pidfd_send_signal(os.pidfd_open(pid), signal.SIGKILL)
        child.wait(30)
    assert not (tmp_path / "r.json").exists()
    world.hub.faults.clear()
    result = world.run(request)
    assert_whole(world, result, tmp_path)
    assert 0 < result.metrics["bytes_read"] < world.manifest(result).size - 3 * 4096 + 1


def test_a_journal_that_says_too_much_costs_a_second_fetch(world: World, tmp_path: Path) -> None:
    """The bytes of a machine that lost its power may be zeros: the digest notices, and the file is fetched from its start."""
    request = world.request("download", world.resolve(SOURCE).pinned, parallel=3)
    size = (tmp_path / "model" / FIRST).stat().st_size
    folder = world.home / "partial" / request.fingerprint(fingerprint_inputs(request.step))
    with PartialFile(folder / "large" / FIRST, size, part=PART) as left:
        left.parts[1].write(bytes(PART))
    assert_whole(world, world.run(request), tmp_path)


def test_a_source_without_ranges_sends_whole_files(world: World, tmp_path: Path) -> None:
    world.hub.faults.add(Fault(match=r"^/lfs/", whole=True))
    result = world.download(SOURCE, parallel=3)
    assert_whole(world, result, tmp_path)
    last = [event for event in world.events if event.event == "progress"][-1]
    assert last.done == last.total == world.manifest(result).size


def test_damaged_contents_are_refused(world: World) -> None:
    """Wherever the damage is; and the error is that, and not that something was stopped."""
    blob = max((world.hub.repositories.root / "blobs").iterdir(), key=lambda path: path.stat().st_size)
    content = bytearray(blob.read_bytes())
    content[PART + 5] ^= 1
    blob.write_bytes(content)
    with pytest.raises(BadInput, match="is damaged"):
        world.download(SOURCE, parallel=3)
    assert not list(world.store.manifests())


def test_a_part_that_cannot_be_had_ends_the_download_soon(world: World, tmp_path: Path) -> None:
    """With its own error, while the part before it would take twenty seconds; and what there is stays."""
    world.hub.repositories.publish("acme/one", checkpoint(tmp_path / "one", shards=1, size=400_000))
    request = world.request("download", world.resolve("hf://acme/one").pinned, parallel=3)
    world.hub.faults.add(Fault(match=r"^/lfs/", times=1))  # the header
    world.hub.faults.add(Fault(match=r"^/lfs/", times=1, bytes_per_second=3000))
    world.hub.faults.add(Fault(match=r"^/lfs/", times=1))
    world.hub.faults.add(Fault(match=r"^/lfs/", status=503))
    started = time.monotonic()
    with pytest.raises(Temporary, match="busy or failing"):
        world.run(request)
    assert time.monotonic() - started < 10
    world.hub.faults.clear()
    assert world.run(request).metrics["bytes_read"] < 400_000


def test_a_disk_that_is_full_is_said(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(PartialFile, "write", full)
    with pytest.raises(DiskFull, match="no space is left"):
        world.download(SOURCE, parallel=3)
