"""Step environments of old locks: which go, and that none in use does."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import time
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from containers.contract import Step
from containers.fingerprints import lock_of
from infra.environments.environment import Environment, ensure, environment_name, key, lock_file
from infra.environments.leftovers import leftovers, remove
from tests.support.waiting import until

if TYPE_CHECKING:
    from pathlib import Path

FORTNIGHT = timedelta(days=14)


def make(cache: Path, name: str, days: float, *, finished: bool = True) -> Path:
    """An environment that was last used so many days ago."""
    folder = cache / "envs" / name
    (folder / "lib").mkdir(parents=True)
    (folder / "lib" / "module.py").write_bytes(b"x" * 10_000)
    then = time.time() - days * 86400
    if finished:
        (folder / "environment.json").write_text("{}")
        os.utime(folder / "environment.json", (then, then))
    os.utime(folder, (then, then))
    return folder


def test_what_no_lock_asks_for_and_nobody_has_used_for_long(tmp_path: Path) -> None:
    current = environment_name(Step.PUSH, key(lock_of(Step.PUSH).read_bytes()), cuda=False)
    on_gpus = environment_name(Step.SERVE, key(lock_of(Step.SERVE, cuda=True).read_bytes()), cuda=True)
    old = make(tmp_path, "push-000000000000", 15)
    broken = make(tmp_path, "quantize-000000000000", 15, finished=False)
    kept = [
        make(tmp_path, current, 100),
        make(tmp_path, on_gpus, 100),
        make(tmp_path, "push-111111111111", 13),
        make(tmp_path, "serve-111111111111", 1, finished=False),
    ]
    (tmp_path / "envs" / "link").symlink_to(tmp_path)
    found = leftovers(tmp_path, FORTNIGHT)
    assert [one.folder for one in found] == [old, broken]
    assert found[0].size >= 10_000
    assert 14.9 < found[0].age / 86400 < 15.1
    assert all(remove(one, FORTNIGHT) for one in found)
    assert all(folder.is_dir() for folder in kept)
    assert not old.exists()
    assert not broken.exists()


def test_none_at_all(tmp_path: Path) -> None:
    assert leftovers(tmp_path / "nothing", FORTNIGHT) == []


def test_one_that_a_process_runs_from_stays(tmp_path: Path) -> None:
    """However long ago it was given out: vLLM may serve for months."""
    folder = make(tmp_path, "serve-000000000000", 100)
    (one,) = leftovers(tmp_path, FORTNIGHT)
    (folder / "bin").mkdir()
    (folder / "bin" / "python").symlink_to(sys.executable)
    with subprocess.Popen([str(folder / "bin" / "python"), "-c", "input()"], stdin=subprocess.PIPE) as process:
        until(lambda: not leftovers(tmp_path, FORTNIGHT), "the process shows in /proc")  # a moment after its start
        assert not remove(one, FORTNIGHT)
        assert process.stdin is not None
        process.stdin.close()
    assert (folder / "environment.json").is_file()
    assert remove(one, FORTNIGHT)


def test_one_that_is_given_out_meanwhile_stays(tmp_path: Path) -> None:
    """It is dated before it is looked at; its file is put back."""
    folder = make(tmp_path, "push-000000000000", 100)
    (one,) = leftovers(tmp_path, FORTNIGHT)
    os.utime(folder / "environment.json")
    assert not remove(one, FORTNIGHT)
    assert (folder / "environment.json").is_file()


def test_one_that_is_being_built_stays(tmp_path: Path) -> None:
    folder = make(tmp_path, "push-000000000000", 100, finished=False)
    (one,) = leftovers(tmp_path, FORTNIGHT)
    with lock_file(folder).open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert not remove(one, FORTNIGHT)
    assert folder.is_dir()


def test_to_ask_for_an_environment_is_to_use_it(tmp_path: Path) -> None:
    """An older version of Carwright that still runs keeps its own."""
    lock = tmp_path / "requirements.lock"
    lock.write_text("")
    made = ensure("push", lock, tmp_path / "cache", on_event=lambda event: None)
    assert isinstance(made, Environment)
    os.utime(made.folder / "environment.json", (1e9, 1e9))
    (one,) = leftovers(tmp_path / "cache", FORTNIGHT)
    assert ensure("push", lock, tmp_path / "cache", on_event=lambda event: None) == made
    assert leftovers(tmp_path / "cache", FORTNIGHT) == []
    assert not remove(one, FORTNIGHT)


@pytest.mark.parametrize("cuda", [False, True])
def test_the_names_are_those_that_are_built(cuda: bool) -> None:
    assert environment_name(Step.QUANTIZE, "0" * 12, cuda=cuda) == f"quantize{'-cuda' if cuda else ''}-{'0' * 12}"
