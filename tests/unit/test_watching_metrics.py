"""Metrics for an operator, read back by Prometheus's own parser."""

from __future__ import annotations

import json
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from typer.testing import CliRunner

from containers.digest import Digest
from flows.cli.main import app
from flows.local.run_record import records
from flows.watching.metrics import exposition
from flows.watching.records import Attempt, ShipRecord, product, write_attempt, write_shipped
from infra.settings import Settings
from tests.support.memory_bucket import MemoryBucket

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MODEL = 'hf://org/a "quoted" name'
PRODUCT = {"model": MODEL, "scheme": "FP8_DYNAMIC", "target": "registry.example.com/models/name"}


def read(text: str) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_a_shipped_product_its_verdict_and_its_failed_rebuild() -> None:
    store = MemoryBucket().store()
    digest = Digest.parse("sha256:" + "a" * 64)
    record = ShipRecord(
        model=MODEL,
        to=PRODUCT["target"],
        commit="0123456789abcdef0123456789abcdef01234567",
        reference=f"{PRODUCT['target']}@{digest}",
        digest=digest,
        tags=("v1",),
        decision="pass",
        measures={"kl_mean": 0.0125},
        base_digest="",
        tools={},
        shipped=datetime(2026, 11, 27, 12, tzinfo=UTC),
        run="one",
    )
    write_shipped(store, record)
    attempt = Attempt(change="next", state="failed", at=datetime(2026, 11, 28, tzinfo=UTC), message="no space")
    write_attempt(store, product(MODEL, "FP8_DYNAMIC", PRODUCT["target"]), attempt)
    store.write_key("watch/swept.json", json.dumps({"artifacts": 3, "blobs": 0, "before": 900, "after": 700}).encode())

    seen = read(exposition(store, []))
    labels = frozenset(PRODUCT.items())
    # date -u -d 2026-11-27T12:00 +%s
    assert seen["carwright_shipped_timestamp_seconds", labels] == 1795780800
    facts = {"digest": str(digest), "commit": "0123456789abcdef0123456789abcdef01234567", "decision": "pass"}
    assert seen["carwright_shipped_info", frozenset({*PRODUCT.items(), *facts.items()})] == 1
    assert seen["carwright_verdict_measure", labels | {("measure", "kl_mean")}] == 0.0125
    assert seen["carwright_rebuild_failed", labels] == 1
    assert seen["carwright_store_bytes", frozenset()] == 700


def test_runs_steps_and_bytes_of_this_folder() -> None:
    def run(name: str, state: str, seconds: float | None = None) -> dict[str, Any]:
        step = {"name": "quantize", "state": "done", "seconds": seconds, "what": ""}
        shipped = {"model": "hf://org/name", "size_before": 200, "size_after": 110, "steps": [step]}
        return {"state": state, "started": name} | ({"shipped": shipped} if seconds else {})

    runs = [run("20261127T2", "shipped", 7.5), run("20261127T1", "shipped", 99), run("20261127T3", "failed: no space")]
    seen = read(exposition(MemoryBucket().store(), runs))
    assert seen["carwright_runs", frozenset({("outcome", "shipped")})] == 2
    assert seen["carwright_runs", frozenset({("outcome", "failed")})] == 1
    assert seen["carwright_runs", frozenset({("outcome", "killed")})] == 0
    model = ("model", "hf://org/name")
    last = frozenset({model, ("step", "quantize"), ("state", "done")})
    assert seen["carwright_step_duration_seconds", last] == 7.5
    assert seen["carwright_checkpoint_bytes", frozenset({model, ("stage", "before")})] == 200
    assert seen["carwright_checkpoint_bytes", frozenset({model, ("stage", "after")})] == 110


def test_an_empty_store_has_no_products() -> None:
    assert "carwright_store_bytes" not in exposition(MemoryBucket().store(), [])


@pytest.mark.parametrize(
    "text", ["", "[1]", '{"state": "shipped", "shipped": {"model": "of another version"}}', "\xff"]
)
def test_a_record_that_cannot_be_read_hides_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    """As `carwright runs` passes it over: a run may be removed, as too old, between the listing and the reading."""
    monkeypatch.chdir(tmp_path)
    runs = Settings().home.resolve() / "runs"
    for name, content in (("20260101T1", text), ("20260101T2", '{"state": "failed: no space"}')):
        (runs / name).mkdir(parents=True)
        (runs / name / "summary.json").write_text(content, encoding="latin-1")
    seen = read(exposition(MemoryBucket().store(), (one for _, one in records(Settings().home))))
    assert seen["carwright_runs", frozenset({("outcome", "failed")})] == 1


def test_the_command_passes_over_what_it_cannot_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    @contextmanager
    def memory(settings: Settings) -> Iterator[Settings]:
        yield settings

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("flows.local.embedded.store", memory)
    monkeypatch.setattr("containers.store.Store.open", lambda *_: MemoryBucket().store())
    (Settings().home.resolve() / "runs" / "1").mkdir(parents=True)
    (Settings().home.resolve() / "runs" / "1" / "summary.json").write_text("{")
    result = CliRunner().invoke(app, ["metrics"], catch_exceptions=False)
    assert "carwright_runs" in result.stdout
