"""Talks with a program through its pipes, with bounded memory: a child may write without end, and this process may not grow."""

from __future__ import annotations

import os
import selectors
import time
from typing import TYPE_CHECKING, Final

from containers.errors import Error

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import IO

_AT_ONCE: Final = 1 << 16  # bytes; also what a pipe takes on Linux


class TooMuchOutput(Error):
    """A program wrote more than it may, and was stopped."""


def exchange(
    name: str,
    stdin: IO[bytes] | None,
    outputs: Iterable[IO[bytes]],
    sent: bytes,
    *,
    timeout: float | None,
    most: int,
) -> list[bytes]:
    """Send all of `sent` and read each output to its end.

    Raises TimeoutError after `timeout` seconds, and TooMuchOutput, which names the program, when it has written more than
    `most` bytes in all. Nothing is closed but `stdin`.
    """
    deadline = None if timeout is None else time.monotonic() + timeout
    read: dict[int, bytearray] = {output.fileno(): bytearray() for output in outputs}
    left = memoryview(sent)
    with selectors.DefaultSelector() as waiting:
        for descriptor in read:
            waiting.register(descriptor, selectors.EVENT_READ)
        if stdin is not None:
            os.set_blocking(stdin.fileno(), False)
            waiting.register(stdin, selectors.EVENT_WRITE)
        while waiting.get_map():
            remaining = None if deadline is None else deadline - time.monotonic()
            if remaining is not None and remaining <= 0:
                raise TimeoutError(name)
            for key, _ in waiting.select(remaining):
                if key.fileobj is stdin:
                    assert stdin is not None
                    left = _send(stdin, left)
                    if not left:
                        waiting.unregister(stdin)
                        stdin.close()
                elif part := os.read(key.fd, _AT_ONCE):
                    read[key.fd] += part
                    if sum(map(len, read.values())) > most:
                        raise TooMuchOutput(f"{name} wrote more than {most} bytes and was stopped")
                else:
                    waiting.unregister(key.fd)
    return [bytes(part) for part in read.values()]


def _send(stdin: IO[bytes], left: memoryview) -> memoryview:
    """What is left after a part of it was sent; nothing where the program no longer reads."""
    try:
        return left[os.write(stdin.fileno(), left[:_AT_ONCE]) :]
    except BlockingIOError:
        return left
    except BrokenPipeError:
        return left[:0]
