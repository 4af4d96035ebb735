"""Whether a change is announced: once, and again only when the last announcement came to nothing by no fault of its own."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final, Literal

from containers.contract import Frozen

if TYPE_CHECKING:
    from flows.watching.records import Attempt
    from flows.watching.scan import ModelState
    from infra.settings import Settings

TIMES: Final = 3  # runs for one change that a machine or the network ended
LONGEST: Final = timedelta(days=1)  # between announcements that no run took up, or whose run died before its first line


class Decision(Frozen):
    """What is done about one product. `why` is for people, where it is not plain."""

    what: Literal["announced", "unchanged", "waiting", "given up", "not known"]
    why: str = ""


def decide(seen: ModelState, living: frozenset[str], settings: Settings, *, force: bool = False) -> Decision:
    """`living` are the changes whose run is waiting or working; `force` is a person's word to try again."""
    if seen.problem or seen.wanted is None:
        return Decision(what="not known")
    if seen.wanted.fingerprint in living:
        return Decision(what="waiting", why="its run is on the way")
    if not seen.changes:
        return Decision(what="unchanged")
    if force or not seen.tried or seen.attempted is None:
        return Decision(what="announced")
    return _again(seen.attempted, settings)


def _again(tried: Attempt, settings: Settings) -> Decision:
    """About a change that was announced before and is still there, with no run on the way."""
    when = f"{tried.at:%Y-%m-%d %H:%M}"
    if tried.state == "shipped":
        return Decision(what="given up", why="it was shipped and still differs: is the worker's Carwright another one?")
    if tried.state == "failed" and not tried.temporary:
        return Decision(what="given up", why=f"the same change failed {when}: {tried.message}")
    if tried.state != "announced" and tried.count >= TIMES:
        return Decision(what="given up", why=f"{tried.count} runs came to nothing: {tried.message}")
    patience = timedelta(seconds=settings.watch.lost_after)
    if tried.state == "announced":
        patience = min(patience * 2 ** min(tried.count - 1, 30), LONGEST)
    if datetime.now(UTC) - tried.at < patience:
        return Decision(what="waiting", why=f"{tried.state} {when}")
    return Decision(what="announced", why="again: the last announcement came to nothing")
