"""Records of what was shipped and attempted, as JSON in the store.

    watch/shipped/<product>.json    a `ShipRecord`, written by every run that promotes a digest
    watch/attempts/<product>.json   an `Attempt`, written by the watcher and by the runs it starts
    watch/pins/<name>.json          what a person pinned (`flows.retention.pins`)
    watch/swept.json                when the store was last swept, and how much was left (`containers.store.sweep`)
    watch/hub.json                  answers of the hub with their ETags

A product is a model, a scheme and a target: what one entry of models.yaml ships to one of its targets.
"""

from __future__ import annotations

import hashlib
import json
from datetime import datetime
from typing import TYPE_CHECKING, Final, Literal, TypeVar

from pydantic import TypeAdapter, ValidationError

from containers.contract import ArtifactRef, Frozen
from containers.digest import Digest, canonical_json
from containers.errors import BadInput
from flows.ship_request import ShipRequest
from flows.watching.hub import CachedAnswer

if TYPE_CHECKING:
    from containers.store import Store

T = TypeVar("T", bound=Frozen)

_HUB: Final = "watch/hub.json"
_ANSWERS: Final = TypeAdapter(dict[str, CachedAnswer])


class ShipRecord(ShipRequest):
    """The last promoted digest: the request and its result. `tools` is the value of `tools_now` at that time.

    `revision` is what was requested, `commit` what it resolved to; `base_digest` is "" if unknown; `run` identifies the
    flow run. `artifacts` are those of the store that the digest was made from, measured with and judged by. In a record of an
    earlier version, later parameters have their defaults.
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
    artifacts: tuple[ArtifactRef, ...] = ()


class Attempt(Frozen):
    """The last announced change of a product. `change` is its fingerprint; `count` says how often it was announced.

    announced -> started -> shipped or failed. `at` is the time of the last change of `state`; `message` says why it
    failed, and `temporary` that the same input may succeed later.
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


def read_shipped(store: Store, name: str) -> ShipRecord | None:
    return _read(store, f"watch/shipped/{name}.json", ShipRecord)


def shipped_records(store: Store) -> list[ShipRecord]:
    """The records of all products. Raises BadInput for one that cannot be read: what it needs is not known."""
    found: list[ShipRecord] = []
    for key in store.keys("watch/shipped"):
        try:
            found.append(ShipRecord.model_validate_json(store.read_key(key)))
        except KeyError:  # removed meanwhile
            continue
        except ValidationError as error:
            raise BadInput(
                f"{key} in the store is not a record that this version can read",
                remedy="use the version of Carwright that wrote it, or remove the record",
            ) from error
    return found


def read_attempt(store: Store, name: str) -> Attempt | None:
    return _read(store, f"watch/attempts/{name}.json", Attempt)


def write_shipped(store: Store, record: ShipRecord) -> None:
    _write(store, f"watch/shipped/{product(record.model, record.scheme, record.to)}.json", record)


def write_attempt(store: Store, name: str, attempt: Attempt) -> None:
    _write(store, f"watch/attempts/{name}.json", attempt)


def update_attempt(store: Store, name: str, made: Attempt) -> None:
    """Record the progress of an announced change, unless another change was announced since."""
    known = read_attempt(store, name)
    if known is None or known.change == made.change:
        write_attempt(store, name, made.model_copy(update={"count": known.count if known is not None else 1}))


def read_hub_answers(store: Store) -> dict[str, CachedAnswer]:
    """The hub's earlier answers; empty if they cannot be read."""
    try:
        return _ANSWERS.validate_json(store.read_key(_HUB))
    except (KeyError, ValidationError):
        return {}


def write_hub_answers(store: Store, answers: dict[str, CachedAnswer]) -> None:
    store.write_key(_HUB, _ANSWERS.dump_json(answers))


def _read(store: Store, key: str, kind: type[T]) -> T | None:
    """None if there is no record, or one that this version cannot read: the next run writes it again."""
    try:
        return kind.model_validate_json(store.read_key(key))
    except (KeyError, ValidationError):
        return None


def _write(store: Store, key: str, value: Frozen) -> None:
    store.write_key(key, (json.dumps(value.model_dump(mode="json"), indent=1) + "\n").encode())
