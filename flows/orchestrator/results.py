"""Prefect's results in the artifact store, as JSON beside the artifacts.

A block of our own and not prefect-aws's: it holds no credentials that would end in Prefect's database, and the store's
client stays the only one that speaks S3.
"""

from __future__ import annotations

from typing import ClassVar

from prefect.filesystems import WritableFileSystem
from prefect.utilities.asyncutils import sync_compatible

from flows.runtime import current

BLOCK_NAME = "carwright-results"
STORAGE = f"carwright-results/{BLOCK_NAME}"  # type and name: what a deployed flow loads, where this module is imported


class StoreResults(WritableFileSystem):
    """Reads and writes under `results/` of the store that the run uses."""

    _block_type_name: ClassVar[str] = "Carwright results"
    _description: ClassVar[str] = "Task results as JSON in the artifact store of the run."

    @sync_compatible
    async def read_path(self, path: str) -> bytes:
        """Raises ValueError when there is nothing, which Prefect takes for a cache miss."""
        key = f"results/{path}"
        store = current().store
        if not store.has_key(key):
            raise ValueError(f"no result at {key}")
        return store.read_key(key)

    @sync_compatible
    async def write_path(self, path: str, content: bytes) -> None:
        current().store.write_key(f"results/{path}", content)


def result_storage() -> StoreResults:
    """The block, registered with the Prefect server in use (Prefect refuses one that is not)."""
    block = StoreResults()
    block.save(BLOCK_NAME, overwrite=True)
    return block
