"""The midstates of large blobs (`containers.sha256`), each beside its blob: `midstates/sha256/<hex>`.

Nothing needs them: without them, or with wrong ones, a blob is checked in one pass. So nobody counts on them, nothing waits
for them, and a sweep takes them once no artifact names their blob.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Final

from containers.errors import Error
from containers.sha256 import Verification, useful

if TYPE_CHECKING:
    from containers.digest import Digest
    from containers.store.client import Bucket

MIDSTATES: Final = "midstates/sha256/"


def read_midstates(bucket: Bucket, digest: Digest, size: int) -> bytes:
    """Empty without any."""
    if not useful(size):
        return b""
    with suppress(Error):
        return bucket.read(MIDSTATES + digest.hex) or b""
    return b""


def write_midstates(bucket: Bucket, digest: Digest, midstates: bytes) -> None:
    if midstates:
        bucket.write(MIDSTATES + digest.hex, midstates)


def discard_midstates(bucket: Bucket, digest: Digest) -> None:
    with suppress(Error):
        bucket.delete(MIDSTATES + digest.hex)


def verification(bucket: Bucket, digest: Digest, size: int) -> Verification:
    """For the bytes of a blob as they come by; midstates that do not lead to the digest are not tried a second time."""
    midstates = read_midstates(bucket, digest, size)
    return Verification(digest, size, midstates, on_wrong=lambda: discard_midstates(bucket, digest))
