"""Logs of programs that run for long keep what was said last, byte for byte, and no more than twice their size."""

from __future__ import annotations

import stat
import sys
from typing import TYPE_CHECKING

from containers.process import Child, inherited
from containers.rotating_log import RotatingLog

if TYPE_CHECKING:
    from pathlib import Path

import pytest

LINES = [f"line {number} \u2713\n".encode() for number in range(1000)]


def kept(path: Path) -> bytes:
    before = path.with_name(f"{path.name}.1")
    return (before.read_bytes() if before.exists() else b"") + path.read_bytes()


def test_the_last_lines_stay(tmp_path: Path) -> None:
    path = tmp_path / "log"
    log = RotatingLog(path, 2000)
    for line in LINES:
        log.write(line)
    log.close()
    assert sorted(one.name for one in tmp_path.iterdir()) == ["log", "log.1"]
    assert path.stat().st_size <= 2000
    assert 2000 <= len(kept(path)) <= 4000
    assert b"".join(LINES).endswith(kept(path))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize(
    "said", [b"\xff\xfe\n", b"a\r\nb\rc\n", b"no end", "\udcff%s %d\n".encode("utf-8", "surrogatepass")]
)
def test_bytes_stay_as_they_are(tmp_path: Path, said: bytes) -> None:
    log = RotatingLog(tmp_path / "log")
    log.write(said)
    log.close()
    assert (tmp_path / "log").read_bytes() == said


def test_two_writers_of_one_file_lose_nothing_new(tmp_path: Path) -> None:
    """As of two commands in one home: each goes on in the file that it has open."""
    logs = [RotatingLog(tmp_path / "log", 2000) for _ in range(2)]
    for number, line in enumerate(LINES):
        logs[number % 2].write(line)
    for log in logs:
        log.close()
    assert sum(one.stat().st_size for one in tmp_path.iterdir()) <= 3 * 2000
    assert {LINES[-1], LINES[-2]} <= set(kept(tmp_path / "log").splitlines(keepends=True))


def test_what_a_program_says_goes_there(tmp_path: Path) -> None:
    """Appended to what an earlier one has said."""
    for word in ("one", "two"):
        with Child([sys.executable, "-c", f"print('{word}')"], inherited(), log_file=tmp_path / "log") as child:
            child.wait(60)
    assert (tmp_path / "log").read_text() == "one\ntwo\n"


def test_a_disk_that_is_full_does_not_end_the_program(tmp_path: Path) -> None:
    (tmp_path / "log").symlink_to("/dev/full")
    log = RotatingLog(tmp_path / "log")
    log.write(b"nobody reads this\n")
    log.close()
