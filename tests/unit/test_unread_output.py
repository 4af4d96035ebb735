"""Programs whose output nobody reads any more go on: a real pipe whose reader has gone, in a process of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

_RUN = """
from contextlib import suppress
from containers.errors import BadInput
from flows import runtime
from prefect.logging.configuration import setup_logging
from prefect.logging.loggers import get_logger
import threading

setup_logging()
get_logger("steps").warning("read")
with suppress(BadInput):  # no store is set, which it says at the end
    runtime.current()
"""

_COMMAND = """
from flows.cli import terminal
import threading

terminal.err.print("read")
"""

_GO_ON = """
import sys, pathlib
sys.stdin.readline()  # the reader has gone

def pass_on():
    for number in range(3):
        {say}
    pathlib.Path(sys.argv[1]).write_text("went on")

thread = threading.Thread(target=pass_on)
thread.start()
thread.join()
{say}
"""


@pytest.mark.parametrize(
    ("program", "say"),
    [
        (_RUN, 'get_logger("steps").warning("unread")'),
        (_COMMAND, 'terminal.err.print("unread")'),
        (_COMMAND, "terminal.document({})"),
    ],
    ids=["a run whose worker was killed", "a command in a pipe", "its document"],
)
def test_goes_on_when_the_reader_of_its_output_has_gone(tmp_path: Path, program: str, say: str) -> None:
    reader, writer = os.pipe()
    argv = [sys.executable, "-c", program + _GO_ON.format(say=say), str(tmp_path / "said")]
    environment = {**os.environ, "PREFECT_HOME": str(tmp_path), "PREFECT_LOGGING_TO_API_ENABLED": "false"}
    with subprocess.Popen(
        argv, stdin=subprocess.PIPE, stdout=writer, stderr=writer, env=environment, cwd=ROOT
    ) as process:
        os.close(writer)
        assert b"read" in os.read(reader, 4096)
        os.close(reader)
        assert process.stdin is not None
        process.stdin.write(b"\n")
        process.stdin.close()
        assert process.wait(60) == 0
    assert (tmp_path / "said").read_text() == "went on"
