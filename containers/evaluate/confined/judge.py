"""The judge: runs a problem's own test, and asks the process with the model's code for the answers.

What is judged is an order with `code` and `answer` (what the model wrote, see `containers.evaluate.confined.program`),
`entry_point` (the name of its function), `preamble` (code that the test may use) and `test` (code that defines `check`).
Both of these are the data set's and trusted. `check` gets a function that has the other process call the model's; it
returns what came back as data. So nothing of the model's code, no `__eq__` and no patched builtin, is where answers are compared.
"""

from __future__ import annotations

import io
import os
import select
import sys
import time
from typing import Any, Final

from containers.evaluate.confined import plain_data

_DETAIL: Final = 400  # characters of what went wrong that are kept
_AT_ONCE: Final = 1 << 16  # bytes


class Failed(BaseException):
    """The program did not answer, or not with data. No exception that a test could mean to catch."""


class AnswerProcess:
    """The process with the model's code, at the two descriptors `questions` and `answers`."""

    def __init__(self, questions: int, answers: int, most: int, wall: float) -> None:
        """All its answers together may have `most` bytes and take `wall` seconds."""
        self._questions, self._answers, self._most, self._wall = questions, answers, most, wall
        self._started = time.monotonic()
        self._received = bytearray()
        self._read = 0

    def call(self, *arguments: Any) -> Any:
        """What the function returns; raises Failed where it raises."""
        return self.ask(list(arguments))

    def ask(self, question: Any) -> Any:
        """The answer to one question; raises Failed."""
        try:
            _write(self._questions, plain_data.dumps(question))
            found = plain_data.loads(self._line())
        except BrokenPipeError:
            raise Failed("the program ended before its test did") from None
        except (ValueError, TypeError, RecursionError, MemoryError) as error:
            raise Failed(f"the program's answer is not plain data: {error}") from None
        if isinstance(found, dict) and found.keys() == {"value"}:
            return found["value"]
        if isinstance(found, dict) and found.keys() == {"raised"}:
            raise Failed(str(found["raised"]))
        raise Failed("the program answered something else than it was asked")

    def _line(self) -> bytes:
        start = 0
        while (end := self._received.find(b"\n", start)) < 0:
            start = len(self._received)
            left = self._started + self._wall - time.monotonic()
            if left <= 0 or not select.select([self._answers], [], [], left)[0]:
                raise Failed(f"did not end within {self._wall:g} s")
            part = os.read(self._answers, _AT_ONCE)
            if not part:
                raise Failed("the program ended before its test did")
            self._read += len(part)
            if self._read > self._most:
                raise Failed(f"the program answered with more than {self._most} bytes")
            self._received += part
        line = bytes(self._received[:end])
        del self._received[: end + 1]
        return line


def verdict(order: dict[str, str], candidate: AnswerProcess) -> dict[str, Any]:
    """`passed`, and in `detail` why not."""
    sys.stdout = sys.stderr = io.StringIO()  # what a test prints is no verdict
    try:
        candidate.ask({name: order[name] for name in ("code", "answer", "entry_point")})
        known: dict[str, Any] = {"__name__": "test"}
        exec(compile(order["preamble"], "preamble", "exec"), known)  # noqa: S102 - the data set's own code
        known[order["entry_point"]] = candidate.call
        exec(compile(order["test"], "test", "exec"), known)  # noqa: S102 - likewise
        known["check"](candidate.call)
    except BaseException as error:  # noqa: BLE001 - whatever the test raises about the answers
        text = str(error) if isinstance(error, Failed) else f"{type(error).__name__}: {error}".removesuffix(": ")
        return {"passed": False, "detail": "".join(one if one.isprintable() else " " for one in text[:_DETAIL])}
    return {"passed": True, "detail": ""}


def _write(descriptor: int, content: bytes) -> None:
    while content:
        content = content[os.write(descriptor, content) :]
