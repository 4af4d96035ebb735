"""What the step needs of a source, and the three kinds there are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from containers.digest import Digest, canonical_json
from containers.sources import FolderSource, HubSource

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path

    from containers.download.selection import Remote
    from containers.settings import StepSettings
    from containers.sources import Source


class FileOrigin(Protocol):
    """A place with files. Methods raise BadInput for what the user can fix, and Temporary."""

    @property
    def believed(self) -> bool:
        """Whether a commit that it names stands for the same bytes everywhere."""

    def commit(self) -> str | None:
        """The commit that the source's revision names now; None where there are no commits."""

    def files(self, commit: str | None) -> list[Remote]:
        """All files, of this commit where there are commits. Also checks that they may be read."""

    def open(self, file: Remote, start: int, stop: int) -> AbstractContextManager[tuple[int, Iterator[bytes]]]:
        """The bytes from `start` up to, not including, `stop` (which is more), as pieces, and where they really start:
        at 0 when the source cannot start elsewhere.
        """

    def held(self, file: Remote) -> AbstractContextManager[Path] | None:
        """The file itself, where it lies on this machine already, under a name that is good within the block."""


def open_origin(source: Source, settings: StepSettings, say: Callable[[str], object]) -> FileOrigin:
    """The place that a source names; `say` reports long waits."""
    # Late imports: a step pays for the client that it uses.
    if isinstance(source, HubSource):
        from containers.download.hub import HubOrigin

        return HubOrigin(source, settings, say)
    if isinstance(source, FolderSource):
        from containers.download.folder import FolderOrigin

        return FolderOrigin(source)
    from containers.download.bucket import BucketOrigin

    return BucketOrigin(source, settings.source)


def listing_digest(files: Iterable[Remote]) -> Digest:
    """What pins a source without commits that can be believed: sha256 of canonical JSON of `[[path, size, mark], ...]`,
    sorted by path. Of a file on a hub, which has no mark, the digest stands for it that its bytes are held against.
    """
    listed = (
        (file, file.mark or file.git or (str(file.sha256) if file.sha256 else "")) for file in sorted(files, key=_path)
    )
    return Digest.of(canonical_json([[file.path, file.size, mark] for file, mark in listed]))


def _path(file: Remote) -> str:
    return file.path
