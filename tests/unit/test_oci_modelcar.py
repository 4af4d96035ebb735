"""A checkpoint folder becomes an image in a layout: the same digest whatever the circumstances, nothing half-published."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import random  # noqa: TC003 -- hypothesis reads the annotation
import shutil
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from containers.digest import Digest
from containers.errors import BadInput, DiskFull
from containers.oci.access import open_push_cache, open_repository, resolve, tag
from containers.oci.base import empty_base
from containers.oci.plan import make_plan
from containers.oci.push_cache import PushCache
from containers.oci.repository import image, read_config
from containers.oci.source import CheckpointFolder
from containers.oci.validate import check_image, listed_files
from containers.settings import StepSettings
from tests.support.modelcars import push_folder, settle, write_checkpoint, write_safetensors


@pytest.fixture
def settings(tmp_path: Path) -> StepSettings:
    return StepSettings(cache=tmp_path / "cache", home=tmp_path / "home")


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return write_checkpoint(tmp_path / "checkpoint")


def test_what_is_in_the_image(checkpoint: Path, tmp_path: Path, settings: StepSettings) -> None:
    """Every file is in a layer of its own, sub-folders kept; user 1001, no entry point; what is listed is true."""
    pushed = push_folder(checkpoint, f"oci:{tmp_path}/car:v1", settings)
    with open_repository(f"oci:{tmp_path}/car:v1", settings) as repository:
        stored, manifest = image(repository, "v1")
        config = read_config(repository, manifest)
    assert stored.digest == pushed.digest == resolve(f"oci:{tmp_path}/car", settings)
    files = [file for layer in manifest.layers for file in listed_files(layer)]
    assert [file.path for file in files] == sorted(
        str(path.relative_to(checkpoint)) for path in checkpoint.rglob("*") if path.is_file()
    )
    assert all(Digest.of((checkpoint / file.path).read_bytes()) == file.sha256 for file in files)
    assert (config.config.user, config.config.entrypoint, config.config.cmd) == ("1001", None, None)
    check_image(manifest, config.encode())
    memory = PushCache(None)
    planned = make_plan(CheckpointFolder(checkpoint, memory), (empty_base("linux/amd64"),), memory)
    assert planned.size == sum(layer.size for layer in manifest.layers)


def test_nothing_changed_sends_and_reads_nothing(checkpoint: Path, tmp_path: Path, settings: StepSettings) -> None:
    """The second push finds everything and opens no shard."""
    for path in checkpoint.rglob("*"):
        os.utime(path, (1, 1))
    settle()
    first = push_folder(checkpoint, f"oci:{tmp_path}/car", settings)
    again = push_folder(checkpoint, f"oci:{tmp_path}/car", settings)
    assert (first.already_there, again.already_there) == (False, True)
    assert (again.pushed_bytes, again.digest) == (0, first.digest)


def test_one_file_changed_sends_its_layer_alone(checkpoint: Path, tmp_path: Path, settings: StepSettings) -> None:
    """Besides the card, the configuration and the manifest, only the changed file's layer is sent."""
    settle()
    first = push_folder(checkpoint, f"oci:{tmp_path}/car", settings)
    changed = checkpoint / "model-00002-of-00002.safetensors"
    write_safetensors(changed, 8192, b"\x07")
    again = push_folder(checkpoint, f"oci:{tmp_path}/other", settings)
    shutil.copytree(tmp_path / "car", tmp_path / "copy")
    sent = push_folder(checkpoint, f"oci:{tmp_path}/copy", settings)
    assert sent.digest == again.digest != first.digest
    before = {path.name for path in (tmp_path / "car/blobs/sha256").iterdir()}
    after = {path.name for path in (tmp_path / "copy/blobs/sha256").iterdir()}
    fresh = [path for path in (tmp_path / "copy/blobs/sha256").iterdir() if path.name in after - before]
    assert sorted(path.stat().st_size > 8192 for path in fresh) == [False, False, False, True]
    layer = max(path.stat().st_size for path in fresh)
    assert layer < sent.pushed_bytes < layer + 8192


@hypothesis_settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(umask=st.sampled_from([0o000, 0o022, 0o077]), mtime=st.integers(0, 2**31), rng=st.randoms(use_true_random=False))
def test_circumstances_do_not_matter(
    tmp_path_factory: pytest.TempPathFactory, umask: int, mtime: int, rng: random.Random
) -> None:
    """Another umask, mtime, folder and order of creation give the same digest."""
    base = tmp_path_factory.mktemp("model")
    settings = StepSettings(cache=base / "cache")
    plain = write_checkpoint(base / "plain")
    names = sorted(path.relative_to(plain) for path in plain.rglob("*") if path.is_file())
    rng.shuffle(names)
    before = os.umask(umask)
    try:
        other = base / f"elsewhere-{mtime}"
        for name in names:
            (other / name).parent.mkdir(parents=True, exist_ok=True)
            (other / name).write_bytes((plain / name).read_bytes())
            os.utime(other / name, (mtime, mtime))
        pushed = push_folder(other, f"oci:{base}/b", settings)
    finally:
        os.umask(before)
    assert pushed.digest == push_folder(plain, f"oci:{base}/a", settings).digest


@pytest.mark.parametrize(
    "environment",
    [{"PYTHONHASHSEED": "1", "LC_ALL": "C"}, {"PYTHONHASHSEED": "2", "LC_ALL": "C.UTF-8", "TZ": "Asia/Tokyo"}],
    ids=lambda values: values["LC_ALL"],
)
def test_process_does_not_matter(checkpoint: Path, tmp_path: Path, root: Path, environment: dict[str, str]) -> None:
    """Another hash seed, locale, time zone and process give the same digest as this process."""
    (checkpoint / "naïve ☃.txt").write_text("x")
    code = (
        "import sys; from pathlib import Path; from containers.settings import StepSettings;"
        "from tests.support.modelcars import push_folder;"
        "print(push_folder(Path(sys.argv[1]), sys.argv[2], StepSettings(cache=Path(sys.argv[3]))).digest)"
    )
    argv = [sys.executable, "-c", code, str(checkpoint), f"oci:{tmp_path}/car", str(tmp_path / "cache")]
    done = subprocess.run(
        argv, env={"PATH": os.environ["PATH"], **environment}, cwd=root, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == str(
        push_folder(checkpoint, f"oci:{tmp_path}/b", StepSettings(cache=tmp_path / "c")).digest
    )


def test_another_owner_does_not_matter(checkpoint: Path, tmp_path: Path, settings: StepSettings) -> None:
    """The owner of the files is not in the image."""
    first = push_folder(checkpoint, f"oci:{tmp_path}/a", settings)
    if os.getuid() == 0:
        for path in checkpoint.rglob("*"):
            os.chown(path, 12345, 54321)
    else:
        for path in checkpoint.rglob("*"):
            path.chmod(0o700)
    assert push_folder(checkpoint, f"oci:{tmp_path}/b", settings).digest == first.digest


def test_grouped_layers_have_the_same_files(checkpoint: Path, tmp_path: Path, settings: StepSettings) -> None:
    """With fewer layers than files the files share layers, and each is still listed with its digest."""
    for number in range(20):
        (checkpoint / f"extra-{number}.json").write_text(str(number))
    pushed = push_folder(checkpoint, f"oci:{tmp_path}/car", settings, layer_limit=3)
    with open_repository(f"oci:{tmp_path}/car", settings) as repository:
        _, manifest = image(repository, str(pushed.digest))
    assert len(manifest.layers) <= 4  # three and the card
    files = [file for layer in manifest.layers for file in listed_files(layer)]
    assert {file.path: file.sha256 for file in files} == {
        str(path.relative_to(checkpoint)): Digest.of(path.read_bytes())
        for path in checkpoint.rglob("*")
        if path.is_file()
    }


def _broken(checkpoint: Path, how: str) -> None:
    if how == "no config":
        (checkpoint / "config.json").unlink()
    elif how == "config is not JSON":
        (checkpoint / "config.json").write_text("{")
    elif how == "config is a list":
        (checkpoint / "config.json").write_text("[]")
    elif how == "no safetensors":
        for path in checkpoint.glob("*.safetensors"):
            path.unlink()
    elif how == "shard missing":
        (checkpoint / "model-00002-of-00002.safetensors").unlink()
    elif how == "link out":
        (checkpoint / "secret").symlink_to("/etc/passwd")
    elif how == "linked folder":
        (checkpoint / "more").symlink_to(checkpoint / "onnx")
    elif how == "dangling link":
        (checkpoint / "gone").symlink_to("nowhere")
    elif how == "pipe":
        os.mkfifo(checkpoint / "pipe")
    elif how == "not UTF-8":
        (Path(os.fsdecode(os.fsencode(checkpoint) + b"/\xff.bin"))).write_bytes(b"")
    elif how == "control character":
        (checkpoint / "a\nb").write_text("")


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ("no config", "no config.json"),
        ("config is not JSON", "config.json is not JSON"),
        ("config is a list", "not a JSON object"),
        ("no safetensors", "no safetensors"),
        ("shard missing", "model-00002-of-00002.safetensors"),
        ("link out", "leads out of"),
        ("linked folder", "link to a folder"),
        ("dangling link", "cannot read"),
        ("pipe", "not a regular file"),
        ("not UTF-8", "not UTF-8"),
        ("control character", "control character"),
    ],
)
def test_bad_checkpoints(checkpoint: Path, tmp_path: Path, settings: StepSettings, how: str, says: str) -> None:
    """Each is refused with what is wrong, and nothing is written."""
    _broken(checkpoint, how)
    with pytest.raises(BadInput, match=says):
        push_folder(checkpoint, f"oci:{tmp_path}/car", settings)
    assert not (tmp_path / "car").exists()


def test_links_inside_are_followed(checkpoint: Path, tmp_path: Path, settings: StepSettings) -> None:
    """A link to a file of the same checkpoint is its content."""
    (checkpoint / "NOTICE").symlink_to("LICENSE")
    linked = push_folder(checkpoint, f"oci:{tmp_path}/a", settings)
    (checkpoint / "NOTICE").unlink()
    shutil.copy(checkpoint / "LICENSE", checkpoint / "NOTICE")
    assert push_folder(checkpoint, f"oci:{tmp_path}/b", settings).digest == linked.digest


def test_a_file_that_changes_while_it_is_read(
    checkpoint: Path, tmp_path: Path, settings: StepSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A write between the plan and the last byte is noticed, and no image is published."""
    learned = CheckpointFolder.learned

    def touched(self: CheckpointFolder, path: str, sha256: Digest) -> None:
        if path.endswith("00001-of-00002.safetensors"):
            with (checkpoint / path).open("r+b") as file:
                file.write(b"zz")
        learned(self, path, sha256)

    monkeypatch.setattr(CheckpointFolder, "learned", touched)
    with pytest.raises(BadInput, match="changed while it was read"):
        push_folder(checkpoint, f"oci:{tmp_path}/car", settings)
    assert not (tmp_path / "car" / "index.json").exists()


def test_disk_full(checkpoint: Path, tmp_path: Path, settings: StepSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk is temporary, names the layout, and leaves neither an index nor a partial blob."""
    real = Path.open

    def full(self: Path, *arguments: Any, **options: Any) -> Any:
        if self.suffix == ".partial":
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(self, *arguments, **options)

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(DiskFull, match="no space is left"):
        push_folder(checkpoint, f"oci:{tmp_path}/car", settings)
    monkeypatch.undo()
    assert not (tmp_path / "car" / "index.json").exists()
    assert not list((tmp_path / "car").rglob("*.partial"))
    assert not list((tmp_path / "car" / "blobs" / "sha256").iterdir())


def test_two_pushes_at_once(checkpoint: Path, tmp_path: Path, settings: StepSettings) -> None:
    """Ten threads push two images to one layout: both are there, whole, under their tags."""
    other = write_checkpoint(tmp_path / "other", shards=3)

    def push(number: int) -> Digest:
        source = checkpoint if number % 2 else other
        return push_folder(source, f"oci:{tmp_path}/car:{'odd' if number % 2 else 'even'}", settings).digest

    with ThreadPoolExecutor(10) as pool:
        digests = list(pool.map(push, range(10)))
    assert len(set(digests)) == 2
    assert resolve(f"oci:{tmp_path}/car:even", settings) == digests[0]
    assert resolve(f"oci:{tmp_path}/car:odd", settings) == digests[1]
    assert not list((tmp_path / "car/.carwright").glob("*.partial"))


def test_what_a_killed_writer_left_is_removed(checkpoint: Path, tmp_path: Path, settings: StepSettings) -> None:
    """A partial file without a living owner goes at the next push; one that is being written stays."""
    push_folder(checkpoint, f"oci:{tmp_path}/car", settings)
    work = tmp_path / "car/.carwright"
    for name in ("dead", "living"):
        (work / f"{name}.partial").write_bytes(b"x")
        (work / f"{name}.claim").touch()
    with (work / "living.claim").open("w") as claim:
        fcntl.flock(claim, fcntl.LOCK_EX)
        tag(f"oci:{tmp_path}/car", "v2", settings)
    assert {path.name for path in work.iterdir()} - {"lock"} == {"living.partial", "living.claim"}


def test_tags_move_and_digests_stay(checkpoint: Path, tmp_path: Path, settings: StepSettings) -> None:
    """A tag given twice changes nothing; given to another image it moves."""
    first = push_folder(checkpoint, f"oci:{tmp_path}/car", settings)
    reference = f"oci:{tmp_path}/car@{first.digest}"
    assert tag(reference, "v1", settings) is True
    assert tag(reference, "v1", settings) is False
    (checkpoint / "LICENSE").write_text("another\n")
    second = push_folder(checkpoint, f"oci:{tmp_path}/car:v1", settings)
    assert resolve(f"oci:{tmp_path}/car:v1", settings) == second.digest != first.digest
    assert resolve(reference, settings) == first.digest
    with pytest.raises(BadInput, match="name the image"):
        resolve(f"oci:{tmp_path}/car", settings)


def test_a_reader_never_sees_half_an_index(checkpoint: Path, tmp_path: Path, settings: StepSettings) -> None:
    """While tags are written, index.json is valid JSON at every look, and all that it names is there."""
    pushed = push_folder(checkpoint, f"oci:{tmp_path}/car", settings)
    stop = threading.Event()
    seen: list[int] = []

    def read() -> None:
        while not stop.is_set():
            index = json.loads((tmp_path / "car/index.json").read_bytes())
            for entry in index["manifests"]:
                assert (tmp_path / "car/blobs/sha256" / entry["digest"].removeprefix("sha256:")).exists()
            seen.append(len(index["manifests"]))

    with ThreadPoolExecutor(1) as pool:
        reader = pool.submit(read)
        for number in range(50):
            tag(f"oci:{tmp_path}/car@{pushed.digest}", f"v{number}", settings)
        stop.set()
        reader.result()
    assert seen
    assert seen[-1] <= 51


def test_memory_forgets_a_changed_file(tmp_path: Path, settings: StepSettings) -> None:
    """A digest is remembered for a file that stays, and not for one that was written again."""
    path = tmp_path / "file"
    path.write_bytes(b"one")
    memory = open_push_cache(settings)
    settle()
    memory.remember_file(path.stat(), Digest.of(b"one"))
    assert memory.file(path.stat()) == Digest.of(b"one")
    status = path.stat()
    path.write_bytes(b"two")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert memory.file(path.stat()) is None
