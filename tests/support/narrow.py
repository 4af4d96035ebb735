"""A program's output as its user gets it: on a terminal of 80 columns, or through a pipe."""

from __future__ import annotations

import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios
from dataclasses import dataclass
from typing import TYPE_CHECKING

from containers.process import inherited
from tests.support.command_line import ROOT

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True)
class Shown:
    """`raw` is what both outputs wrote, escape codes included; line ends are as the program wrote them."""

    code: int
    raw: str


def on_terminal(argv: list[str], folder: Path, columns: int = 80, **variables: str) -> Shown:
    """Run Python with arguments in a folder, standard output and error on one terminal."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    with subprocess.Popen(
        [sys.executable, *argv], cwd=folder, env=_environment(variables), stdin=theirs, stdout=theirs, stderr=theirs,
        start_new_session=True,
    ) as process:  # fmt: skip
        os.close(theirs)
        written = b""
        try:
            while piece := os.read(ours, 65536):
                written += piece
        except OSError:  # EIO: the last program on the terminal has ended
            pass
        code = process.wait()
    os.close(ours)
    return Shown(code, written.decode().replace("\r\n", "\n"))


def piped(argv: list[str], folder: Path, **variables: str) -> Shown:
    """The same through a pipe."""
    done = subprocess.run(
        [sys.executable, *argv], cwd=folder, env=_environment(variables), stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True, check=False,
    )  # fmt: skip
    return Shown(done.returncode, done.stdout)


def _environment(variables: dict[str, str]) -> dict[str, str]:
    return inherited() | {"PYTHONPATH": str(ROOT), "TERM": "xterm-256color"} | variables
