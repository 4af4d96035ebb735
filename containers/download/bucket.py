"""Checkpoints below a prefix of an S3 bucket."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from containers.download.selection import Remote
from containers.errors import BadInput
from containers.store.source import SourceBucket

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path

    from containers.settings import SourceSettings
    from containers.sources import BucketSource


class BucketOrigin:
    """The keys below the prefix; their ETags are the marks of the listing."""

    def __init__(self, source: BucketSource, settings: SourceSettings) -> None:
        self._source = source
        self._bucket = SourceBucket(source.bucket, source.prefix, settings)

    @property
    def believed(self) -> bool:
        return False  # it names no commits

    def commit(self) -> str | None:
        return None

    def files(self, commit: str | None) -> list[Remote]:
        found = [Remote(item.path, item.size, mark=item.etag) for item in self._bucket.listing()]
        if not found:
            raise BadInput(
                f"{self._source} is empty",
                remedy="check the bucket, the prefix, and CARWRIGHT_SOURCE__ENDPOINT",
            )
        return found

    @contextmanager
    def open(self, file: Remote, start: int, stop: int) -> Iterator[tuple[int, Iterator[bytes]]]:
        with self._bucket.read(file.path, file.mark, start, stop) as found:
            yield found

    def held(self, file: Remote) -> AbstractContextManager[Path] | None:
        return None
