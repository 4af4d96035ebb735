"""Reads the log of a run on the Prefect server while it grows."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from itertools import count
from typing import TYPE_CHECKING, Any, Final

from prefect.client.schemas.filters import LogFilter, LogFilterFlowRunId, LogFilterTimestamp
from prefect.client.schemas.sorting import LogSort

if TYPE_CHECKING:
    from datetime import datetime
    from uuid import UUID

    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.objects import Log

_LATE: Final = timedelta(seconds=10)  # lines may arrive out of order within this
_PAGE: Final = 200  # lines; the most that the server gives at once
_LEVELS: Final = ((40, "error"), (30, "warning"), (20, "info"))


@dataclass
class RunLog:
    """Remembers the ids of lines already read: reads overlap, because lines arrive late."""

    run: UUID
    _seen: set[UUID] = field(default_factory=set)
    _last: datetime | None = None

    def read(self, client: SyncPrefectClient) -> list[Log]:
        """The lines that no earlier call returned, ordered by time."""
        fresh: list[Log] = []
        after = LogFilterTimestamp(after_=self._last - _LATE) if self._last is not None else None
        wanted = LogFilter(flow_run_id=LogFilterFlowRunId(any_=[self.run]), timestamp=after)
        for offset in count(0, _PAGE):
            found = client.read_logs(wanted, limit=_PAGE, offset=offset, sort=LogSort.TIMESTAMP_ASC)
            fresh += [line for line in found if line.id not in self._seen]
            if len(found) < _PAGE:
                break
        self._seen.update(line.id for line in fresh)
        self._last = max((line.timestamp for line in fresh), default=self._last)
        return fresh


def level_name(level: int) -> Any:
    """The event level for a `logging` level."""
    return next((name for least, name in _LEVELS if level >= least), "debug")
