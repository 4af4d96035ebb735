"""Which artifacts are needed for what they are: those of the last shipped digest of each product, and those that are pinned.

What runs count on is known to the store itself (`containers.store.claims`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from containers.contract import Kind
from flows.retention import pins
from flows.watching.records import shipped_records

if TYPE_CHECKING:
    from containers.store import Manifest, Store
    from flows.watching.records import ShipRecord


class Roots:
    """Says of a manifest why it must stay; "" if nothing says so. Raises BadInput for a record or a pin that cannot be read."""

    def __init__(self, store: Store) -> None:
        self._why: dict[tuple[Kind, str], str] = {}
        self._unlisted: list[ShipRecord] = []
        for record in shipped_records(store):
            if not record.artifacts:
                self._unlisted.append(record)
            for ref in record.artifacts:
                self._why[ref.kind, ref.fingerprint] = f"shipped as {record.reference}"
        for pinned in pins.pins(store):
            for ref in pinned.artifacts:
                self._why[ref.kind, ref.fingerprint] = "pinned"

    def __call__(self, manifest: Manifest) -> str:
        return self._why.get((manifest.kind, manifest.fingerprint)) or next(
            (f"may be of {record.reference}" for record in self._unlisted if _may_be_of(manifest, record)), ""
        )


def _may_be_of(manifest: Manifest, record: ShipRecord) -> bool:
    """For a record of an earlier version, which does not say: its checkpoints by their source, and everything that is small."""
    if manifest.kind is Kind.GROUP:
        return False  # stays while its checkpoint does
    if manifest.kind is not Kind.CHECKPOINT:
        return True
    source = str(manifest.metadata.get("source", ""))
    same = source.partition("@")[0].partition("#")[0].rstrip("/") == record.model.partition("@")[0].rstrip("/")
    return same and (record.commit is None or manifest.metadata.get("commit") in {None, record.commit})
