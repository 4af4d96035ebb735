"""What a push remembers: for how long, for whom, and that it forgets rather than guesses."""

from __future__ import annotations

import subprocess
import sys
import time
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from containers.digest import Digest
from containers.oci.push_cache import SETTLED, PushCache

if TYPE_CHECKING:
    from pathlib import Path

DIGEST = Digest.of(b"content")
BLOB = f"registry.example.com/a@{DIGEST}"
HOUR = 3600.0
NOW = 1_800_000_000.0


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The time of day, which stands still until a test moves it."""
    clock = SimpleNamespace(now=NOW)
    monkeypatch.setattr(time, "time", lambda: clock.now)
    monkeypatch.setattr(time, "time_ns", lambda: int(clock.now * 1e9))
    return clock


@pytest.fixture
def cache(tmp_path: Path) -> PushCache:
    return PushCache(tmp_path / "cache")


def status(*, modified: int, changed: int) -> Any:
    """What the kernel says of a file whose contents and whose inode are so many nanoseconds old."""
    now = int(NOW * 1e9)
    return SimpleNamespace(st_dev=1, st_ino=2, st_size=3, st_mtime_ns=now - modified, st_ctime_ns=now - changed)


@pytest.mark.parametrize(
    ("modified", "changed", "remembered"),
    [
        (SETTLED + 1, SETTLED + 1, True),
        (SETTLED, SETTLED + 1, False),
        (SETTLED + 1, SETTLED, False),
        (10 * SETTLED, 0, False),
    ],
)
def test_a_file_is_remembered_once_it_has_settled(
    cache: PushCache, clock: SimpleNamespace, modified: int, changed: int, remembered: bool
) -> None:
    """Two seconds after the last write to it and the last change of its name, mode or times."""
    assert SETTLED == 2e9
    one = status(modified=modified, changed=changed)
    cache.remember_file(one, DIGEST)
    assert cache.file(one) == (DIGEST if remembered else None)


@pytest.mark.parametrize("field", ["st_dev", "st_ino", "st_size", "st_mtime_ns", "st_ctime_ns"])
def test_a_file_with_another_status_is_another_file(cache: PushCache, clock: SimpleNamespace, field: str) -> None:
    one = status(modified=2 * SETTLED, changed=2 * SETTLED)
    cache.remember_file(one, DIGEST)
    other = SimpleNamespace(**{**vars(one), field: getattr(one, field) + 1})
    assert cache.file(other) is None  # type: ignore[arg-type]


_REMEMBER = """
import sys; from pathlib import Path; from containers.oci.push_cache import PushCache
PushCache(Path(sys.argv[1])).remember_upload(sys.argv[2], "https://registry.example.com/upload/1")
"""


def test_an_upload_is_taken_up_once_when_its_process_has_gone(cache: PushCache, tmp_path: Path, root: Path) -> None:
    """Not while it lives: two processes would write into one upload."""
    cache.remember_upload(BLOB, "https://registry.example.com/upload/0")
    assert cache.take_upload(BLOB) is None
    subprocess.run([sys.executable, "-c", _REMEMBER, str(tmp_path / "cache"), BLOB], cwd=root, check=True)
    assert cache.take_upload("registry.example.com/b@sha256:0") is None
    assert cache.take_upload(BLOB) == "https://registry.example.com/upload/1"
    assert cache.take_upload(BLOB) is None


@pytest.mark.parametrize(("hours", "known"), [(23.9, True), (24.1, False)])
def test_an_upload_is_dropped_after_a_day(
    cache: PushCache, clock: SimpleNamespace, tmp_path: Path, root: Path, hours: float, known: bool
) -> None:
    """As registries drop it."""
    subprocess.run([sys.executable, "-c", _REMEMBER, str(tmp_path / "cache"), BLOB], cwd=root, check=True)
    written = (tmp_path / "cache" / "oci.sqlite").stat().st_mtime
    clock.now = written + hours * HOUR
    assert (cache.take_upload(BLOB) is not None) is known


def test_an_upload_that_is_done_is_forgotten(cache: PushCache, tmp_path: Path, root: Path) -> None:
    subprocess.run([sys.executable, "-c", _REMEMBER, str(tmp_path / "cache"), BLOB], cwd=root, check=True)
    cache.forget_upload(BLOB)
    assert cache.take_upload(BLOB) is None


def test_repositories_that_hold_a_blob_the_latest_first(cache: PushCache, clock: SimpleNamespace) -> None:
    """The last two, of one registry, for two weeks."""
    for name in ("one", "two", "three"):
        cache.remember_blob("a.example.com", name, DIGEST)
        clock.now += HOUR
    cache.remember_blob("b.example.com", "four", DIGEST)
    assert cache.repositories("a.example.com", DIGEST) == ("three", "two")
    assert cache.repositories("a.example.com", Digest.of(b"other")) == ()
    clock.now = NOW + 2 * HOUR + 14 * 24 * HOUR - 1
    assert cache.repositories("a.example.com", DIGEST) == ("three",)
    clock.now += 2
    assert cache.repositories("a.example.com", DIGEST) == ()


def test_two_runs_share_what_is_in_a_folder(cache: PushCache, tmp_path: Path) -> None:
    cache.remember_layer("[files]", DIGEST)
    assert PushCache(tmp_path / "cache").layer("[files]") == DIGEST


@pytest.mark.parametrize("place", ["none", "a file"])
def test_without_a_folder_it_remembers_for_itself(tmp_path: Path, place: str) -> None:
    """Also where the folder cannot be made: losing what is remembered costs time, and no push."""
    (tmp_path / "file").touch()
    folder = None if place == "none" else tmp_path / "file" / "cache"
    cache = PushCache(folder)
    cache.remember_layer("[files]", DIGEST)
    assert cache.layer("[files]") == DIGEST
    assert PushCache(folder).layer("[files]") is None
