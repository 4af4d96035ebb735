"""Logs of programs that run for long keep what was said last, byte for byte, and no more than twice their size."""

from __future__ import annotations

import contextlib
import shutil
import stat
import sys
from pathlib import Path

import pytest

from containers.process import Child, inherited
from containers.rotating_log import RotatingLog

ROOT = Path(__file__).parents[2]
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


@pytest.mark.parametrize("turns", ["01", "0001", "0" * 150 + "1"], ids=["in turn", "often", "rarely"])
def test_two_writers_of_one_file_lose_nothing_new(tmp_path: Path, turns: str) -> None:
    """As of two commands in one home: both are in the same file, and one that rotates leaves the other's history alone."""
    logs = [RotatingLog(tmp_path / "log", 2000) for _ in range(2)]
    for number, line in enumerate(LINES):
        logs[int(turns[number % len(turns)])].write(line)
    for log in logs:
        log.close()
    assert sorted(one.name for one in tmp_path.iterdir()) == ["log", "log.1"]
    assert 2000 <= len(kept(tmp_path / "log")) <= 4000
    assert b"".join(LINES).endswith(kept(tmp_path / "log"))


def test_processes_that_rotate_at_once_keep_what_was_last(tmp_path: Path) -> None:
    """None renames what another has just begun: the last lines of each are there, whoever found the file full."""
    program = (
        "import sys\nfrom pathlib import Path\nfrom containers.rotating_log import RotatingLog\n"
        "log = RotatingLog(Path(sys.argv[1]), 20_000)\n"
        "for number in range(3000): log.write(f'{sys.argv[2]} {number:06}\\n'.encode())\n"
    )
    path = str(tmp_path / "log")
    with contextlib.ExitStack() as stack:
        both = [
            stack.enter_context(Child([sys.executable, "-c", program, path, name], {"PYTHONPATH": str(ROOT)}))
            for name in "ab"
        ]
        assert [one.wait(100) for one in both] == [0, 0], [one.tail for one in both]
    for file in (tmp_path / "log.1", tmp_path / "log"):
        lines = file.read_bytes().splitlines(keepends=True)
        assert all(len(line) == len(b"a 000000\n") for line in lines)
    assert len((tmp_path / "log.1").read_bytes()) > 18_000


def test_a_folder_that_goes_ends_nobody(tmp_path: Path) -> None:
    """Of an old run, say, whose service is kept."""
    (tmp_path / "run").mkdir()
    log = RotatingLog(tmp_path / "run" / "log", 50)
    log.write(LINES[0])
    shutil.rmtree(tmp_path / "run")
    for line in LINES[:20]:
        log.write(line)
    log.close()


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
