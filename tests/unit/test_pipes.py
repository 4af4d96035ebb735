"""What a child writes is read with bounded memory, whatever it writes and wherever."""

from __future__ import annotations

import resource
import sys
import time
from typing import TYPE_CHECKING

import pytest

from containers import rotating_log
from containers.conversation import Conversation, Ended
from containers.pipes import TooMuchOutput
from containers.process import Child, TimedOut, run

if TYPE_CHECKING:
    from pathlib import Path

_MOST = 1 << 20
_WITHOUT_END = "import os\nwhile True:\n    os.write({fd}, {what})"
ATTACKS = {
    "standard output": _WITHOUT_END.format(fd=1, what="b'x' * 65536 + b'\\n'"),
    "standard error": _WITHOUT_END.format(fd=2, what="b'x' * 65536 + b'\\n'"),
    "one line": _WITHOUT_END.format(fd=1, what="b'x' * 65536"),
    "both in turn": "import os\nwhile True:\n    os.write(1, b'x' * 4096)\n    os.write(2, b'x' * 4096)",
    "bytes that are no text": _WITHOUT_END.format(fd=2, what="b'\\xff\\0' * 65536"),
    "empty lines": _WITHOUT_END.format(fd=1, what="b'\\n' * 65536"),
    "a child of its own": "import os\nos.fork()\nwhile True:\n    os.write(1, b'x' * 65536)",
    "deaf to SIGTERM": (
        "import os, signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nwhile True:\n    os.write(1, b'x' * 65536)"
    ),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_a_program_that_writes_without_end_is_stopped(name: str) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(TooMuchOutput, match=f"wrote more than {_MOST} bytes"):
        run([sys.executable, "-c", ATTACKS[name]], most=_MOST)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before  # in KiB
    assert grown < 32 << 10


def test_output_below_the_limit_is_all_there() -> None:
    done = run([sys.executable, "-c", "import sys; print('x' * 900_000); print('e', file=sys.stderr)"], most=_MOST)
    assert (len(done.stdout), done.stderr) == (900_001, "e\n")


def test_a_program_that_reads_nothing_and_one_that_reads_all_get_their_input() -> None:
    text = "x" * (4 << 20)
    assert (
        run([sys.executable, "-c", "import sys; print(len(sys.stdin.read()))"], stdin=text).stdout == f"{len(text)}\n"
    )
    assert run([sys.executable, "-c", "print('done')"], stdin=text).stdout == "done\n"


def test_a_program_that_closes_its_output_and_stays_is_stopped() -> None:
    program = "import os, time\nos.close(1)\nos.close(2)\ntime.sleep(600)"
    with pytest.raises(TimedOut, match=r"did not end within 0\.5 seconds"):
        run([sys.executable, "-c", program], timeout=0.5)


def test_a_child_with_one_line_without_end_is_read_in_parts(tmp_path: Path) -> None:
    """Its listener gets parts, its last lines stay short, and its end is in the log, which is of bounded size."""
    lines: list[int] = []
    program = "import os\nfor _ in range(40): os.write(1, b'x' * (1 << 20))\nprint('\\nend')"
    child = Child(
        [sys.executable, "-c", program],
        {},
        log_file=tmp_path / "log",
        on_line=lambda line: lines.append(len(line)),
    )
    with child:
        assert child.wait(60) == 0
    assert sum(lines) == (40 << 20) + len("end")
    assert max(lines) <= 16 << 20
    assert len(child.tail) < 40 * 4100
    log, before = tmp_path / "log", tmp_path / "log.1"
    assert log.read_bytes().endswith(b"x\nend\n")
    assert rotating_log.SIZE < log.stat().st_size + before.stat().st_size <= 2 * rotating_log.SIZE


ECHO = """
import sys
for line in sys.stdin:
    exec(line)
    sys.stdout.flush()
"""


@pytest.mark.parametrize(
    ("line", "raised"),
    [
        ("while True: sys.stdout.write('x' * 65536)", TooMuchOutput),
        ("import time; time.sleep(600)", TimeoutError),
        ("while True: pass", TimeoutError),
        ("sys.exit('broken')", Ended),
        ("import os; os._exit(1)", Ended),
        ("import os; os.close(1); os.close(2); import time; time.sleep(600)", Ended),
        ("sys.stdin.close(); print(1)", None),
    ],
)
def test_a_conversation_ends_when_an_answer_is_too_long_or_late_or_none(
    line: str, raised: type[Exception] | None
) -> None:
    started = time.monotonic()
    with Conversation([sys.executable, "-c", ECHO], {}) as conversation:
        assert conversation.ask(b"print('a'); ", timeout=60, most=100) == b"a"
        if raised is None:
            assert conversation.ask(line.encode(), timeout=60, most=100) == b"1"
            with pytest.raises(Ended):
                conversation.ask(b"x" * (1 << 20), timeout=60, most=100)
        else:
            with pytest.raises(raised):
                conversation.ask(line.encode(), timeout=1, most=1 << 20)
    assert time.monotonic() - started < 60


def test_why_a_conversation_ended_is_said() -> None:
    argv = [sys.executable, "-c", "raise SystemExit('no such model')"]
    with Conversation(argv, {}) as conversation, pytest.raises(Ended, match="no such model"):
        conversation.ask(b"", timeout=60, most=100)
