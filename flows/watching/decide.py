"""Whether a change is announced: once, and again only if the last announcement failed for a reason that may pass."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final, Literal

from containers.contract import Frozen

if TYPE_CHECKING:
    from flows.watching.records import Attempt
    from flows.watching.scan import ModelState
    from infra.settings import Settings

MAX_RUNS: Final = 3  # per change, of runs that failed for a temporary reason
MAX_INTERVAL: Final = timedelta(days=1)  # between announcements of a change that got no run


class Decision(Frozen):
    """What happens to one product, and why where that is not obvious."""

    what: Literal["announced", "unchanged", "waiting", "given up", "not known"]
    why: str = ""


def decide(state: ModelState, active: frozenset[str], settings: Settings, *, force: bool = False) -> Decision:
    """`active` are the fingerprints of changes with a scheduled or running run; `force` announces a change again."""
    if state.problem or state.wanted is None:
        return Decision(what="not known")
    if state.wanted.fingerprint in active:
        return Decision(what="waiting", why="a run is scheduled or running")
    if not state.changes:
        return Decision(what="unchanged")
    if force or not state.announced_before or state.attempt is None:
        return Decision(what="announced")
    return _retry(state.attempt, settings)


def _retry(attempt: Attempt, settings: Settings) -> Decision:
    """Decide about a change that was announced before, still exists and has no active run."""
    when = f"{attempt.at:%Y-%m-%d %H:%M}"
    if attempt.state == "shipped":
        return Decision(
            what="given up", why="it was shipped and still differs: does the worker run another version of Carwright?"
        )
    if attempt.state == "failed" and not attempt.temporary:
        return Decision(what="given up", why=f"the same change failed {when}: {attempt.message}")
    if attempt.state != "announced" and attempt.count >= MAX_RUNS:
        return Decision(what="given up", why=f"{attempt.count} runs failed: {attempt.message}")
    interval = timedelta(seconds=settings.watch.lost_after)
    if attempt.state == "announced":
        interval = min(interval * 2 ** min(attempt.count - 1, 30), MAX_INTERVAL)
    if abs(datetime.now(UTC) - attempt.at) < interval:  # one of the far future is of a clock that was set back since
        return Decision(what="waiting", why=f"{attempt.state} {when}")
    return Decision(what="announced", why="the last announcement led to no result")
