"""A run's log is read as it grows: each line once, however many arrive at once and however late."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import pytest

from flows.orchestrator.run_log import RunLog, level_name

if TYPE_CHECKING:
    from prefect.client.schemas.filters import LogFilter

START = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass
class Line:
    timestamp: datetime
    id: UUID = field(default_factory=uuid4)


@dataclass
class Server:
    """Answers `read_logs` as Prefect's server does: filtered, sorted, a page at a time."""

    lines: list[Line] = field(default_factory=list)

    def add(self, *seconds: float) -> list[Line]:
        news = [Line(START + timedelta(seconds=one)) for one in seconds]
        self.lines += news
        return news

    def read_logs(self, wanted: LogFilter, *, limit: int, offset: int, sort: object) -> list[Line]:
        del sort
        after = wanted.timestamp.after_ if wanted.timestamp is not None else None
        found = sorted(
            (one for one in self.lines if after is None or one.timestamp >= after), key=lambda one: one.timestamp
        )
        return found[offset : offset + limit]


def ids(lines: list[Any]) -> list[UUID]:
    return [line.id for line in lines]


def test_each_line_is_read_once() -> None:
    """Also one that arrives after a later one was read."""
    server, log = Server(), RunLog(uuid4())
    first = server.add(0, 1, 20)
    assert ids(log.read(server)) == ids(first)
    assert log.read(server) == []
    late, last = server.add(12, 21)
    assert ids(log.read(server)) == [late.id, last.id]


def test_more_lines_than_a_page_holds() -> None:
    """All of one moment: what was read before fills whole pages of the next answer."""
    server, log = Server(), RunLog(uuid4())
    first = server.add(*[0.0] * 450)
    assert set(ids(log.read(server))) == set(ids(first))
    more = server.add(*[1.0] * 250)
    assert set(ids(log.read(server))) == set(ids(more))


@pytest.mark.parametrize(
    ("level", "name"), [(50, "error"), (40, "error"), (30, "warning"), (25, "info"), (10, "debug")]
)
def test_levels(level: int, name: str) -> None:
    """Those of `logging` become those of events."""
    assert level_name(level) == name
