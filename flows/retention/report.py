"""A sweep of a store as a table, for the terminal and for Prefect's UI."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from containers.contract import Kind
from containers.events import amount
from flows.retention import pins
from flows.retention.roots import Roots

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import timedelta

    from containers.store import Fate, Store, Swept

HEADINGS = ("", "kind", "age", "own", "shared", "why", "what")


@dataclass(frozen=True)
class SweepReport:
    """A sweep, and sentences about what a person should look at."""

    swept: Swept
    notes: tuple[str, ...]
    dry_run: bool

    @property
    def headline(self) -> str:
        """What it is in all; empty if there is nothing to say."""
        swept, gone = self.swept, len(self.swept.gone)
        if not gone and not swept.orphans:
            return ""
        freed = amount(swept.before - swept.after, "B")
        blobs = f"{swept.orphans} blob(s) of no artifact" if swept.orphans else ""
        what = " and ".join(filter(None, (f"{gone} artifact(s)" if gone else "", blobs)))
        return f"{what} ({freed}) of the store; {amount(swept.after, 'B')} stay"

    def rows(self) -> list[tuple[str, ...]]:
        """What goes, and what stays because something needs it; shards in one line."""
        verb = "would go" if self.dry_run else "removed"
        rows = [
            _row(verb if fate.goes else "stays", fate.kind, [fate])
            for fate in self.swept.fates
            if fate.kind is not Kind.GROUP and (fate.goes or fate.why)
        ]
        if shards := [one for one in self.swept.gone if one.kind is Kind.GROUP]:
            rows.append(_row(verb, f"{len(shards)} shards", shards))
        if self.swept.orphans:
            size = amount(self.swept.orphaned, "B")
            rows.append((verb, f"{self.swept.orphans} blobs", "", size, "0 B", "no artifact names them", ""))
        return rows

    def document(self) -> dict[str, object]:
        """For programs: sizes in bytes, ages in seconds."""
        swept = self.swept
        return {
            "before": swept.before,
            "after": swept.after,
            "orphans": swept.orphans,
            "orphaned": swept.orphaned,
            "until": swept.until.isoformat() if swept.until else None,
            "notes": list(self.notes),
            "artifacts": [
                {
                    "kind": one.kind.value,
                    "fingerprint": one.fingerprint,
                    "name": one.name,
                    "age": round(one.age.total_seconds()),
                    "own": one.own,
                    "shared": one.shared,
                    "goes": one.goes,
                    "why": one.why,
                }
                for one in swept.fates
            ],
        }


def sweep(store: Store, older: timedelta, *, keep_gb: float | None = None, dry_run: bool = False) -> SweepReport:
    """Remove what nothing needs. Raises BadInput and Temporary as `containers.store.sweep.Sweep` does."""
    keep = None if keep_gb is None else int(keep_gb * 1e9)
    swept = store.sweep(lambda: Roots(store), older=older, keep_bytes=keep, delete=not dry_run)
    notes = [
        f"pinned, and not whole any more: the {ref.kind} {ref.fingerprint[:12]} of {one.name}"
        for one in pins.pins(store)
        for ref in pins.absent(store, one)
    ]
    if keep is not None and swept.after > keep:
        notes.append(
            f"{amount(swept.after, 'B')} stay, which is more than --keep-gb: it is needed, in use, or too young"
        )
    return SweepReport(swept, tuple(notes), dry_run)


def _row(verb: str, kind: str, fates: Iterable[Fate]) -> tuple[str, ...]:
    found = list(fates)
    first = found[0]
    name = " ".join(filter(None, (first.fingerprint[:12], first.name))) if len(found) == 1 else ""
    own, shared = (amount(sum(sizes), "B") for sizes in zip(*((one.own, one.shared) for one in found), strict=True))
    return (verb, str(kind), age_text(max(one.age for one in found)), own, shared, first.why, name)


def age_text(age: timedelta) -> str:
    """In days; below two, in hours."""
    hours = age.total_seconds() / 3600
    return f"{hours / 24:.0f} d" if hours >= 48 else f"{hours:.0f} h"
