"""What a person pinned, as JSON in the store: `watch/pins/<name>.json`. A sweep never takes it, however old it is."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from pydantic import ValidationError

from containers.contract import ArtifactRef, Frozen
from containers.digest import Digest
from containers.errors import BadInput
from flows.watching.records import shipped_records

if TYPE_CHECKING:
    from containers.store import Store

_PINS: Final = "watch/pins"
_SHORTEST: Final = 4  # digits of a fingerprint


class Pin(Frozen):
    """`name` is a fingerprint, or the reference of a shipped digest with everything that it was made from."""

    name: str
    artifacts: tuple[ArtifactRef, ...]
    at: datetime


def pin(store: Store, what: str) -> Pin:
    """Pin an artifact by its fingerprint (or the beginning of it), or a shipped modelcar by its reference or digest.

    Raises BadInput when there is no such thing, or more than one.
    """
    name, artifacts = _shipped(store, what) or _artifact(store, what)
    made = Pin(name=name, artifacts=artifacts, at=datetime.now(UTC))
    store.write_key(_key(name), made.model_dump_json(indent=1).encode())
    # Only now: a sweep that has not seen the pin is waited for (containers.store.claims).
    if gone := absent(store, made):
        store.delete_key(_key(name))
        raise BadInput(
            f"{what} is not whole: the {gone[0].kind} {gone[0].fingerprint[:12]} or a file of it is missing",
            remedy="run what made it again, then pin it",
        )
    return made


def unpin(store: Store, what: str) -> Pin:
    """Take a pin back; `what` is as it was given, or the beginning of the fingerprint. Raises BadInput for no such pin."""
    there = pins(store)
    found = [one for one in there if one.name == what]
    found = found or [one for one in there if len(what) >= _SHORTEST and what in one.name]
    if len(found) != 1:
        raise BadInput(f"{len(found)} pins are called {what!r}", remedy="`carwright pin` lists them")
    store.delete_key(_key(found[0].name))
    return found[0]


def pins(store: Store) -> list[Pin]:
    """All pins, the oldest first. Raises BadInput for one that cannot be read."""
    found: list[Pin] = []
    for key in store.keys(_PINS):
        try:
            found.append(Pin.model_validate_json(store.read_key(key)))
        except KeyError:  # taken back meanwhile
            continue
        except ValidationError as error:
            raise BadInput(
                f"{key} in the store is not a pin that this version can read",
                remedy="use the version of Carwright that wrote it, or remove it",
            ) from error
    return sorted(found, key=lambda one: one.at)


def absent(store: Store, pinned: Pin) -> list[ArtifactRef]:
    """What is pinned and no longer whole in the store."""
    return [ref for ref in pinned.artifacts if store.find(ref.kind, ref.fingerprint) is None]


def _shipped(store: Store, what: str) -> tuple[str, tuple[ArtifactRef, ...]] | None:
    """A product of this store whose last shipped digest is meant."""
    digest = what.rpartition("@")[2] if "@" in what else what
    for record in shipped_records(store):
        tags = {f"{record.reference.partition('@')[0]}:{tag}" for tag in record.tags}
        if digest == str(record.digest) or what in tags:
            if not record.artifacts:
                raise BadInput(
                    f"an earlier version shipped {what}, which did not record what it was made from",
                    remedy="pin its checkpoint by fingerprint, or ship it again",
                )
            return record.reference, record.artifacts
    return None


def _artifact(store: Store, what: str) -> tuple[str, tuple[ArtifactRef, ...]]:
    found = [one.ref for one in store.manifests() if one.fingerprint.startswith(what)] if len(what) >= _SHORTEST else []
    if len(found) != 1:
        raise BadInput(
            f"{len(found)} artifacts of the store are called {what!r}",
            remedy="give a fingerprint, or the beginning of one (`carwright clean --dry-run` lists them), or the reference of "
            "a modelcar that is the last one shipped",
        )
    return found[0].fingerprint, (found[0],)


def _key(name: str) -> str:
    return f"{_PINS}/{Digest.of(json.dumps(name).encode()).hex[:32]}.json"
