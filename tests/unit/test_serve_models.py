"""The folders that vLLM reads: made once, noticed when damaged, removed when there are too many and nobody reads them."""

from __future__ import annotations

import fcntl
import os
import threading
from dataclasses import replace
from io import StringIO
from pathlib import Path

import pytest

from containers.contract import Step, StepRequest
from containers.digest import Digest
from containers.errors import BadInput, Temporary
from containers.events import Reporter
from containers.serve.models import make_room, unpacked
from containers.settings import ServeSettings, StepSettings, StoreSettings
from containers.step import Context
from containers.store import Store
from tests.support.modelcars import push_folder, write_checkpoint
from tests.support.waiting import until

WEIGHTS = "model-00001-of-00002.safetensors"
_REQUEST = StepRequest(step=Step.SERVE, run="test")


@pytest.fixture
def context(tmp_path: Path) -> Context:
    settings = StepSettings(home=tmp_path / "home", cache=tmp_path / "cache", serve=ServeSettings(keep_gb=1))
    return Context(settings, Reporter(StringIO(), structured=True), tmp_path / "scratch", tmp_path / "result.json")


@pytest.fixture
def modelcar(tmp_path: Path, context: Context) -> str:
    """A modelcar by digest, in a layout."""
    layout = f"oci:{tmp_path / 'layout'}"
    pushed = push_folder(write_checkpoint(tmp_path / "checkpoint"), layout, context.settings)
    return f"{layout}@{pushed.digest}"


def _files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def _leave(home: Path, name: str, size: int, used: float) -> None:
    """What an earlier run leaves behind."""
    (home / name).mkdir(parents=True)
    (home / name / "model.safetensors").write_bytes(b"\0" * size)
    (home / f"{name}.digest").write_text("sha256:...")
    for mark in ("use", "sizes"):
        (home / f".{name}.{mark}").touch()
    os.utime(home / f".{name}.use", (used, used))


def test_a_modelcar_becomes_the_checkpoint_that_was_pushed(tmp_path: Path, context: Context, modelcar: str) -> None:
    with unpacked(modelcar, _REQUEST, context) as folder:
        served = _files(folder)
    pushed = _files(tmp_path / "checkpoint")
    assert pushed.items() <= served.items()


def test_the_second_time_nothing_is_written(context: Context, modelcar: str) -> None:
    with unpacked(modelcar, _REQUEST, context) as folder:
        before = {path: path.stat().st_ino for path in folder.rglob("*")}
    with unpacked(modelcar, _REQUEST, context) as folder:
        assert {path: path.stat().st_ino for path in folder.rglob("*")} == before


@pytest.mark.parametrize("damage", ["remove", "shorten", "add"])
def test_a_folder_that_was_changed_is_made_again(context: Context, modelcar: str, damage: str) -> None:
    with unpacked(modelcar, _REQUEST, context) as folder:
        whole = _files(folder)
    shard = next(folder.glob("*.safetensors"))
    if damage == "remove":
        shard.unlink()
    elif damage == "shorten":
        shard.write_bytes(shard.read_bytes()[:-1])
    else:
        (folder / "tokenizer.model").write_bytes(b"from elsewhere")
    with unpacked(modelcar, _REQUEST, context) as folder:
        assert _files(folder) == whole


def test_what_was_fetched_is_served_and_never_fetched_again(context: Context, modelcar: str) -> None:
    """A server has no login: a model that is gone is said to be gone."""
    with pytest.raises(Temporary, match="not there, or not whole"), unpacked(modelcar, _REQUEST, context, fetch=False):
        pass
    with unpacked(modelcar, _REQUEST, context) as fetched:
        pass
    with unpacked(modelcar, _REQUEST, context, fetch=False) as folder:
        assert folder == fetched
    next(folder.glob("*.safetensors")).unlink()
    with pytest.raises(Temporary, match="not there, or not whole"), unpacked(modelcar, _REQUEST, context, fetch=False):
        pass


def test_nothing_to_serve_is_bad_input(context: Context) -> None:
    with pytest.raises(BadInput, match="nothing to serve"), unpacked("", _REQUEST, context):
        pass


def test_a_reference_that_can_move_is_refused(context: Context, modelcar: str) -> None:
    with pytest.raises(BadInput, match="not pinned"), unpacked(modelcar.partition("@")[0], _REQUEST, context):
        pass


def test_what_was_used_longest_ago_goes_first(tmp_path: Path) -> None:
    for name, used in (("aaa", 300), ("bbb", 100), ("ccc", 200)):
        _leave(tmp_path, name, 1000, used)
    assert make_room(tmp_path, 1500) == ["bbb", "ccc"]
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        *(".aaa.sizes", ".aaa.use"),
        *("aaa", "aaa.digest"),
    ]


def test_what_a_server_reads_stays(tmp_path: Path) -> None:
    for name, used in (("old", 1), ("new", 2)):
        _leave(tmp_path, name, 1000, used)
    with (tmp_path / ".old.use").open() as reading:
        fcntl.flock(reading, fcntl.LOCK_SH)
        assert make_room(tmp_path, 0) == ["new"]
    assert (tmp_path / "old" / "model.safetensors").exists()


def test_of_what_is_removed_no_mark_stays(context: Context, modelcar: str, tmp_path: Path) -> None:
    """A model that was served once would else be looked for at every later start, for ever."""
    with unpacked(modelcar, _REQUEST, context):
        pass
    home = context.settings.home / "serving"
    assert len(list(home.iterdir())) > 3
    make_room(home, 0)
    assert list(home.iterdir()) == []
    with unpacked(modelcar, _REQUEST, context) as folder:
        assert _files(tmp_path / "checkpoint").items() <= _files(folder).items()


def _opened(path: Path) -> int:
    """How often this process has it open (proc(5))."""
    links = list(Path("/proc/self/fd").iterdir())
    return sum(link.is_symlink() and os.path.realpath(link) == str(path) for link in links)


def test_a_use_file_that_is_removed_while_one_waits_for_it(context: Context, modelcar: str) -> None:
    """The lock of a file that has no name any more would keep nobody out: the next one is taken."""
    with unpacked(modelcar, _REQUEST, context) as folder:
        pass
    use = folder.with_name(f".{folder.name}.use")
    with use.open() as removing:
        fcntl.flock(removing, fcntl.LOCK_EX)
        entered, leave = threading.Event(), threading.Event()

        def serve() -> None:
            with unpacked(modelcar, _REQUEST, context):
                entered.set()
                leave.wait(60)

        serving = threading.Thread(target=serve)
        serving.start()
        until(lambda: _opened(use) == 2, "the server has opened it")
        use.unlink()
    assert entered.wait(60)
    try:
        assert make_room(folder.parent, 0) == []
    finally:
        leave.set()
        serving.join()
    assert make_room(folder.parent, 0) == [folder.name]


def test_what_a_killed_run_left_is_removed_too(tmp_path: Path) -> None:
    _leave(tmp_path, "aaa", 10, 1)
    partial = tmp_path / ".aaa.0123.partial" / "models"
    partial.mkdir(parents=True)
    (partial / "model.safetensors").write_bytes(b"\0" * 1000)
    make_room(tmp_path, 500)
    assert not partial.exists()


def test_a_model_in_use_is_not_removed_for_another(context: Context, modelcar: str, tmp_path: Path) -> None:
    settings = context.settings.model_copy(update={"serve": ServeSettings(keep_gb=0)})
    small = Context(settings, context.report, context.scratch, context.result_path)
    _leave(settings.home / "serving", "0" * 12, 1000, 1)
    with unpacked(modelcar, _REQUEST, small) as folder:
        assert _files(tmp_path / "checkpoint").items() <= _files(folder).items()
        assert not (settings.home / "serving" / ("0" * 12)).exists()


@pytest.fixture
def beside_the_store(tmp_path: Path, context: Context) -> tuple[Context, StepRequest, Path]:
    """A store in a folder of this machine that has the checkpoint's files, the request with it, and where its blobs are."""
    folder = tmp_path / "store"
    folder.mkdir()
    stored = StoreSettings(endpoint="http://127.0.0.1:9", folder=folder, direct=True)
    request = _REQUEST.model_copy(update={"store": stored.location})
    store = Store.open(request.store, stored)
    for path in (tmp_path / "checkpoint").rglob("*"):
        if path.is_file():
            store.put_file(path)
    settings = context.settings.model_copy(update={"store": stored})
    return replace(context, settings=settings), request, folder / "carwright" / "blobs" / "sha256"


def test_what_the_store_has_is_not_written_again(
    modelcar: str, beside_the_store: tuple[Context, StepRequest, Path], context: Context
) -> None:
    beside, request, blobs = beside_the_store
    with unpacked(modelcar, _REQUEST, context) as folder:
        written = _files(folder)
    home = beside.settings.home.parent / "other"
    beside = replace(beside, settings=beside.settings.model_copy(update={"home": home}))
    with unpacked(modelcar, request, beside) as folder:
        assert _files(folder) == written
        weights = folder / WEIGHTS
        assert weights.is_symlink()
        assert weights.resolve().parent == blobs


@pytest.mark.parametrize("damage", ["other bytes", "gone", "cut short"])
def test_a_blob_that_is_not_the_layers_is_not_served(
    damage: str, modelcar: str, beside_the_store: tuple[Context, StepRequest, Path], tmp_path: Path
) -> None:
    """The layer itself is read then, and its digest checked."""
    beside, request, blobs = beside_the_store
    content = (tmp_path / "checkpoint" / WEIGHTS).read_bytes()
    blob = blobs / Digest.of(content).hex
    if damage == "gone":
        blob.unlink()
    else:
        blob.write_bytes(content[:-1] + (b"" if damage == "cut short" else bytes([content[-1] ^ 1])))
    with unpacked(modelcar, request, beside) as folder:
        assert (folder / WEIGHTS).read_bytes() == content
        assert not (folder / WEIGHTS).is_symlink()


def test_a_layer_whose_list_lies_is_served_as_an_engine_would_mount_it(
    beside_the_store: tuple[Context, StepRequest, Path], tmp_path: Path, context: Context
) -> None:
    """Another model under the list of an honest one: the store has the files of the list, which do not make the layer."""
    beside, request, _ = beside_the_store
    other = write_checkpoint(tmp_path / "evil")
    weights = other / WEIGHTS
    content = weights.read_bytes()
    weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    layout = tmp_path / "evil-layout"
    pushed = push_folder(other, f"oci:{layout}", context.settings)
    index = layout / "blobs" / "sha256"
    honest, evil = Digest.of(content), Digest.of(weights.read_bytes())
    manifest = (
        (index / Digest.parse(str(pushed.digest)).hex).read_bytes().replace(evil.hex.encode(), honest.hex.encode())
    )
    forged = Digest.of(manifest)
    (index / forged.hex).write_bytes(manifest)
    with unpacked(f"oci:{layout}@{forged}", request, beside) as folder:
        assert (folder / WEIGHTS).read_bytes() == weights.read_bytes()
