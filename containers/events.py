"""The log and progress events of a step: structured lines on stderr that a launcher forwards.

On a terminal the lines are plain text. Anywhere else each line is one JSON object with `event` (`log`, `progress`
or `error`) and `time` (RFC 3339, UTC).
"""

from __future__ import annotations

import json
import logging
import sys
import threading
import time
from collections.abc import Callable
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Literal, TextIO

from pydantic import BaseModel, ConfigDict, ValidationError

from containers.foreign_text import clean, one_line

if TYPE_CHECKING:
    from collections.abc import Iterator

    from containers.errors import Error

_INTERVAL: float = 0.25  # seconds between two progress lines of one task: enough to look alive, cheap to store


class Event(BaseModel):
    """One line. `done` and `total` are in `unit` ("B" for bytes); `total` 0 means unknown."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    event: Literal["log", "progress", "error"]
    time: str = ""
    level: Literal["debug", "info", "warning", "error"] = "info"
    message: str = ""
    remedy: str = ""
    exit_code: int = 0
    task: str = ""
    done: float = 0
    total: float = 0
    unit: str = ""

    @property
    def severity(self) -> int:
        """The level as a number of the module `logging`."""
        return logging.getLevelNamesMapping()[self.level.upper()]

    @classmethod
    def parse(cls, line: str) -> Event:
        """Read one line; what is not an event (a library's own print) becomes a log line at level debug."""
        if line.startswith("{"):
            try:
                return cls.model_validate_json(line)
            except ValidationError:
                pass
        return cls(event="log", level="debug", message=line)

    def safe(self) -> Event:
        """The same with nothing in it that a terminal or a log would obey: a step quotes names, and passes on what libraries print."""
        return self.model_copy(
            update={
                "message": clean(self.message),
                "remedy": clean(self.remedy),
                "task": one_line(self.task),
                "unit": one_line(self.unit),
            }
        )

    def text(self) -> str:
        """The line for a person, safe to show."""
        safe = self.safe()
        if self.event == "progress":
            return f"{safe.task}: {amount(self.done, safe.unit)}" + (
                f" of {amount(self.total, safe.unit)}" if self.total else ""
            )
        if self.event == "error":
            return f"error: {safe.message}" + (f"\n  {safe.remedy}" if self.remedy else "")
        return safe.message if self.level == "info" else f"{self.level}: {safe.message}"


OnEvent = Callable[[Event], None]  # gets each event of a step while it works


def amount(value: float, unit: str) -> str:
    """A quantity for people; bytes in powers of 1000, as the registries and disks that they are compared with."""
    if unit != "B":
        return f"{value:,.0f} {unit}".strip()
    for prefix in ("", "k", "M", "G"):
        if abs(value) < 1000:
            return f"{value:.0f} B" if not prefix else f"{value:.1f} {prefix}B"
        value /= 1000
    return f"{value:.2f} TB"


class Reporter:
    """Writes events to a stream; safe to call from several threads."""

    def __init__(self, stream: TextIO | None = None, *, structured: bool | None = None) -> None:
        self._stream = stream if stream is not None else sys.stderr
        self._structured = not self._stream.isatty() if structured is None else structured
        self._lock = threading.Lock()

    def log(self, message: str, level: Literal["debug", "info", "warning", "error"] = "info") -> None:
        self.write(Event(event="log", level=level, message=message))

    def error(self, error: Error) -> None:
        self.write(
            Event(
                event="error",
                level="error",
                message=error.message,
                remedy=error.remedy,
                exit_code=error.exit_code,
            )
        )

    @contextmanager
    def progress(self, task: str, total: float = 0, unit: str = "B") -> Iterator[Progress]:
        """Report on one long task; the last line always carries the final amount."""
        progress = Progress(self, task, total, unit)
        progress.report()
        try:
            yield progress
        finally:
            progress.report()

    def write(self, event: Event) -> None:
        """Write one event as a line of its own."""
        event = event.safe()
        if self._structured:
            stamped = event.model_copy(update={"time": datetime.now(UTC).isoformat()})
            line = json.dumps(stamped.model_dump(exclude_defaults=True), ensure_ascii=False)
        else:
            line = event.text()
        with self._lock:
            self._stream.write(line + "\n")
            self._stream.flush()


class Progress:
    """How far one task has come; `advance` may be called from any thread and as often as one likes."""

    def __init__(self, reporter: Reporter, task: str, total: float, unit: str) -> None:
        self._reporter = reporter
        self._task = task
        self._unit = unit
        self._lock = threading.Lock()
        self._reported = 0.0
        self.total = total
        self.done = 0.0

    def advance(self, by: float) -> None:
        with self._lock:
            self.done += by
            now = time.monotonic()
            due = now - self._reported >= _INTERVAL
            if due:
                self._reported = now
        if due:
            self.report()

    def report(self) -> None:
        self._reporter.write(
            Event(
                event="progress",
                task=self._task,
                done=self.done,
                total=self.total,
                unit=self._unit,
            )
        )
