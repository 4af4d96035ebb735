"""What an operator's monitoring reads: runs, steps, bytes and verdicts as Prometheus metrics.

Text in the exposition format of Prometheus, for a file that node_exporter's textfile collector reads or for a push gateway:
no run of Carwright lives as long as a scrape needs. What runs under a Prefect server counts as well, since every run leaves its
record in the store. Names follow Prometheus's naming rules: base units, the unit in the name.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from prometheus_client import CollectorRegistry, Gauge, generate_latest

from containers.store.sweep import SWEPT
from flows.watching.records import product, read_attempt, shipped_records

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from containers.store import Store
    from flows.watching.records import ShipRecord

_OUTCOMES: Final = ("running", "shipped", "failed", "killed")
_PRODUCT: Final = ("model", "scheme", "target")
_SHOWN: Final = {"model", "size_before", "size_after", "steps"}


def exposition(store: Store, runs: Iterable[dict[str, Any]]) -> str:
    """The metrics of what the store has shipped and of the runs of one folder, given by their records.

    Raises BadInput for a record of the store that cannot be read.
    """
    registry = CollectorRegistry()
    _products(registry, shipped_records(store), store)
    _runs(registry, list(runs))
    _store(registry, store)
    return generate_latest(registry).decode()


def _store(registry: CollectorRegistry, store: Store) -> None:
    """What its last sweep left; nothing for a store that was never swept."""
    if not store.has_key(SWEPT):
        return
    swept = json.loads(store.read_key(SWEPT))
    Gauge("carwright_store_bytes", "Blobs that the last sweep of the store left.", registry=registry).set(
        swept["after"]
    )


def _products(registry: CollectorRegistry, records: Sequence[ShipRecord], store: Store) -> None:
    shipped = Gauge(
        "carwright_shipped_timestamp_seconds",
        "When the last promoted digest of a product was shipped, since the epoch.",
        _PRODUCT,
        registry=registry,
    )
    info = Gauge(
        "carwright_shipped_info",
        "The last promoted digest of a product and its verdict; always 1.",
        (*_PRODUCT, "digest", "commit", "decision"),
        registry=registry,
    )
    measure = Gauge(
        "carwright_verdict_measure",
        "What the verdict on the last promoted digest was decided by, in the unit that its name says.",
        (*_PRODUCT, "measure"),
        registry=registry,
    )
    failing = Gauge(
        "carwright_rebuild_failed",
        "1 if the last attempt to rebuild a product failed, else 0.",
        _PRODUCT,
        registry=registry,
    )
    for record in records:
        names = (record.model, record.scheme, record.to)
        shipped.labels(*names).set(record.shipped.timestamp())
        info.labels(*names, str(record.digest), record.commit or "", record.decision).set(1)
        for name, value in record.measures.items():
            measure.labels(*names, name).set(value)
        attempt = read_attempt(store, product(*names))
        failing.labels(*names).set(int(attempt is not None and attempt.state == "failed"))


def _runs(registry: CollectorRegistry, records: Sequence[dict[str, Any]]) -> None:
    """Of the runs of `carwright ship` whose records are kept; those of a Prefect server are in its own metrics."""
    outcomes = Gauge(
        "carwright_runs",
        "Runs of this folder whose records are kept, by outcome.",
        ("outcome",),
        registry=registry,
    )
    seconds = Gauge(
        "carwright_step_duration_seconds",
        "How long a step of a model's last finished run took.",
        ("model", "step", "state"),
        registry=registry,
    )
    size = Gauge(
        "carwright_checkpoint_bytes",
        "The checkpoint of a model's last finished run, before and after quantization.",
        ("model", "stage"),
        registry=registry,
    )
    counts = dict.fromkeys(_OUTCOMES, 0)
    last: dict[str, dict[str, Any]] = {}
    for record in sorted(records, key=lambda one: str(one.get("started", ""))):
        outcome = str(record.get("state", "")).partition(":")[0]
        counts[outcome] = counts.get(outcome, 0) + 1
        shipped = record.get("shipped")
        if isinstance(shipped, dict) and shipped.keys() >= _SHOWN:  # another version's may lack some
            last[str(shipped["model"])] = shipped
    for outcome, count in counts.items():
        outcomes.labels(outcome).set(count)
    for model, shipped in last.items():
        size.labels(model, "before").set(shipped["size_before"])
        size.labels(model, "after").set(shipped["size_after"])
        for step in shipped["steps"]:
            seconds.labels(model, step["name"], step["state"]).set(step["seconds"])
