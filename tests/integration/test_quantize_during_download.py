"""Quantizing while the download goes on: planned from the headers, each shard as it comes, the same bytes in the end."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from containers.contract import Kind
from containers.download_feed import FeedWriter, reset
from containers.safetensors import read_header
from containers.store import FileEntry
from tests.support.quantize_world import SHARDS, World, open_world, put_aside
from tests.support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]
DOWNLOAD = "d" * 64
SHARD = 2_400_000  # bytes; the largest here, rounded up
LANES = 2


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with open_world(tmp_path_factory.mktemp("arriving")) as opened:
        reset(opened.store, DOWNLOAD)
        yield opened


def announce(world: World, feed: FeedWriter) -> list[Path]:
    """Say what will come, as the download step does when it has checked names and headers; returns the shards."""
    files = sorted((world.folder / "source").iterdir())
    shards = [path for path in files if path.suffix == ".safetensors"]
    fronts = {}
    for path in shards:
        with path.open("rb") as file:
            start = read_header(file, path.name, path.stat().st_size).data_start
            file.seek(0)
            fronts[path.name] = file.read(start)
    small = [store(world, path) for path in files if path not in shards]
    feed.announce({path.name: path.stat().st_size for path in files}, fronts, small)
    return sorted(shards, key=lambda path: -path.stat().st_size)


def store(world: World, path: Path) -> FileEntry:
    return FileEntry(path=path.name, size=path.stat().st_size, sha256=world.store.put_file(path))


def wait_for(world: World, path: Path) -> None:
    until(lambda: path.name in world.finished(), f"{path.name} is quantized", within=200)


def test_each_shard_is_quantized_before_the_next_has_come(world: World) -> None:
    """The download is played: it brings a shard only when the one before is done, so nothing waits for all of them."""
    world.forget_sources()
    scratch = world.folder / f"run-{world.starts + 1}" / "scratch"
    process, _ = world.start(arriving=DOWNLOAD, lanes=LANES, without_input=True)
    largest = 0
    with FeedWriter(world.store, DOWNLOAD) as feed:
        shards = announce(world, feed)
        for at, path in enumerate(shards):
            feed.add(store(world, path))
            if at < 4:
                wait_for(world, path)
                assert len(world.finished()) == at + 1
            largest = max(largest, *(_used(scratch) for _ in range(3)))
        _, said = process.communicate(timeout=300)
    assert process.returncode == 0, said
    assert "24 shards will be quantized as they arrive" in said
    assert largest <= LANES * SHARD
    assert len(world.finished()) == len(SHARDS)
    whole = world.run()
    assert whole.values["reused"] == len(SHARDS)
    manifest = world.store.load(whole.outputs["checkpoint"])
    assert all(entry.layer is not None for entry in manifest.files if entry.path.endswith(".safetensors"))
    assert put_aside(world).outputs["checkpoint"].digest == whole.outputs["checkpoint"].digest


def test_a_recipe_is_refused_before_a_shard_has_come(world: World) -> None:
    """The headers are enough."""
    with FeedWriter(world.store, DOWNLOAD) as feed:
        announce(world, feed)
        process, _ = world.start({"ignore": ["re:no.such.module"]}, arriving=DOWNLOAD, without_input=True)
        _, said = process.communicate(timeout=300)
    assert process.returncode == 2
    assert "no.such.module" in said


def test_a_download_that_ends_early_is_temporary(world: World) -> None:
    """What had come is done; the rest is for the next try."""
    with FeedWriter(world.store, DOWNLOAD) as feed:
        first, *_ = announce(world, feed)
        process, _ = world.start({"scheme": "W8A8"}, arriving=DOWNLOAD, lanes=1, without_input=True)
        before = len(list(world.store.manifests(Kind.GROUP)))
        feed.add(store(world, first))
        until(lambda: len(list(world.store.manifests(Kind.GROUP))) > before, "the group is stored", within=200)
    _, said = process.communicate(timeout=300)
    assert process.returncode == 75, said
    assert "the download ended before " in said


def _used(folder: Path) -> int:
    """Bytes of the files below a folder that comes and goes."""
    found = 0
    for path in folder.rglob("*"):
        try:
            found += path.stat().st_size if path.is_file() else 0
        except FileNotFoundError:
            continue
    return found
