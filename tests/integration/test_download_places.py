"""Checkpoints from a folder and from an S3 bucket, with pins that notice a change."""

from __future__ import annotations

import os
import sys
import threading
from typing import TYPE_CHECKING

import boto3
import pytest
from pydantic import SecretStr

from containers.digest import Digest
from containers.errors import BadInput, Temporary
from containers.fingerprints import fingerprint_inputs
from containers.process import inherited, run
from containers.settings import SourceSettings
from tests.support.download_world import TAKEN, World, checkpoint

if TYPE_CHECKING:
    from pathlib import Path

    from containers.settings import StoreSettings

pytestmark = pytest.mark.integration


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return checkpoint(tmp_path / "model")


@pytest.fixture
def world(server: StoreSettings, tmp_path: Path) -> World:
    """A store with a bucket of the test's own; the same server, with keys, for sources."""
    source = SourceSettings(
        endpoint=server.endpoint, access_key_id=server.access_key_id, secret_access_key=server.secret_access_key
    )
    bucket = f"t{Digest.of(str(tmp_path).encode()).hex[:20]}"
    return World(tmp_path / "home", server.model_copy(update={"bucket": bucket}), source=source)


@pytest.fixture
def bucket(server: StoreSettings, tmp_path: Path, model: Path) -> str:
    """The name of a bucket that holds the model below acme/tiny/."""
    name = f"s{Digest.of(str(tmp_path).encode()).hex[:20]}"
    s3 = client(server)
    s3.create_bucket(Bucket=name)
    for path in model.rglob("*"):
        if path.is_file():
            s3.upload_file(str(path), name, f"acme/tiny/{path.relative_to(model).as_posix()}")
    s3.put_object(Bucket=name, Key="acme/tiny-2/config.json", Body=b"{}")  # a neighbour with the prefix's letters
    return name


def client(server: StoreSettings) -> object:
    return boto3.client(
        "s3",
        endpoint_url=server.endpoint,
        region_name="us-east-1",
        aws_access_key_id=server.access_key_id.get_secret_value(),
        aws_secret_access_key=server.secret_access_key.get_secret_value(),
    )


def assert_whole(world: World, model: Path, source: str, out: Path) -> None:
    result = world.download(source)
    manifest = world.manifest(result)
    assert [entry.path for entry in manifest.files] == TAKEN
    world.store.materialize(manifest.ref, out)
    assert all((out / path).read_bytes() == (model / path).read_bytes() for path in TAKEN)
    assert manifest.metadata["license"] == "apache-2.0"
    assert manifest.metadata["source"] == world.resolve(source).pinned
    assert result.metrics["bytes_read"] == result.metrics["bytes_stored"] == manifest.size


def test_a_folder(world: World, model: Path, tmp_path: Path) -> None:
    assert_whole(world, model, f"file://{model}", tmp_path / "out")


def test_a_bucket(world: World, model: Path, bucket: str, tmp_path: Path) -> None:
    assert_whole(world, model, f"s3://{bucket}/acme/tiny", tmp_path / "out")


def test_the_same_files_from_two_places_are_one_checkpoint(world: World, model: Path, bucket: str) -> None:
    """Two fingerprints, one digest, and the bytes are stored once."""
    first = world.download(f"file://{model}")
    second = world.download(f"s3://{bucket}/acme/tiny")
    assert first.outputs["checkpoint"].digest == second.outputs["checkpoint"].digest
    assert first.outputs["checkpoint"].fingerprint != second.outputs["checkpoint"].fingerprint
    assert second.metrics["bytes_stored"] == 0


def test_a_folder_of_links_is_read_through_them(world: World, model: Path, tmp_path: Path) -> None:
    """The snapshots of the hub's own cache are folders of links to the blobs of their repository; others are refused."""
    repository = tmp_path / "models--acme--tiny"
    (repository / "blobs").mkdir(parents=True)
    linked = repository / "snapshots" / ("0" * 40)
    for number, path in enumerate(path for path in model.rglob("*") if path.is_file()):
        blob = repository / "blobs" / str(number)
        blob.write_bytes(path.read_bytes())
        target = linked / path.relative_to(model)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.symlink_to(blob)
    assert_whole(world, model, f"file://{linked}", tmp_path / "out")
    (linked / "more.json").symlink_to(model / "config.json")
    with pytest.raises(BadInput, match=r"more\.json is a link that leads out of"):
        world.resolve(f"file://{linked}")


def test_a_changed_folder_is_noticed(world: World, model: Path) -> None:
    """What was resolved is what is downloaded, or nothing."""
    pinned = world.resolve(f"file://{model}").pinned
    stamp = (model / "config.json").stat()
    os.utime(model / "config.json", ns=(stamp.st_atime_ns, stamp.st_mtime_ns + 1))
    with pytest.raises(BadInput, match="has changed since it was resolved"):
        world.run(world.request("download", pinned))
    assert world.resolve(f"file://{model}").pinned != pinned


def test_what_is_not_taken_does_not_move_a_pin(world: World, model: Path) -> None:
    pinned = world.resolve(f"file://{model}").pinned
    (model / "modeling_tiny.py").write_text("other")
    (model / "picture.png").write_bytes(b"x")
    assert world.resolve(f"file://{model}").pinned == pinned


def test_a_changed_bucket_is_noticed(world: World, bucket: str, server: StoreSettings) -> None:
    pinned = world.resolve(f"s3://{bucket}/acme/tiny").pinned
    client(server).put_object(Bucket=bucket, Key="acme/tiny/config.json", Body=b'{"other": 1}')
    with pytest.raises(BadInput, match="has changed since it was resolved"):
        world.run(world.request("download", pinned))


def test_a_folder_that_is_not_there(world: World, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=f"there is no folder {tmp_path}/nothing"):
        world.resolve(f"file://{tmp_path}/nothing")


def test_a_prefix_with_nothing(world: World, bucket: str) -> None:
    with pytest.raises(BadInput, match=f"s3://{bucket}/acme/ti.* is empty"):
        world.resolve(f"s3://{bucket}/acme/ti")


def test_a_bucket_that_is_not_there(world: World) -> None:
    with pytest.raises(BadInput, match="nosuchbucket") as failure:
        world.resolve("s3://nosuchbucket/x")
    assert "CARWRIGHT_STORE__" not in failure.value.remedy


def test_wrong_keys(world: World, bucket: str) -> None:
    """The message speaks of the source's settings and not of the store's, and has no key in it."""
    world.source = world.source.model_copy(update={"secret_access_key": SecretStr("wrongwrongwrong")})
    with pytest.raises(BadInput) as failure:
        world.resolve(f"s3://{bucket}/acme/tiny")
    assert "CARWRIGHT_SOURCE__" in failure.value.remedy
    assert "wrongwrong" not in str(failure.value)


def test_an_endpoint_that_does_not_answer(world: World) -> None:
    world.source = world.source.model_copy(update={"endpoint": "http://127.0.0.1:1"})
    with pytest.raises(Temporary):
        world.resolve("s3://models/x")


def test_an_interrupted_bucket_download_goes_on(world: World, model: Path, bucket: str, tmp_path: Path) -> None:
    """What an earlier run left is kept: only the rest is read."""
    request = world.request("download", world.resolve(f"s3://{bucket}/acme/tiny").pinned)
    name = "model-00001-of-00002.safetensors"
    partial = world.home / "partial" / request.fingerprint(fingerprint_inputs(request.step)) / "large" / name
    partial.parent.mkdir(parents=True)
    partial.write_bytes((model / name).read_bytes()[:120_000])
    result = world.run(request)
    manifest = world.manifest(result)
    assert result.metrics["bytes_read"] == manifest.size - 120_000
    world.store.materialize(manifest.ref, tmp_path / "out")
    assert (tmp_path / "out" / name).read_bytes() == (model / name).read_bytes()


def test_two_runs_of_one_download_do_the_work_once(world: World, model: Path) -> None:
    """The second waits for the first and finds its artifact."""
    request = world.request("download", world.resolve(f"file://{model}").pinned)
    results = []
    threads = [threading.Thread(target=lambda: results.append(world.run(request))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert [result.outputs for result in results] == [results[0].outputs] * 2
    assert min(result.metrics["bytes_stored"] for result in results) == 0


def test_an_unreadable_folder(world: World, model: Path) -> None:
    """A link to nowhere is no file; a folder that loses a shard between listing and reading is bad input."""
    pinned = world.resolve(f"file://{model}").pinned
    (model / "model-00001-of-00002.safetensors").unlink()
    with pytest.raises(BadInput):
        world.run(world.request("download", pinned))


def test_the_command_speaks_the_contract(world: World, model: Path, tmp_path: Path, root: Path) -> None:
    """`python -m containers.download` with a request gives a result and exit code 0; bad input gives 2 and no result."""
    settings = world.store_settings
    environment = inherited() | {
        "CARWRIGHT_HOME": str(world.home),
        "CARWRIGHT_STORE__ACCESS_KEY_ID": settings.access_key_id.get_secret_value(),
        "CARWRIGHT_STORE__SECRET_ACCESS_KEY": settings.secret_access_key.get_secret_value(),
        "PYTHONPATH": str(root),
    }
    for source, code in ((f"file://{model}", 0), ("file:///nowhere/at/all", 2), ("what", 2)):
        (tmp_path / "request.json").write_text(world.request("resolve", source).model_dump_json())
        (tmp_path / "result.json").unlink(missing_ok=True)
        argv = [sys.executable, "-m", "containers.download", "--request", str(tmp_path / "request.json")]
        ended = run([*argv, "--result", str(tmp_path / "result.json")], env=environment, check=False, timeout=60)
        assert ended.code == code, ended.stderr
        assert (tmp_path / "result.json").exists() is (code == 0)
