"""The folders that vLLM reads: made once, noticed when damaged, removed when there are too many and nobody reads them."""

from __future__ import annotations

import fcntl
import os
from io import StringIO
from typing import TYPE_CHECKING

import pytest

from containers.contract import Step, StepRequest
from containers.errors import BadInput, Temporary
from containers.events import Reporter
from containers.serve.models import make_room, unpacked
from containers.settings import ServeSettings, StepSettings
from containers.step import Context
from tests.support.modelcars import push_folder, write_checkpoint

if TYPE_CHECKING:
    from pathlib import Path

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
        *(".aaa.sizes", ".aaa.use", ".bbb.use", ".ccc.use"),
        *("aaa", "aaa.digest"),
    ]


def test_what_a_server_reads_stays(tmp_path: Path) -> None:
    for name, used in (("old", 1), ("new", 2)):
        _leave(tmp_path, name, 1000, used)
    with (tmp_path / ".old.use").open() as reading:
        fcntl.flock(reading, fcntl.LOCK_SH)
        assert make_room(tmp_path, 0) == ["new"]
    assert (tmp_path / "old" / "model.safetensors").exists()


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
