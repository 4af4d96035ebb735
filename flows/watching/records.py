"""What was shipped and what was tried, as JSON in the store.

    watch/shipped/<product>.json    a `ShipRecord`, written when a digest got its tags, by whoever asked for it
    watch/attempts/<product>.json   an `Attempt`, written by the watcher and by the run that it started
    watch/hub.json                  answers of the hub with their ETags

A product is a model, a scheme and a target: what one line of models.yaml makes for one of its targets.
"""

from __future__ import annotations

import hashlib
import json
from datetime import datetime
from typing import TYPE_CHECKING, Final, Literal, TypeVar

from pydantic import TypeAdapter, ValidationError

from containers.contract import Frozen
from containers.digest import Digest, canonical_json
from flows.ship_request import ShipRequest
from flows.watching.hub import CachedAnswer

if TYPE_CHECKING:
    from containers.store import Store

T = TypeVar("T", bound=Frozen)

_HUB: Final = "watch/hub.json"
_KEPT: Final = TypeAdapter(dict[str, CachedAnswer])


class ShipRecord(ShipRequest):
    """The last promoted digest: the request, and what came of it. `tools` is `tools_now` of that time.

    `revision` is what was requested, `commit` what it was; `base_digest` is "" where it is not known; `run` identifies
    the flow run. A record of an earlier version lacks parameters that came later, and has their defaults.
    """

    commit: str | None
    reference: str
    digest: Digest
    tags: tuple[str, ...]
    decision: str
    measures: dict[str, float]
    base_digest: str
    tools: dict[str, dict[str, str]]
    shipped: datetime
    run: str


class Attempt(Frozen):
    """The last change that was announced for a product. `change` is its fingerprint; `count` how often it was announced.

    announced -> started -> shipped or failed. `at` is when it came to `state`; `message` says why it failed, and
    `temporary` that the same input may succeed later.
    """

    change: str
    state: Literal["announced", "started", "shipped", "failed"]
    at: datetime
    count: int = 1
    run: str = ""
    message: str = ""
    temporary: bool = False


def product(model: str, scheme: str, to: str) -> str:
    """The name of a product in the store."""
    return hashlib.sha256(canonical_json([model, scheme, to])).hexdigest()[:32]


def shipped(store: Store, name: str) -> ShipRecord | None:
    return _read(store, f"watch/shipped/{name}.json", ShipRecord)


def attempt(store: Store, name: str) -> Attempt | None:
    return _read(store, f"watch/attempts/{name}.json", Attempt)


def write_shipped(store: Store, record: ShipRecord) -> None:
    _write(store, f"watch/shipped/{product(record.model, record.scheme, record.to)}.json", record)


def write_attempt(store: Store, name: str, attempted: Attempt) -> None:
    _write(store, f"watch/attempts/{name}.json", attempted)


def note(store: Store, name: str, made: Attempt) -> None:
    """What became of an announced change, told by its run; when another was announced since then, that one stays."""
    known = attempt(store, name)
    if known is None or known.change == made.change:
        write_attempt(store, name, made.model_copy(update={"count": known.count if known is not None else 1}))


def kept(store: Store) -> dict[str, CachedAnswer]:
    """The hub's earlier answers; none when they cannot be read: then everything is asked anew."""
    try:
        return _KEPT.validate_json(store.read_key(_HUB))
    except (KeyError, ValidationError):
        return {}


def keep(store: Store, answers: dict[str, CachedAnswer]) -> None:
    store.write_key(_HUB, _KEPT.dump_json(answers))


def _read(store: Store, key: str, kind: type[T]) -> T | None:
    """None for what is not there, and for what another version wrote: it is written anew after the next run."""
    try:
        return kind.model_validate_json(store.read_key(key))
    except (KeyError, ValidationError):
        return None


def _write(store: Store, key: str, value: Frozen) -> None:
    store.write_key(key, (json.dumps(value.model_dump(mode="json"), indent=1) + "\n").encode())
