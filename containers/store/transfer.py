"""Moves one blob between the bucket and a stream: bounded memory, hashed on the way, resumed when a connection breaks.

Sizes, chosen with `python -m tests.bench.store`: what fits into one part goes up as one PUT, anything larger as a
multipart upload whose parts are read once, in order. Both are atomic on S3 and on `rclone serve s3` (1.75 and later,
which streams parts that arrive in order into one temporary file; before, it kept a whole upload in memory). A PUT of
a stream was the other choice: it can only be repeated from its start, S3 ends it at 5 GB, and a digest that turns
out wrong at the last byte could be refused only by breaking the connection.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from http.client import HTTPException
from typing import TYPE_CHECKING, Any, BinaryIO, Final

from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError, IncompleteReadError
from urllib3.exceptions import HTTPError

from containers.digest import Digest
from containers.errors import BadInput, Error, Temporary
from containers.sha256 import Sha256
from containers.store.failures import DamagedBlob, code, is_missing, translate, unreachable
from containers.store.folder import FolderBucket
from containers.store.midstates import write_midstates

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from containers.store.client import Bucket
    from containers.streams import Stream

MIB: Final = 1 << 20
PART: Final = 16 * MIB
_MOST_PARTS: Final = 10_000  # S3 API, "Multipart upload limits"
_UPLOADS: Final = 2  # parts on the wire; rclone writes them in order and holds the one that came early
_RANGE: Final = 8 * MIB
_RESUMES: Final = 5  # broken connections in a row that brought no byte

_BROKEN: Final = (HTTPClientError, IncompleteReadError, HTTPError, HTTPException, ConnectionError, TimeoutError)


def key_of(digest: Digest) -> str:
    return f"blobs/sha256/{digest.hex}"


def part_size(size: int) -> int:
    """Bytes a part of an upload of `size` bytes: whole MiB, never more than 10,000 parts."""
    return max(PART, -(-size // (_MOST_PARTS * MIB)) * MIB)


def upload(
    bucket: Bucket, stream: Stream, digest: Digest, size: int, on_bytes: Callable[[int], None] | None = None
) -> None:
    """Store exactly `size` bytes of `stream` under their digest.

    The digest is known to be right before anything is there under the key: raises BadInput for other bytes, and then,
    as after any other failure, nothing is stored. Raises DiskFull before a byte is sent where that can be known.
    """
    if full := bucket.full(size):
        raise full
    key, step = key_of(digest), part_size(size)
    hashed = Sha256()
    if size <= step:
        content = _exactly(stream, size)
        hashed.update(content)
        _check(hashed, stream, digest, size)
        bucket.write(key, content)
        write_midstates(bucket, digest, hashed.midstates)
        if on_bytes is not None and content:
            on_bytes(size)
        return

    def pieces() -> Iterator[bytes]:
        left = size
        while left and (piece := _exactly(stream, min(step, left))):
            left -= len(piece)
            yield piece
            hashed.update(piece)  # while the piece is on the wire

    if isinstance(bucket, FolderBucket):
        with bucket.writing(key) as file:
            _write(file, pieces(), on_bytes)
            _check(hashed, stream, digest, size)
        write_midstates(bucket, digest, hashed.midstates)
        return

    number = bucket.begin(key)
    tags: list[str] | None = None
    try:
        tags = _send(lambda at, piece: bucket.part(key, number, at, piece), pieces(), on_bytes)
        _check(hashed, stream, digest, size)
        bucket.complete(key, number, tags)
        write_midstates(bucket, digest, hashed.midstates)
    except BaseException as error:
        with contextlib.suppress(Error):
            bucket.abort(key, number)
        if isinstance(error, Temporary) and tags is not None and bucket.size(key) == size:
            return  # somebody else stored the same blob at the same moment, which rclone answers with an error
        if isinstance(error, Temporary) and (full := bucket.full(size)):
            raise full from error
        raise


def _write(file: BinaryIO, pieces: Iterator[bytes], on_bytes: Callable[[int], None] | None) -> None:
    """Write pieces one after the other."""
    for piece in pieces:
        file.write(piece)
        if on_bytes is not None:
            on_bytes(len(piece))


def _send(
    part: Callable[[int, bytes], str], pieces: Iterator[bytes], on_bytes: Callable[[int], None] | None
) -> list[str]:
    """Send pieces as parts 1, 2, ..., a few at once; returns their ETags in order."""
    tags: list[str] = []
    waiting: deque[tuple[int, Future[str]]] = deque()

    def collect() -> None:
        length, future = waiting.popleft()
        tags.append(future.result())
        if on_bytes is not None:
            on_bytes(length)

    with ThreadPoolExecutor(_UPLOADS, thread_name_prefix="store-upload") as pool:
        try:
            for piece in pieces:
                if len(waiting) == _UPLOADS:
                    collect()
                waiting.append((len(piece), pool.submit(part, len(tags) + len(waiting) + 1, piece)))
            while waiting:
                collect()
        finally:
            for _, future in waiting:
                future.cancel()
    return tags


def _exactly(stream: Stream, size: int) -> bytes:
    """`size` bytes, or fewer at the end of the stream; pipes and sockets give less than was asked for."""
    first = stream.read(size) if size else b""
    if len(first) == size or not first:
        return first
    pieces, got = [first], len(first)
    while got < size and (piece := stream.read(size - got)):
        pieces.append(piece)
        got += len(piece)
    return b"".join(pieces)


def _check(hashed: Sha256, stream: Stream, digest: Digest, size: int) -> None:
    if hashed.size != size or stream.read(1):
        amount = f"{hashed.size}" if hashed.size != size else f"more than {size}"
        raise BadInput(
            f"blob {digest} was announced with {size} bytes and has {amount}; nothing was stored",
            remedy="the source changed while it was read, or its size was wrong; run it again",
        )
    if (found := hashed.digest()) != digest:
        raise BadInput(
            f"blob {digest} was announced and {found} arrived; nothing was stored",
            remedy="the source changed or was damaged; fetch it again",
        )


class BlobReader(io.BufferedIOBase):
    """Reads a blob from `offset` on; `read(n)` gives n bytes unless the end comes first.

    Connections that break are taken up again where they broke. Read from the start and `checked`, the bytes are: the last
    ones are handed out only when the digest is right, and DamagedBlob is raised when it is not. Raises BadInput for a
    blob that is not there.
    """

    def __init__(
        self,
        bucket: Bucket,
        digest: Digest,
        size: int,
        offset: int = 0,
        stop: int | None = None,
        *,
        checked: bool = True,
    ) -> None:
        super().__init__()
        self._bucket, self._digest, self._size = bucket, digest, size
        self._at, self._stop = offset, size if stop is None else stop
        self._hash = hashlib.sha256() if checked and offset == 0 and self._stop == size else None
        self._body: Any = None
        if size == 0:
            self._check_empty()

    def readable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def read(self, size: int | None = -1, /) -> bytes:
        left = self._stop - self._at
        wanted = left if size is None or size < 0 else min(size, left)
        pieces: list[bytes] = []
        failures = 0
        while wanted:
            try:
                piece = self._open().read(wanted)
                if not piece:
                    raise ConnectionError("the answer ended early")
            except _BROKEN as error:
                failures += 1
                self._drop()
                if failures > _RESUMES:
                    raise unreachable(f"reading blob {self._digest}", self._bucket.name, str(error)) from error
                continue
            failures = 0
            pieces.append(piece)
            wanted -= len(piece)
            self._at += len(piece)
            if self._hash is not None:
                self._hash.update(piece)
                self._verify()
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def close(self) -> None:
        self._drop()
        super().close()

    def _open(self) -> Any:
        if self._body is None and isinstance(self._bucket, FolderBucket):
            try:
                self._body = self._bucket.open(key_of(self._digest))
            except FileNotFoundError as error:
                raise missing(self._digest, self._bucket.name) from error
            total = os.fstat(self._body.fileno()).st_size
            if total != self._size:
                self._drop()
                why = f"it has {total} bytes where {self._size} were stored"
                raise DamagedBlob(self._digest, why, self._bucket.name)
            self._body.seek(self._at)
        if self._body is None:
            try:
                self._body, total = self._bucket.stream(key_of(self._digest), self._at, self._stop)
            except (BotoCoreError, ClientError) as error:
                if isinstance(error, ClientError) and is_missing(error):
                    raise missing(self._digest, self._bucket.name) from error
                if isinstance(error, ClientError) and code(error) in {"InvalidRange", "416"}:
                    raise DamagedBlob(self._digest, "it is shorter than it should be", self._bucket.name) from error
                raise translate(error, f"reading blob {self._digest}", self._bucket.name) from error
            if total != self._size:
                why = f"it has {total} bytes where {self._size} were stored"
                raise DamagedBlob(self._digest, why, self._bucket.name)
        return self._body

    def _drop(self) -> None:
        if self._body is not None:
            self._body.close()
            self._body = None

    def _verify(self) -> None:
        if self._hash is not None and self._at == self._size:
            found = Digest(self._hash.hexdigest())
            if found != self._digest:
                raise damaged(self._bucket, self._digest, found)

    def _check_empty(self) -> None:
        """No range of an empty object can be asked for (RFC 9110, 14.1.2)."""
        found = self._bucket.size(key_of(self._digest))
        if found is None:
            raise missing(self._digest, self._bucket.name)
        if found:
            raise DamagedBlob(self._digest, f"it has {found} bytes where none were stored", self._bucket.name)
        self._verify()


def download(bucket: Bucket, digest: Digest, size: int, streams: int) -> Iterator[bytes]:
    """The pieces of a blob in order, `streams` of them on the wire at once, not yet checked against its digest."""

    def fetch(start: int) -> bytes:
        with BlobReader(bucket, digest, size, start, min(start + _RANGE, size)) as reader:
            return reader.read()

    if size <= _RANGE or streams == 1:
        with BlobReader(bucket, digest, size) as reader:
            while piece := reader.read(MIB):
                yield piece
        return
    waiting: deque[Future[bytes]] = deque()
    with ThreadPoolExecutor(streams, thread_name_prefix="store-download") as pool:
        try:
            for start in range(0, size, _RANGE):
                if len(waiting) == streams:
                    yield waiting.popleft().result()
                waiting.append(pool.submit(fetch, start))
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def missing(digest: Digest, store: str) -> BadInput:
    return BadInput(
        f"blob {digest} is not in the store ({store})", remedy="run the whole pipeline again: it makes the blob again"
    )


def damaged(bucket: Bucket, digest: Digest, found: Digest) -> DamagedBlob:
    """The error for a blob of the right size and other bytes, which is taken out of the store at once.

    Nothing else would ever notice: a look at the size takes it for whole, so no rerun would make it again.
    """
    with contextlib.suppress(Error):
        bucket.delete(key_of(digest))
    return DamagedBlob(digest, f"it holds {found}", bucket.name)
