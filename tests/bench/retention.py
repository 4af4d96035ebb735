"""`python -m tests.bench.retention`: the size of a store over weeks of nightly rebuilds, swept every night and never.

Two models of 20 and 40 shards. Every night one of them has new commits, in which a third of its shards changes, and both are
run; every fourth night the run of the changed one is killed half way. All steps use the real store, on a bucket in memory.
"""

from __future__ import annotations

from datetime import timedelta
from itertools import islice
from typing import TYPE_CHECKING

from containers.store.sweep import Sweep
from flows.retention.roots import Roots
from tests.support.memory_bucket import MemoryBucket
from tests.support.nightly import Model, Run

if TYPE_CHECKING:
    from containers.contract import ArtifactRef

NIGHTS = 21


def needed(bucket: MemoryBucket, shipped: dict[str, tuple[ArtifactRef, ...]]) -> int:
    """Bytes of what the last shipped digests were made from; asserts that all of it is there."""
    blobs = {}
    for refs in shipped.values():
        for ref in refs:
            manifest = bucket.store().load(ref)
            blobs |= {entry.sha256.hex: entry.size for entry in manifest.files}
    assert all(f"blobs/sha256/{digest}" in bucket.content for digest in blobs)
    return sum(blobs.values())


def nights(older: timedelta | None) -> list[tuple[int, int, int]]:
    """For each night: bytes of blobs after the runs, after the sweep, and of what is needed."""
    bucket = MemoryBucket()
    models = [Model("small", [0] * 20), Model("large", [0] * 40)]
    shipped: dict[str, tuple[ArtifactRef, ...]] = {}
    sizes = []
    for night in range(NIGHTS):
        changed = models[night % 2]
        for shard in range(0, len(changed.shards), 3):
            changed.change(shard + night % 3)
        for model in models:
            run = Run(bucket, model)
            steps = islice(run.steps(), 30) if night % 4 == 3 and model is changed else run.steps()
            for _ in steps:
                bucket.now += timedelta(minutes=1)
            if run.shipped is not None:
                shipped[model.name] = run.shipped.artifacts
        before = bucket.blob_bytes
        if older is not None:
            store = bucket.store()
            Sweep(bucket, lambda store=store: Roots(store), older=older, clock=bucket.seconds, sleep=bucket.sleep).run(
                delete=True
            )
        sizes.append((before, bucket.blob_bytes, needed(bucket, shipped)))
        bucket.now += timedelta(hours=20)
    return sizes


def main() -> None:
    never, three, seven = nights(None), nights(timedelta(days=3)), nights(timedelta(days=7))
    print("| night | never swept | `--older 3d` | `--older 7d` | needed |")
    print("|---|---|---|---|---|")
    for night in range(NIGHTS):
        cells = (never[night][1], three[night][1], seven[night][1], never[night][2])
        print(f"| {night + 1} | " + " | ".join(f"{size / 1000:.0f}" for size in cells) + " |")


if __name__ == "__main__":
    main()
