"""A program that answers line by line for as long as it is needed, and is not trusted to be quick or short."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import tempfile
import time
from typing import TYPE_CHECKING, Final, Self

from containers.errors import Error
from containers.pipes import TooMuchOutput
from containers.process import start_talking

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_AT_ONCE: Final = 1 << 16  # bytes
_TAIL: Final = 2000  # bytes of standard error that an error carries


class Ended(Error):
    """The program ended without an answer; the message is the end of what it wrote to standard error."""


class Conversation:
    """Use as a context manager: the program ends with it, in whatever state it is."""

    def __init__(self, argv: Sequence[str], env: Mapping[str, str]) -> None:
        self._argv, self._env = argv, env
        self._buffer = bytearray()

    def __enter__(self) -> Self:
        self._errors = tempfile.TemporaryFile()
        self._process = start_talking(self._argv, self._env, self._errors)
        return self

    def __exit__(self, *_: object) -> None:
        self._kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._errors):
            assert stream is not None
            with contextlib.suppress(BrokenPipeError):
                stream.close()

    def ask(self, line: bytes, *, timeout: float, most: int) -> bytes:
        """The line that it answers to one line, both without their end.

        Raises TimeoutError after `timeout` seconds, TooMuchOutput for an answer of more than `most` bytes, and Ended. After
        any of these the program is of no more use.
        """
        assert self._process.stdin is not None
        deadline = time.monotonic() + timeout
        os.set_blocking(self._process.stdin.fileno(), False)
        left = memoryview(line + b"\n")
        while left:
            _wait(self._process.stdin.fileno(), select.POLLOUT, deadline)
            try:
                left = left[os.write(self._process.stdin.fileno(), left[:_AT_ONCE]) :]
            except BlockingIOError:
                continue
            except BrokenPipeError:
                raise self._ended() from None
        return self._line(deadline, most)

    def _line(self, deadline: float, most: int) -> bytes:
        assert self._process.stdout is not None
        start = 0
        while (end := self._buffer.find(b"\n", start)) < 0:
            start = len(self._buffer)
            if start > most:
                raise TooMuchOutput(f"an answer has more than {most} bytes")
            _wait(self._process.stdout.fileno(), select.POLLIN, deadline)
            part = os.read(self._process.stdout.fileno(), _AT_ONCE)
            if not part:
                raise self._ended()
            self._buffer += part
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        return line

    def _ended(self) -> Ended:
        self._kill()
        code = self._process.wait()
        size = self._errors.seek(0, os.SEEK_END)
        self._errors.seek(max(0, size - _TAIL))
        text = self._errors.read().decode(errors="replace").strip().splitlines()
        return Ended(text[-1] if text else f"ended with code {code}")

    def _kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)


def _wait(descriptor: int, event: int, deadline: float) -> None:
    waiting = select.poll()
    waiting.register(descriptor, event)
    left = deadline - time.monotonic()
    if left <= 0 or not waiting.poll(left * 1000):
        raise TimeoutError
