"""The two processes inside the sandbox: the judge, and its child, which runs a model's code and knows neither test nor judge.

Standard input is two lines of JSON. The first has the limits `cpu` and `wall` (seconds), `memory`, `file` and `answer`
(bytes), and `readable`, the only folders that may be read where no namespaces hide the others. The second is what to judge
(see `containers.evaluate.confined.judge`). Standard output gets the verdict. The child is forked before the second line is
read, so that nothing of it is in the child's memory; two pipes are all that the two have in common.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import resource
import signal
from typing import Any, Final, NoReturn

from containers.evaluate.confined import judge, landlock, program, system_calls

_DEATH_SIGNAL: Final = 1  # prctl's PR_SET_PDEATHSIG
_MOST_FILES: Final = 64
_LIMITS: Final = {"cpu": resource.RLIMIT_CPU, "memory": resource.RLIMIT_AS, "file": resource.RLIMIT_FSIZE}


def main() -> NoReturn:
    """Prepare, divide in two, and judge; ends with code 0 when there is a verdict."""
    with contextlib.suppress(OSError):
        os.closerange(3, 65536)  # whatever the parent left open
    limits: dict[str, Any] = json.loads(_first_line(0))
    for name, kind in _LIMITS.items():
        resource.setrlimit(kind, (limits[name], limits[name]))
    for kind, most in ((resource.RLIMIT_CORE, 0), (resource.RLIMIT_NOFILE, _MOST_FILES)):
        resource.setrlimit(kind, (most, most))
    nothing = os.open(os.devnull, os.O_RDWR)
    if limits["readable"] is not None:
        landlock.read_only(limits["readable"])
    questions, answers = os.pipe(), os.pipe()
    me = os.getpid()
    child = os.fork()
    if not child:
        try:
            for number in (0, 1, 2):
                os.dup2(nothing, number)  # what a program prints is nobody's business, and nobody has to hold it
            os.dup2(questions[0], 3)
            os.dup2(answers[1], 4)
            os.closerange(5, _MOST_FILES)
            ctypes.CDLL(None).prctl(_DEATH_SIGNAL, signal.SIGKILL, 0, 0, 0)
            if os.getppid() == me:
                system_calls.allow_only()
                program.serve(3, 4)
        finally:
            os._exit(0)
    os.close(questions[0])
    os.close(answers[1])
    system_calls.allow_only(child)
    candidate = judge.AnswerProcess(questions[1], answers[0], limits["answer"], limits["wall"])
    verdict = judge.verdict(json.loads(os.fdopen(0, "rb").read()), candidate)
    with contextlib.suppress(OSError):
        os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    os.write(1, json.dumps(verdict).encode())  # less than a pipe takes at once
    os._exit(0)


def _first_line(descriptor: int) -> bytes:
    """One line, and no byte beyond it."""
    found = bytearray()
    while (byte := os.read(descriptor, 1)) not in (b"", b"\n"):
        found += byte
    return bytes(found)
