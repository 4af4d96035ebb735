"""What a store needs for what it is: shipped products and pins."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from containers.contract import Kind
from containers.digest import Digest
from containers.errors import BadInput
from containers.store import FileEntry, Manifest
from flows.retention import pins
from flows.retention.report import sweep
from flows.retention.roots import Roots
from flows.watching import records
from tests.support.memory_bucket import MemoryBucket
from tests.support.nightly import Model, Run, ship_record

if TYPE_CHECKING:
    from containers.store import Store

DAY = timedelta(days=1)


@pytest.fixture
def bucket() -> MemoryBucket:
    return MemoryBucket()


@pytest.fixture
def model() -> Model:
    return Model("small", [0, 0])


def ship(bucket: MemoryBucket, model: Model) -> Run:
    run = Run(bucket, model)
    for _ in run.steps():
        pass
    return run


def later(bucket: MemoryBucket, days: int) -> None:
    bucket.now += days * DAY
    bucket.write("watch/hub.json", b"{}")


def whole(store: Store, run: Run) -> list[bool]:
    return [store.find(ref.kind, ref.fingerprint) is not None for ref in run.found]


def test_what_is_shipped_stays_and_what_it_took_the_place_of_goes(bucket: MemoryBucket, model: Model) -> None:
    first = ship(bucket, model)
    later(bucket, 30)
    model.change(0)
    second = ship(bucket, model)
    later(bucket, 30)
    report = sweep(bucket.store(), 14 * DAY)
    assert [one.kind for one in report.swept.gone if one.kind is Kind.CHECKPOINT] == [Kind.CHECKPOINT] * 2
    assert {one.why for one in report.swept.fates if not one.goes and one.why} == {
        f"shipped as {second.shipped.reference}"
    }
    assert whole(bucket.store(), second) == [True] * 6
    assert whole(bucket.store(), first) == [False] * 6
    assert bucket.blob_bytes < 2 * 1000 + 2 * 500 + 1000


def test_a_record_of_an_earlier_version_keeps_what_may_be_its(bucket: MemoryBucket, model: Model) -> None:
    """It does not say what it was made from: checkpoints are known by their source, and what is small stays."""
    other = ship(bucket, Model("other", [5]))
    run = ship(bucket, model)
    for one in (other, run):
        records.write_shipped(bucket.store(), one.shipped.model_copy(update={"artifacts": ()}))
    bucket.delete(next(key for key in bucket.store().keys("watch/shipped") if b"org/other" in bucket.content[key]))
    later(bucket, 60)
    sweep(bucket.store(), 14 * DAY)
    assert whole(bucket.store(), run) == [True] * 6
    assert whole(bucket.store(), other) == [False, False, True, True, True, True]


def test_a_record_that_cannot_be_read_ends_the_sweep(bucket: MemoryBucket, model: Model) -> None:
    ship(bucket, model)
    (key,) = bucket.store().keys("watch/shipped")
    bucket.write(key, b'{"artifacts": "of another version"}')
    with pytest.raises(BadInput, match=key):
        sweep(bucket.store(), 14 * DAY)


def test_a_pin_by_reference_keeps_all_of_it(bucket: MemoryBucket, model: Model) -> None:
    """Also when something else was shipped in its place."""
    first = ship(bucket, model)
    store = bucket.store()
    made = pins.pin(store, f"registry.example.com/small:{first.shipped.tags[0]}")
    assert (made.name, made.artifacts) == (first.shipped.reference, first.shipped.artifacts)
    model.change(1)
    ship(bucket, model)
    later(bucket, 60)
    sweep(bucket.store(), 14 * DAY)
    assert whole(bucket.store(), first) == [True] * 6
    assert {Roots(store)(one) for one in store.manifests(Kind.CARD)} == {
        "pinned",
        f"shipped as {ship(bucket, model).shipped.reference}",
    }
    pins.unpin(store, str(first.shipped.digest))
    later(bucket, 60)
    sweep(bucket.store(), 14 * DAY)
    assert whole(bucket.store(), first) == [False] * 6


def test_a_whole_name_is_that_pin_alone(bucket: MemoryBucket, model: Model) -> None:
    """Also where it is part of another's: of the same image in a mirror, say."""
    store = bucket.store()
    made = pins.pin(store, ship(bucket, model).found[0].fingerprint)
    mirrored = made.model_copy(update={"name": f"mirror/{made.name}"})
    store.write_key(pins._key(mirrored.name), mirrored.model_dump_json().encode())
    with pytest.raises(BadInput, match="2 pins are called"):
        pins.unpin(store, made.name[:12])
    assert pins.unpin(store, made.name) == made
    assert pins.pins(store) == [mirrored]


def test_what_is_not_whole_is_not_pinned(bucket: MemoryBucket, model: Model) -> None:
    run = ship(bucket, model)
    entry = bucket.store().load(run.found[0]).files[0]
    bucket.delete(f"blobs/sha256/{entry.sha256.hex}")
    with pytest.raises(BadInput, match="is not whole"):
        pins.pin(bucket.store(), run.found[0].fingerprint)
    assert pins.pins(bucket.store()) == []


def test_a_pin_whose_blob_has_gone_is_said_and_ends_nothing(bucket: MemoryBucket, model: Model) -> None:
    run = ship(bucket, model)
    pins.pin(bucket.store(), run.found[0].fingerprint)
    entry = bucket.store().load(run.found[0]).files[0]
    bucket.delete(f"blobs/sha256/{entry.sha256.hex}")
    (note,) = sweep(bucket.store(), 14 * DAY).notes
    assert note.startswith(f"pinned, and not whole any more: the checkpoint {run.found[0].fingerprint[:12]}")


def test_a_shipment_of_an_earlier_version_cannot_be_pinned_by_reference(bucket: MemoryBucket, model: Model) -> None:
    record = ship_record(model, "c" * 40, Digest.of(b"image"), ())
    records.write_shipped(bucket.store(), record)
    with pytest.raises(BadInput, match="an earlier version shipped"):
        pins.pin(bucket.store(), record.reference)


def test_the_table_says_what_and_why(bucket: MemoryBucket) -> None:
    """Shards stand in one line; JSON has them all."""
    store = bucket.store()
    for number in range(3):
        content = f"{number}".encode()
        entry = FileEntry(path="a", size=1, sha256=store.put_bytes(content))
        store.commit(Manifest(kind=Kind.GROUP, fingerprint=f"{number}" * 64, files=(entry,)))
    store.put_bytes(b"orphan")
    later(bucket, 30)
    report = sweep(bucket.store(), 14 * DAY, dry_run=True)
    assert report.rows() == [
        ("would go", "3 shards", "30 d", "3 B", "0 B", "no checkpoint holds it", ""),
        ("would go", "1 blobs", "", "6 B", "0 B", "no artifact names them", ""),
    ]
    assert report.headline == "3 artifact(s) and 1 blob(s) of no artifact (9 B) of the store; 0 B stay"
    assert len(report.document()["artifacts"]) == 3
    assert bucket.blob_bytes == 9
    note = sweep(bucket.store(), 30 * 14 * DAY, keep_gb=0, dry_run=True).notes
    assert note == ("6 B stay, which is more than --keep-gb: it is needed, in use, or too young",)
