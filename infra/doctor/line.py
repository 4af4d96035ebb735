"""One line of the doctor, and how all of them are found at once.

A line is a `problem` when something that was asked for does not work: by a setting, or by an option of the command. What
does not work and was not asked for is a `warning`: it will matter to who asks for it. `skipped` is what cannot be looked at
without more being said, and says what.
"""

from __future__ import annotations

import queue
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, Literal

from containers.errors import Error
from containers.foreign_text import clean

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

State = Literal["ok", "skipped", "warning", "problem"]
Check = Callable[[], "Line"]

DEADLINE: Final = 20.0  # seconds for one check
_POINTER: Final = re.compile(r"\s*\(`carwright doctor`, line `[a-z-]+`\)")


@dataclass(frozen=True)
class Line:
    """What one check found. `name` stays the same over versions; `remedy` says what to do, and is empty for `ok`."""

    name: str
    state: State
    text: str
    remedy: str = ""

    def __str__(self) -> str:
        return "; ".join(" ".join(part.split()) for part in (self.text, self.remedy) if part)


def ok(name: str, text: str) -> Line:
    return Line(name, "ok", text)


def skipped(name: str, text: str, remedy: str = "") -> Line:
    return Line(name, "skipped", text, remedy)


def wrong(name: str, text: str, remedy: str, *, asked_for: bool) -> Line:
    """A problem if this was asked for, else a warning."""
    return Line(name, "problem" if asked_for else "warning", text, remedy)


def failed(name: str, error: Error, *, asked_for: bool) -> Line:
    """The line for an error of Carwright's own."""
    return wrong(name, error.message, _POINTER.sub("", error.remedy), asked_for=asked_for)


def examine(checks: Mapping[str, Check], *, secrets: Iterable[str] = (), deadline: float = DEADLINE) -> Iterator[Line]:
    """Run all checks at once and yield their lines in the order of `checks`, at the latest after `deadline` seconds.

    A check that has not come to its end by then is a problem; its thread is left behind. No line holds one of the secrets,
    or the user and password of a URL.
    """
    answers: dict[str, queue.SimpleQueue[Line]] = {name: queue.SimpleQueue() for name in checks}
    hidden = sorted((secret for secret in secrets if secret), key=len, reverse=True)
    for name, check in checks.items():
        threading.Thread(target=_run, args=(name, check, answers[name]), daemon=True, name=f"doctor-{name}").start()
    until = time.monotonic() + deadline
    for name, answer in answers.items():
        try:
            line = answer.get(timeout=max(until - time.monotonic(), 0.001))
        except queue.Empty:
            line = Line(
                name, "problem", f"no answer within {deadline:g} seconds", "check what it waits for, and try again"
            )
        yield replace(line, text=_without(hidden, line.text), remedy=_without(hidden, line.remedy))


def _run(name: str, check: Check, answer: queue.SimpleQueue[Line]) -> None:
    try:
        answer.put(check())
    except Error as error:
        answer.put(failed(name, error, asked_for=True))
    except Exception as error:  # noqa: BLE001 - one broken check must not hide what the others found
        answer.put(
            Line(name, "problem", f"the check itself failed: {type(error).__name__}: {error}", "report this bug")
        )


def _without(secrets: Iterable[str], text: str) -> str:
    for secret in secrets:
        text = text.replace(secret, "***")
    return clean(text)
