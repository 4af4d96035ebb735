"""The only module that starts other programs: argument list, deadline, captured output, nothing left behind."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, NoReturn, Self

from containers.errors import BadInput, Error, Temporary
from containers.pipes import exchange
from containers.private import opener
from containers.rotating_log import RotatingLog

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

_LOGGER = logging.getLogger(__name__)
_SUPERVISOR = Path(__file__).with_name("supervisor.py")
_TAIL = 40  # lines of output that an error carries
_TAIL_LINE = 4000  # characters of each
_LINE = 16 << 20  # bytes; a longer line is handed on in parts
_MOST = 64 << 20  # bytes of output that `run` keeps

# What a child may inherit: where things are, the language, proxies and certificate bundles. Nothing that holds a
# secret and nothing of Prefect's: a worker's PREFECT_HOME must not leak into a step.
INHERITED = (
    "PATH",
    "HOME",
    "TMPDIR",
    "LANG",
    "LC_ALL",
    "TZ",
    "XDG_CACHE_HOME",
    "HF_HOME",
    "HF_TOKEN_PATH",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "http_proxy",
    "https_proxy",
    "no_proxy",
    "ALL_PROXY",
    "all_proxy",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "REQUESTS_CA_BUNDLE",
    "CURL_CA_BUNDLE",
    "AWS_CA_BUNDLE",
    "CUDA_VISIBLE_DEVICES",
    "NVIDIA_VISIBLE_DEVICES",
    "LD_LIBRARY_PATH",
)


# Names of a file or a folder, and lists of such names between spaces, that may be meant from the working directory.
_NAMED = frozenset(
    {
        *("HOME", "TMPDIR", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "HF_HOME", "HF_TOKEN_PATH"),
        *("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "AWS_CA_BUNDLE"),
        *("DOCKER_CONFIG", "DOCKER_CERT_PATH", "REGISTRY_AUTH_FILE"),
        *("PIP_CACHE_DIR", "PIP_CERT", "PIP_CLIENT_CERT", "PIP_CONFIG_FILE"),
        *("PIP_CONSTRAINT", "PIP_FIND_LINKS", "PIP_LOG"),
    }
)
_LISTS = frozenset({"PIP_CONSTRAINT", "PIP_FIND_LINKS"})

# Lists of folders in which an empty or relative entry means the working directory: a folder of somebody's files.
_SEARCHED = ("PATH", "LD_LIBRARY_PATH", "PYTHONPATH")


def inherited(*prefixes: str) -> dict[str, str]:
    """The part of this process's environment that a child may see; files and folders are named from the root.

    `prefixes` names what else a certain program is configured by ("PIP_"): such a child must be that program.
    """
    return {
        name: _absolute(name, value)
        for name, value in os.environ.items()
        if name in INHERITED or (prefixes and name.startswith(prefixes))
    }


def _absolute(name: str, value: str) -> str:
    """The value for a process with another working directory."""
    if name not in _NAMED:
        return value
    named = value.split() if name in _LISTS else [value]
    return " ".join(
        one if not one or "://" in one or one.startswith("~") else str(Path(one).absolute()) for one in named
    )


def _safe(variables: Mapping[str, str]) -> dict[str, str]:
    """What a child really gets: no Python of it imports from its working directory, and nothing is searched for there.

    PYTHONSAFEPATH is Python 3.11's; older ones pass over it.
    """
    safe = {**variables, "PYTHONSAFEPATH": "1"}
    for name in _SEARCHED:
        if name in safe:
            safe[name] = os.pathsep.join(entry for entry in safe[name].split(os.pathsep) if entry.startswith("/"))
            if not safe[name]:
                del safe[name]
    return safe


@contextlib.contextmanager
def empty_directory() -> Iterator[Path]:
    """An empty folder as this process's working directory, for a library that reads its settings from there.

    Only while no other thread needs the working directory.
    """
    before = Path.cwd()
    with tempfile.TemporaryDirectory(prefix="carwright-") as scratch:
        os.chdir(scratch)
        try:
            yield Path(scratch)
        finally:
            os.chdir(before)


class ProcessFailed(Error):
    """A program ended with a code other than 0; `output` holds its last lines."""

    def __init__(self, argv: Sequence[str], code: int, output: str) -> None:
        super().__init__(f"{Path(argv[0]).name} ended with code {code}:\n{output.strip()}")
        self.code = code
        self.output = output


class TimedOut(Temporary):
    """A program did not end before its deadline and was stopped."""


@dataclass(frozen=True)
class Completed:
    """The output and exit code of an ended program."""

    code: int
    stdout: str
    stderr: str


def run(
    argv: Sequence[str],
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    timeout: float | None = None,
    check: bool = True,
    stdin: str | None = None,
    most: int = _MOST,
) -> Completed:
    """Run a short program to its end.

    `timeout` is in seconds, `most` in bytes of output; `env` replaces the environment (default: `inherited()`). Without
    `cwd` it runs in an empty folder that goes with it, so relative paths in `argv` mean nothing. Raises BadInput when the
    program does not exist, TimedOut, TooMuchOutput (of `containers.pipes`), and, with `check`, ProcessFailed.
    """
    with contextlib.ExitStack() as stack:
        folder = cwd or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="carwright-")))
        return _run(argv, _safe(inherited() if env is None else env), folder, timeout, stdin, most, check=check)


def _run(  # noqa: PLR0917 - as run's
    argv: Sequence[str],
    env: dict[str, str],
    cwd: Path,
    timeout: float | None,
    stdin: str | None,
    most: int,
    *,
    check: bool,
) -> Completed:
    try:
        process = subprocess.Popen(
            list(argv),
            env=env,
            cwd=cwd,
            stdin=subprocess.DEVNULL if stdin is None else subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,  # one group, so that a deadline ends its children too
        )
    except (FileNotFoundError, NotADirectoryError) as error:
        if not cwd.is_dir():
            raise BadInput(f"there is no folder {cwd} to run {argv[0]} in") from error
        raise BadInput(f"{argv[0]} is not installed") from error
    except PermissionError as error:
        raise BadInput(f"{argv[0]} may not be run: {error.strerror}") from error
    started = time.monotonic()
    with process:
        try:
            assert process.stdout is not None
            assert process.stderr is not None
            outputs = (process.stdout, process.stderr)
            found = exchange(argv[0], process.stdin, outputs, (stdin or "").encode(), timeout=timeout, most=most)
            process.wait(None if timeout is None else max(started + timeout - time.monotonic(), 0.01))
        except BaseException as error:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            if isinstance(error, TimeoutError | subprocess.TimeoutExpired):
                raise TimedOut(f"{argv[0]} did not end within {timeout:g} seconds") from error
            raise
    stdout, stderr = (part.decode(errors="replace").replace("\r\n", "\n").replace("\r", "\n") for part in found)
    if check and process.returncode != 0:
        raise ProcessFailed(argv, process.returncode, stderr or stdout)
    return Completed(process.returncode, stdout, stderr)


def start_talking(argv: Sequence[str], env: Mapping[str, str], errors: BinaryIO) -> subprocess.Popen[bytes]:
    """Start a program that is asked on its standard input and answers on its standard output (`containers.conversation`).

    It runs in `/`; `errors` gets its standard error.
    """
    return subprocess.Popen(
        list(argv),
        env=_safe(env),
        cwd="/",
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=errors,
        start_new_session=True,
    )


@dataclass
class Child:
    """A program under a supervisor: it ends when `stop` is called, or when this process ends in whatever way.

    `on_line` gets each line of its standard error (and of its standard output, which is merged into it); `log_file` gets
    the same bytes, of which it keeps the last (`containers.rotating_log`). With `detached` the program outlives this
    process and must have a lease of its own; its output then goes to `log_file` alone, all of it. The file is this user's.
    Without `cwd` the supervisor gives it an empty folder, which goes with it; with `scratch` the `cwd` goes with it, even
    if this process is killed. `grace` is how many seconds lie between SIGTERM and SIGKILL, `umask` the program's own; -1
    leaves it this process's. `holds` are open files, such as locks, that are the program's, too.
    """

    argv: Sequence[str]
    env: Mapping[str, str]
    cwd: Path | None = None
    scratch: bool = False
    log_file: Path | None = None
    on_line: Callable[[str], None] | None = None
    detached: bool = False
    grace: float = 10.0
    umask: int = -1
    holds: Sequence[int] = ()
    _tail: deque[str] = field(default_factory=lambda: deque(maxlen=_TAIL), init=False)
    _process: subprocess.Popen[bytes] | None = field(default=None, init=False)
    _reader: threading.Thread | None = field(default=None, init=False)

    def start(self) -> Self:
        """Start it; returns at once. Raises BadInput when the log file cannot be written."""
        flags = ["--detached"] if self.detached else []
        if self.cwd is None or self.scratch:
            flags.append("--scratch" if self.cwd is None else "--scratch-here")
        flags.append(f"--grace={self.grace}")
        argv = [sys.executable, "-I", "-S", str(_SUPERVISOR), *flags, "--", *self.argv]
        log: RotatingLog | None = None
        output: int | BinaryIO = subprocess.DEVNULL if self.detached else subprocess.PIPE
        if self.log_file is not None:
            self.log_file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            if self.detached:
                output = open(self.log_file, "ab", opener=opener)  # noqa: SIM115 - Path.open takes no opener
            else:
                log = RotatingLog(self.log_file)
        self._process = subprocess.Popen(
            argv,
            env=_safe(self.env),
            cwd=self.cwd or "/",
            stdin=subprocess.DEVNULL if self.detached else subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            umask=self.umask,
            pass_fds=self.holds,
            start_new_session=True,  # Ctrl-C reaches this process alone, which then stops its children in order
        )
        if self.detached:
            if not isinstance(output, int):
                output.close()
        else:
            self._reader = threading.Thread(target=self._read, args=(log,), daemon=True)
            self._reader.start()
        return self

    @property
    def pid(self) -> int:
        """Process id of the supervisor: SIGTERM to it ends the program and its descendants."""
        return self._started().pid

    @property
    def tail(self) -> str:
        """The last lines of output, for error messages."""
        return "\n".join(self._tail)

    def poll(self) -> int | None:
        return self._started().poll()

    def wait(self, timeout: float | None = None) -> int:
        """The exit code; raises TimedOut after `timeout` seconds, without stopping the program."""
        try:
            code = self._started().wait(timeout)
        except subprocess.TimeoutExpired as error:
            raise TimedOut(f"{self.argv[0]} is still running after {timeout:g} seconds") from error
        if self._reader is not None:
            self._reader.join(timeout=5)
        return code

    def stop(self) -> int:
        """End the program and all its descendants (SIGTERM, `grace`, SIGKILL); safe to call twice."""
        process = self._started()
        if process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGTERM)
        code = process.wait()
        if process.stdin is not None:
            process.stdin.close()
        if self._reader is not None:
            self._reader.join(timeout=5)
        return code

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _started(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise RuntimeError("the program was not started")
        return self._process

    def _read(self, log: RotatingLog | None) -> None:
        stream = self._started().stdout
        assert stream is not None
        with stream, contextlib.closing(log) if log is not None else contextlib.nullcontext():
            while raw := stream.readline(_LINE):
                if log is not None:
                    log.write(raw)
                line = raw.decode(errors="replace").rstrip("\r\n")
                self._tail.append(line[:_TAIL_LINE])
                if self.on_line is not None:
                    try:
                        self.on_line(line)
                    except (Exception, SystemExit):  # a listener's trouble must neither end nor stall the program
                        _LOGGER.exception("a line of %s could not be forwarded", self.argv[0])


def start_time(pid: int) -> str | None:
    """An opaque mark of the moment a process started (field 22 of /proc/<pid>/stat, proc(5)); None when it is gone.

    Together with the pid it names a process for good: pids are used again. A zombie counts as gone.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] == "Z" else fields[19]


def stop_by_pid(pid: int, started: str, *, grace: float = 15.0) -> bool:
    """Stop a supervisor that another run started; False when that process is gone already."""
    if start_time(pid) != started:
        return False
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGTERM)
    waiting = threading.Event()
    for _ in range(int(grace / 0.05)):
        if start_time(pid) != started:
            return True
        waiting.wait(0.05)
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    return True


def become(argv: Sequence[str], added: Mapping[str, str]) -> NoReturn:
    """Go on as another program, in the environment of this one with `added`; raises BadInput when there is no such program."""
    try:
        os.execvpe(argv[0], list(argv), {**os.environ, **added})  # noqa: S606 - an argument list, and no shell is wanted
    except OSError as error:
        raise BadInput(f"{argv[0]} cannot be started: {error}") from error


def export(variables: Mapping[str, str]) -> None:
    """Set environment variables of this process, for a library that reads its settings from there when imported."""
    os.environ.update(variables)
