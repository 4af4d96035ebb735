"""A Prefect block that keeps task results in the artifact store, as JSON beside the artifacts.

Unlike the block of prefect-aws it puts no credentials into Prefect's database, and the store's client remains the only S3
client.
"""

from __future__ import annotations

from typing import ClassVar

from prefect.filesystems import WritableFileSystem
from prefect.utilities.asyncutils import sync_compatible

from flows.runtime import current

BLOCK_NAME = "carwright-results"
STORAGE = f"carwright-results/{BLOCK_NAME}"  # block type and name; a deployed flow loads it after importing this module


class StoreResults(WritableFileSystem):
    """Reads and writes under `results/` in the store of the run."""

    _block_type_name: ClassVar[str] = "Carwright results"
    _description: ClassVar[str] = "Task results as JSON in the artifact store of the run."

    @sync_compatible
    async def read_path(self, path: str) -> bytes:
        """Raises ValueError if there is no result, which Prefect treats as a cache miss."""
        key = f"results/{path}"
        store = current().store
        if not store.has_key(key):
            raise ValueError(f"no result at {key}")
        return store.read_key(key)

    @sync_compatible
    async def write_path(self, path: str, content: bytes) -> None:
        current().store.write_key(f"results/{path}", content)


def result_storage() -> StoreResults:
    """The block, registered with the Prefect server; Prefect refuses an unregistered one."""
    block = StoreResults()
    block.save(BLOCK_NAME, overwrite=True)
    return block
