"""Modelcars in a registry: pushed, killed, read by other people's tools, checked, cleaned up.

In Debian's docker-registry, and with `--registry zuul` (or all, or in the campaign) in zuul-registry, too.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import random
import re
import subprocess
import sys
import tarfile
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import TYPE_CHECKING

import oras.client
import pytest
from olot.basics import crawl_ocilayout_blobs_to_extract, oci_layers_on_top

from containers.digest import Digest
from containers.errors import BadInput
from containers.oci import raw, referrers
from containers.oci.access import open_push_cache, open_repository, resolve, tag
from containers.oci.busybox import PINNED, base_layer
from containers.oci.candidates import find_candidates, mark_pushed, remove
from containers.oci.lint import lint
from containers.oci.repository import image
from containers.oci.unpack import unpack
from containers.oci.validate import listed_files
from containers.oci.verify import verify
from infra.settings import Settings
from tests.support.modelcars import push_folder, settle, write_checkpoint
from tests.support.registries import SERVERS, write_login

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.integration

MB = 1 << 20


@pytest.fixture(scope="module")
def registry(registry_server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with SERVERS[registry_server](tmp_path_factory.mktemp("registry")) as address:
        yield address


@pytest.fixture
def settings(tmp_path: Path, registry: str) -> Settings:
    return Settings(cache=tmp_path / "cache", docker_config=write_login(tmp_path / "docker", registry))


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return write_checkpoint(tmp_path / "checkpoint", size=MB)


@pytest.fixture
def repository(registry: str, request: pytest.FixtureRequest) -> str:
    return f"{registry}/test/{hashlib.sha256(request.node.name.encode()).hexdigest()[:16]}"


def _same_files(one: Path, other: Path) -> bool:
    def files(root: Path) -> dict[str, bytes]:
        return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}

    return files(one) == files(other)


def _run(*argv: str | Path) -> str:
    return subprocess.run(argv, capture_output=True, text=True, check=True).stdout


def test_layout_and_registry_have_one_digest(
    checkpoint: Path, repository: str, settings: Settings, tmp_path: Path
) -> None:
    """The same image in both, and the registry's copy unpacks to the checkpoint."""
    pushed = push_folder(checkpoint, repository, settings)
    assert pushed.digest == push_folder(checkpoint, f"oci:{tmp_path}/car", settings).digest
    assert resolve(f"{repository}:{pushed.candidate_tag}", settings) == pushed.digest
    unpack(f"{repository}@{pushed.digest}", tmp_path / "model", settings)
    assert _same_files(checkpoint, tmp_path / "model")


def test_unchanged_and_changed(checkpoint: Path, repository: str, settings: Settings) -> None:
    """Nothing changed: no byte. One file changed: its layer, the card and the configuration."""
    settle()
    push_folder(checkpoint, repository, settings)
    again = push_folder(checkpoint, repository, settings)
    assert (again.already_there, again.pushed_bytes) == (True, 0)
    (checkpoint / "tokenizer.json").write_text('{"changed": true}')
    changed = push_folder(checkpoint, repository, settings)
    assert 0 < changed.pushed_bytes < 20_000
    assert any(name.endswith(".safetensors") for name in changed.skipped)


_PUSH = """
import sys
from pathlib import Path
from infra.settings import Settings
from tests.support.modelcars import push_folder
print("ready", flush=True)
push_folder(Path(sys.argv[1]), sys.argv[2], Settings(cache=Path(sys.argv[3])), tag="v1")
"""


@pytest.mark.without_login
def test_killed_twenty_times(repository: str, root: Path, tmp_path: Path) -> None:
    """A push killed at twenty random moments: no tag ever names half an image, and the next push ends with the right one."""
    checkpoint = write_checkpoint(tmp_path / "checkpoint", shards=5, size=12 * MB)
    cache = tmp_path / "cache"

    def start(target: str, memory: Path) -> subprocess.Popen[str]:
        argv = [sys.executable, "-c", _PUSH, str(checkpoint), target, str(memory)]
        child = subprocess.Popen(argv, cwd=root, env={"PATH": os.environ["PATH"]}, stdout=subprocess.PIPE, text=True)
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        return child

    began = time.monotonic()
    assert start(f"{repository}-whole", tmp_path / "other").wait() == 0
    whole = time.monotonic() - began
    settings = Settings(cache=cache)
    rng = random.Random(20261123)
    unfinished = 0
    right: set[Digest] = set()
    for _ in range(20):
        child = start(repository, cache)
        try:
            child.wait(timeout=rng.uniform(0, 1.1 * whole))
        except subprocess.TimeoutExpired:
            unfinished += 1
        child.kill()
        child.wait()
        with open_repository(repository, settings) as place:
            for name in place.tags():
                if resolve(f"{repository}:{name}", settings) in right:
                    continue
                found = verify(f"{repository}:{name}", settings, open_push_cache(settings), against=str(checkpoint))
                assert found.ok, (name, found.differences)
                right.add(found.digest)
    assert unfinished >= 5, "the kills have to meet a push that is under way"
    assert start(repository, cache).wait() == 0
    found = verify(f"{repository}:v1", settings, open_push_cache(settings), against=str(checkpoint))
    assert found.ok
    assert found.digest == resolve(f"{repository}-whole:v1", settings)


def test_two_pushes_at_once(checkpoint: Path, repository: str, settings: Settings, tmp_path: Path) -> None:
    """Two pushes of the same reference end with one right image."""

    def push(number: int) -> str:
        own = settings.model_copy(update={"cache": tmp_path / f"cache{number}"})
        return str(push_folder(checkpoint, f"{repository}:v1", own).digest)

    with ThreadPoolExecutor(2) as pool:
        digests = set(pool.map(push, range(2)))
    assert digests == {str(resolve(f"{repository}:v1", settings))}
    assert verify(f"{repository}:v1", settings, open_push_cache(settings), against=str(checkpoint)).ok


@pytest.mark.parametrize("base", ["minimal", "busybox"])
def test_read_by_skopeo_umoci_and_tar(
    checkpoint: Path, repository: str, settings: Settings, tmp_path: Path, base: str
) -> None:
    """skopeo copies it without changing the digest, umoci and plain tar unpack it to the checkpoint."""
    pushed = push_folder(checkpoint, f"{repository}:v1", settings, base=base)
    said = json.loads(_run("skopeo", "inspect", "--tls-verify=false", f"docker://{repository}:v1"))
    assert said["Digest"] == str(pushed.digest)
    _run(
        "skopeo", "copy", "--src-tls-verify=false", "--dest-oci-accept-uncompressed-layers",
        f"docker://{repository}@{pushed.digest}", f"oci:{tmp_path}/copy:v1",
    )  # fmt: skip
    assert resolve(f"oci:{tmp_path}/copy:v1", settings) == pushed.digest
    _run("umoci", "unpack", "--rootless", "--image", f"{tmp_path}/copy:v1", tmp_path / "bundle")
    assert _same_files(checkpoint, tmp_path / "bundle/rootfs/models")
    # What KServe's sidecar runs, as another user in the image's own root (pkg/utils/storage.go).
    listed = _run(
        "bwrap", "--unshare-all", "--uid", "1001", "--gid", "1001", "--bind", tmp_path / "bundle/rootfs", "/",
        "--proc", "/proc", "--dev", "/dev",
        "sh", "-c", "ln -sf /proc/$$/root/models /mnt/models && sleep 0 && ls /mnt/models/",
    )  # fmt: skip
    assert "config.json" in listed.split()
    (tmp_path / "tar").mkdir()
    manifest = json.loads((tmp_path / "copy/blobs/sha256" / pushed.digest.hex).read_bytes())
    for layer in manifest["layers"]:
        blob = tmp_path / "copy/blobs/sha256" / layer["digest"].removeprefix("sha256:")
        _run("tar", "--extract", "--file", blob, "--directory", tmp_path / "tar", "--no-same-owner")
    assert _same_files(checkpoint, tmp_path / "tar/models")


def test_read_by_olot(checkpoint: Path, settings: Settings, tmp_path: Path) -> None:
    """olot's own reader finds every file."""
    push_folder(checkpoint, f"oci:{tmp_path}/car", settings)
    found = crawl_ocilayout_blobs_to_extract(tmp_path / "car", tmp_path / "out")
    assert len(found) == sum(path.is_file() for path in checkpoint.rglob("*"))
    assert _same_files(checkpoint, tmp_path / "out/models")


@pytest.mark.without_login
def test_raw_artifact(checkpoint: Path, repository: str, settings: Settings, tmp_path: Path) -> None:
    """The raw artifact by oras-py, and by what `ilab model download` does; tied to the modelcar file by file."""
    pushed = push_folder(checkpoint, f"{repository}:v1", settings, also_raw=True)
    client = oras.client.OrasClient(insecure=True)
    client.pull(target=f"{repository}:v1-raw", outdir=str(tmp_path / "oras"))
    assert _same_files(checkpoint, tmp_path / "oras")
    # instructlab, src/instructlab/model/download.py: skopeo copy to oci:, the first manifest, blobs linked by title
    _run(
        "skopeo", "copy", "--src-tls-verify=false", f"docker://{repository}:v1-raw", f"oci:{tmp_path}/ilab",
        "--remove-signatures",
    )  # fmt: skip
    blobs = tmp_path / "ilab/blobs/sha256"
    index = json.loads((tmp_path / "ilab/index.json").read_bytes())
    manifest = json.loads((blobs / index["manifests"][0]["digest"].removeprefix("sha256:")).read_bytes())
    for layer in manifest["layers"]:
        link = tmp_path / "linked" / layer["annotations"]["org.opencontainers.image.title"]
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(blobs / layer["digest"].removeprefix("sha256:"))
        assert layer["mediaType"].startswith("application/vnd.cncf.model.")
        assert layer["annotations"]["org.cncf.model.filepath"] == layer["annotations"]["org.opencontainers.image.title"]
    assert _same_files(checkpoint, tmp_path / "linked")
    with open_repository(repository, settings) as place:
        _, car = image(place, "v1")
        by_file = {file.path: (layer.digest, file.sha256) for layer in car.layers for file in listed_files(layer)}
        assert [one.digest for one in referrers.attached(place, pushed.digest, raw.ARTIFACT)] == [pushed.raw]
    for layer in manifest["layers"]:
        title = layer["annotations"]["org.opencontainers.image.title"]
        assert by_file[title] == (
            Digest.parse(layer["annotations"]["dev.carwright.modelcar.layer"]),
            Digest.parse(layer["digest"]),
        )
    assert verify(f"{repository}:v1-raw", settings, open_push_cache(settings), against=str(checkpoint)).ok
    assert not [one for one in lint(f"{repository}:v1-raw", settings) if one.level == "error"]
    again = push_folder(checkpoint, f"{repository}:v1", settings, also_raw=True)
    assert (again.raw, again.pushed_bytes) == (pushed.raw, 0)


def test_verify_names_the_file(checkpoint: Path, repository: str, settings: Settings, tmp_path: Path) -> None:
    """Against another folder and another image, verify says which files differ and how."""
    push_folder(checkpoint, f"{repository}:v1", settings)
    other = write_checkpoint(tmp_path / "other", size=MB)
    (other / "LICENSE").write_text("another\n")
    (other / "tokenizer.json").unlink()
    (other / "NOTICE").write_text("x")
    for against in (str(other), f"oci:{tmp_path}/car"):
        push_folder(other, f"oci:{tmp_path}/car", settings)
        found = verify(f"{repository}:v1", settings, open_push_cache(settings), against=against)
        assert [(one.kind, one.path) for one in found.differences] == [
            ("changed", "LICENSE"),
            ("missing", "NOTICE"),
            ("extra", "tokenizer.json"),
        ]


def test_lint(checkpoint: Path, repository: str, settings: Settings, tmp_path: Path) -> None:
    """Ours is clean; without a base, and as olot makes it, the broken rules are named."""
    push_folder(checkpoint, f"{repository}:v1", settings, base="minimal")
    assert {one.level for one in lint(f"{repository}:v1", settings)} == {"ok"}
    push_folder(checkpoint, f"{repository}:bare", settings)
    assert [one.rule for one in lint(f"{repository}:bare", settings) if one.level == "error"] == ["tools"]
    (checkpoint / "model-00002-of-00002.safetensors").rename(tmp_path / "away")
    push_folder_of_part = write_checkpoint(tmp_path / "part", shards=1)
    push_folder(push_folder_of_part, f"oci:{tmp_path}/base:base", settings)
    files = [path for path in checkpoint.rglob("*") if path.is_file()]
    oci_layers_on_top(tmp_path / "base", files)  # flattens, and one shard is missing
    rules = {one.rule: one.level for one in lint(f"oci:{tmp_path}/base", settings)}
    assert rules["paths-once"] == rules["shards"] == rules["tools"] == "error"
    assert rules["ilab-titles"] == "warning"


@pytest.mark.without_login
def test_another_base(checkpoint: Path, repository: str, settings: Settings, tmp_path: Path) -> None:
    """The layers of another image come first; its entry point is dropped, its user kept."""
    base = tmp_path / "tree"
    (base / "bin").mkdir(parents=True)
    (base / "bin/tool").write_text("x")
    with tarfile.open(tmp_path / "base.tar", "w") as tar:
        tar.add(base / "bin", "bin")
    _run("umoci", "init", "--layout", tmp_path / "base")
    _run("umoci", "new", "--image", f"{tmp_path}/base:v1")
    _run("umoci", "raw", "add-layer", "--image", f"{tmp_path}/base:v1", tmp_path / "base.tar")
    _run(
        "umoci", "config", "--image", f"{tmp_path}/base:v1", "--config.entrypoint", "/bin/tool", "--config.user", "7",
        "--architecture", "amd64", "--os", "linux",
    )  # fmt: skip
    _run("skopeo", "copy", "--dest-tls-verify=false", f"oci:{tmp_path}/base:v1", f"docker://{repository}-base:v1")
    pushed = push_folder(checkpoint, f"{repository}:v1", settings, base=f"{repository}-base:v1")
    said = json.loads(_run("skopeo", "inspect", "--config", "--tls-verify=false", f"docker://{repository}:v1"))
    assert said["config"].get("Entrypoint") is None
    assert said["config"]["User"] == "7"
    _run(
        "skopeo", "copy", "--src-tls-verify=false", f"docker://{repository}@{pushed.digest}", f"oci:{tmp_path}/copy:v1"
    )
    _run("umoci", "unpack", "--rootless", "--image", f"{tmp_path}/copy:v1", tmp_path / "bundle")
    assert (tmp_path / "bundle/rootfs/bin/tool").read_text() == "x"
    assert _same_files(checkpoint, tmp_path / "bundle/rootfs/models")


def test_candidates(checkpoint: Path, repository: str, settings: Settings, registry_server: str) -> None:
    """Cleaning removes an old candidate that never passed, and nothing that a release needs, that passed, or that is new.

    Where the registry knows no way to delete, that is said, and all of it stays.
    """
    released = push_folder(checkpoint, f"{repository}:v1", settings)
    (checkpoint / "LICENSE").write_text("second\n")
    passed = push_folder(checkpoint, repository, settings)
    (checkpoint / "LICENSE").write_text("third\n")
    forgotten = push_folder(checkpoint, repository, settings)
    (checkpoint / "LICENSE").write_text("fourth\n")
    undated = push_folder(checkpoint, repository, settings)
    with open_repository(repository, settings, write=True) as place:
        for one in (released, passed, forgotten):
            mark_pushed(place, one.digest)
        verdict = b'{"decision":"pass","subject":"x","suite":"smoke"}'
        files = (referrers.Attachment("verdict.json", "application/json", verdict),)
        referrers.attach(place, passed.digest, referrers.EVALUATION, files)
        assert find_candidates(place, timedelta(hours=1)) == ()
        found = find_candidates(place, timedelta(seconds=-5))
        assert [one.digest for one in found] == [forgotten.digest]
        if registry_server == "zuul":
            with pytest.raises(BadInput, match="does not allow deleting"):
                remove(place, found)
            assert place.get(str(forgotten.digest)) is not None
            return
        remove(place, found)
        assert place.get(str(forgotten.digest)) is None
        kept = {released.candidate_tag, passed.candidate_tag, undated.candidate_tag, "v1"}
        assert {name for name in place.tags() if not name.startswith("sha256-")} == kept
    assert verify(f"{repository}:v1", settings, open_push_cache(settings)).ok


def test_tag_and_resolve(checkpoint: Path, repository: str, settings: Settings) -> None:
    """A tag is given once; a name that is not there is a clear message."""
    pushed = push_folder(checkpoint, repository, settings)
    assert tag(f"{repository}@{pushed.digest}", "v2", settings) is True
    assert tag(f"{repository}@{pushed.digest}", "v2", settings) is False
    assert resolve(f"{repository}:v2", settings) == pushed.digest
    with pytest.raises(BadInput, match="has no tag or digest nowhere"):
        resolve(f"{repository}:nowhere", settings)


def test_the_base_is_pinned(settings: Settings, tmp_path: Path) -> None:
    """The base layer is a function of the binary, and only the pinned binary is taken."""
    from containers.oci.base import busybox_base

    base = busybox_base("linux/amd64", settings)
    content = b"".join(base.blobs[0].chunks(0))
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        binary = tar.extractfile("bin/busybox")
        assert binary is not None
        data = binary.read()
        assert {"bin/sh", "bin/ln", "bin/sleep", "bin/ls"} <= set(tar.getnames())
    assert hashlib.sha256(data).hexdigest() == PINNED[0].binary
    assert base_layer(data) == content
    (tmp_path / "busybox").write_bytes(data + b"\0")
    with pytest.raises(BadInput, match="not the pinned busybox"):
        busybox_base("linux/amd64", settings.model_copy(update={"busybox": tmp_path / "busybox"}))


@pytest.mark.without_login
def test_memory_stays_small(repository: str, settings: Settings, root: Path, tmp_path: Path) -> None:
    """A push needs the same few dozen megabytes for a shard of 512 MB as for a small one."""
    checkpoint = write_checkpoint(tmp_path / "checkpoint", shards=1)
    with (checkpoint / "model-00001-of-00001.safetensors").open("r+b") as file:
        file.truncate(512 * MB)  # sparse
    # VmHWM and not getrusage, which begins with what the parent had at the fork.
    code = _PUSH + "print([line for line in open('/proc/self/status') if line.startswith('VmHWM')])"
    done = subprocess.run(
        [sys.executable, "-c", code, str(checkpoint), f"oci:{tmp_path}/car", str(settings.cache)],
        cwd=root, env={"PATH": os.environ["PATH"]}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    peak = int(re.findall(r"[0-9]+", done.stdout)[-1]) / 1024
    assert peak < 200
