"""Runs one command and leaves nothing of it behind, whatever happens to the process that asked for it.

    python supervisor.py [--detached] [--scratch | --scratch-here] --grace=SECONDS -- COMMAND [ARGUMENT ...]

What is ended gets SIGTERM and, `--grace` seconds later, SIGKILL. With `--scratch` the command's working directory is a new
empty folder, which is removed when the command has ended; with `--scratch-here` the present one is removed then.
Unless detached, standard input is a pipe from the parent: when it closes, the parent has gone (SIGKILL included) and
the command is ended. The supervisor is a subreaper (prctl(2), PR_SET_CHILD_SUBREAPER), so that descendants which
left their process group are found and ended too. It exits with the command's code, or 128 + the signal's number.

It is started for every step, so it imports nothing but the standard library and is run with `-I -S`.
"""

import contextlib
import ctypes
import os
import select
import signal
import sys
import time
from pathlib import Path
from typing import NoReturn

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36


def _prctl(option: int, value: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)


def descendants(pid: int) -> list[int]:
    """Every process below `pid`, by the parent that each process in /proc names (proc(5), /proc/<pid>/stat, field 4).

    Not from /proc/<pid>/task/<tid>/children: not every kernel and sandbox has that file.
    """
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it has ended since
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(int(stat.parent.name))
    found: list[int] = []
    waiting = [pid]
    while waiting:
        below = children.get(waiting.pop(), [])
        found += below
        waiting += below
    return found


def _signal_all(number: int) -> None:
    for pid in descendants(os.getpid()):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, number)


def _reap(main: int) -> int | None:
    """Collect every ended child; the exit code of `main` if it is among them."""
    code = None
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return code
        if pid == 0:
            return code
        if pid == main:
            code = os.waitstatus_to_exitcode(status)
            code = 128 - code if code < 0 else code


def _end_all(main: int, grace: float) -> int | None:
    """SIGTERM, a grace period, SIGKILL; returns the code of `main` if it ended here."""
    code = None
    _signal_all(signal.SIGTERM)
    deadline = time.monotonic() + grace
    while descendants(os.getpid()):
        if time.monotonic() > deadline:
            _signal_all(signal.SIGKILL)
        ended = _reap(main)
        code = ended if ended is not None else code
        time.sleep(0.05)
    return code


def _become(command: list[str], supervisor: int) -> NoReturn:
    """In the forked child: turn into the command, which dies with the supervisor."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != supervisor:  # it died between fork and prctl
        os._exit(1)
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    try:
        os.execvpe(command[0], command, os.environ)
    except OSError as error:
        os.write(2, f"cannot start {command[0]}: {error.strerror}\n".encode())
    os._exit(127)


def main(arguments: list[str]) -> int:
    options, command = arguments[: arguments.index("--")], arguments[arguments.index("--") + 1 :]
    (grace,) = (float(option.partition("=")[2]) for option in options if option.startswith("--grace="))
    if "--scratch-here" in options:
        scratch = Path.cwd()
    elif "--scratch" in options:
        # Not by tempfile, whose import takes longer than all of this.
        scratch = Path(os.environ.get("TMPDIR") or "/tmp", f"carwright-{os.urandom(8).hex()}")  # noqa: S108 - mkdir fails if it is there
        scratch.mkdir(mode=0o700)
        os.chdir(scratch)
    else:
        return _supervise(command, grace, detached="--detached" in options)
    try:
        return _supervise(command, grace, detached="--detached" in options)
    finally:
        os.chdir("/")
        with contextlib.suppress(OSError):
            scratch.rmdir()
        if scratch.exists():
            import shutil

            shutil.rmtree(scratch, ignore_errors=True)


def _supervise(command: list[str], grace: float, *, detached: bool) -> int:
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)

    wake_read, wake_write = os.pipe()
    os.set_blocking(wake_write, False)
    signal.set_wakeup_fd(wake_write)
    stopping = False

    def stop(number: int, frame: object) -> None:
        nonlocal stopping
        stopping = True

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, stop)
    signal.signal(signal.SIGCHLD, lambda number, frame: None)

    supervisor = os.getpid()
    child = os.fork()
    if child == 0:
        _become(command, supervisor)

    watched = [wake_read] if detached else [wake_read, 0]
    while True:
        code = _reap(child)
        if code is not None:
            _end_all(child, grace)
            return code
        ready, _, _ = select.select(watched, [], [])
        if wake_read in ready:
            os.read(wake_read, 4096)
        if stopping or (0 in ready and not os.read(0, 4096)):
            code = _end_all(child, grace)
            return 128 + signal.SIGTERM if code is None else code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
