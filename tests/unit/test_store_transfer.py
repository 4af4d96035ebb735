"""Part sizes, connections that break, and sources that are not what they were announced as; no server needed."""

from __future__ import annotations

import io
from typing import Any

import pytest
from botocore.exceptions import EndpointConnectionError, ResponseStreamingError
from hypothesis import given
from hypothesis import strategies as st

from containers.digest import Digest
from containers.errors import BadInput, DiskFull, Temporary
from containers.sha256 import STRETCH
from containers.store import BlobReader, DamagedBlob
from containers.store.transfer import MIB, PART, download, part_size, upload


class Body:
    """An answer that breaks after `good` bytes."""

    def __init__(self, content: bytes, good: int) -> None:
        self._stream, self._good = io.BytesIO(content), good

    def read(self, size: int) -> bytes:
        if self._stream.tell() >= self._good:
            raise ResponseStreamingError(error="connection reset")
        return self._stream.read(min(size, self._good - self._stream.tell()))

    def close(self) -> None:
        pass


class Bucket:
    """The calls that a transfer makes, in memory: `breaks` are how many bytes each answer gives before it breaks."""

    name = "memory"

    def __init__(self, content: bytes = b"", breaks: list[int] | None = None) -> None:
        self.content, self.breaks = content, breaks if breaks is not None else []
        self.asked: list[int] = []
        self.stored: dict[str, bytes] = {}
        self.parts: dict[int, bytes] = {}
        self.calls: list[str] = []
        self.no_room: DiskFull | None = None
        self.deleted: list[str] = []

    def full(self, needed: int) -> DiskFull | None:
        return self.no_room

    def stream(self, key: str, start: int, stop: int) -> tuple[Body, int]:
        self.asked.append(start)
        wanted = self.content[start:stop]
        return Body(wanted, self.breaks.pop(0) if self.breaks else len(wanted)), len(self.content)

    def size(self, key: str) -> int:
        return len(self.content)

    def delete(self, key: str) -> None:
        self.deleted.append(key)

    def write(self, key: str, content: bytes) -> None:
        self.stored[key] = content

    def begin(self, key: str) -> str:
        self.calls.append("begin")
        return "upload"

    def part(self, key: str, upload_id: str, number: int, content: bytes) -> str:
        self.parts[number] = content
        return f"tag{number}"

    def complete(self, key: str, upload_id: str, tags: list[str]) -> None:
        assert tags == [f"tag{number}" for number in range(1, len(tags) + 1)]
        self.calls.append("complete")
        self.stored[key] = b"".join(self.parts[number] for number in sorted(self.parts))

    def abort(self, key: str, upload_id: str) -> None:
        self.calls.append("abort")


class Trickle(io.RawIOBase):
    """A source that gives at most 1,000,003 bytes a read, as a pipe may."""

    def __init__(self, content: bytes) -> None:
        super().__init__()
        self._stream = io.BytesIO(content)

    def read(self, size: int = -1) -> bytes:
        return self._stream.read(min(size, 1_000_003))


def reader(bucket: Any, content: bytes, offset: int = 0) -> BlobReader:
    return BlobReader(bucket, Digest.of(content), len(content), offset)


@given(st.integers(0, 5 * 2**40))
def test_part_sizes_keep_within_the_limits_of_s3(size: int) -> None:
    """At most 10,000 parts of 5 MiB to 5 GiB, up to the largest object (5 TiB): S3's multipart upload limits."""
    part = part_size(size)
    assert 5 * MIB <= part <= 5 * 1024 * MIB
    assert -(-size // part) <= 10_000
    assert part % MIB == 0


@given(st.binary(max_size=200), st.lists(st.integers(0, 60), max_size=4), st.integers(1, 70))
def test_a_broken_connection_is_taken_up_where_it_broke(content: bytes, breaks: list[int], step: int) -> None:
    """Whatever the places of up to four breaks, the bytes are the blob's, in pieces of exactly the size asked for."""
    stream = reader(Bucket(content, list(breaks)), content)
    pieces = []
    while piece := stream.read(step):
        pieces.append(piece)
    assert b"".join(pieces) == content
    assert all(len(piece) == step for piece in pieces[:-1])


def test_a_connection_that_always_breaks_is_given_up() -> None:
    content = b"x" * 100
    bucket = Bucket(content, [40] + [0] * 100)
    with pytest.raises(Temporary, match="does not answer"):
        reader(bucket, content).read()
    assert bucket.asked == [0, 40, 40, 40, 40, 40]


def test_a_server_that_went_away_is_temporary(monkeypatch: pytest.MonkeyPatch) -> None:
    bucket = Bucket(b"x" * 10)

    def gone(*_: object) -> None:
        raise EndpointConnectionError(endpoint_url="http://127.0.0.1:1")

    monkeypatch.setattr(bucket, "stream", gone)
    with pytest.raises(Temporary, match="does not answer"):
        reader(bucket, b"x" * 10).read()


@pytest.mark.parametrize("step", [1, 7, 100, -1])
def test_wrong_bytes_are_never_handed_out_whole(step: int) -> None:
    """The reader raises in place of the last bytes, whatever the steps it is read in, and takes the blob away."""
    content = b"y" * 100
    bucket = Bucket(b"y" * 99 + b"z")
    stream = reader(bucket, content)
    got: list[bytes] = []
    with pytest.raises(DamagedBlob) as caught:
        got.extend(iter(lambda: stream.read(step), b""))
    assert sum(map(len, got)) < 100
    assert caught.value.digest == Digest.of(content)
    assert str(Digest.of(content)) in str(caught.value)
    assert "make it again" in str(caught.value)
    assert bucket.deleted == [f"blobs/sha256/{Digest.of(content).hex}"]


def test_another_size_is_damage_and_destroys_nothing() -> None:
    """The caller may have the size wrong, and a blob of another size counts as missing anyway."""
    bucket = Bucket(b"y" * 90)
    with pytest.raises(DamagedBlob, match="90 bytes where 100"):
        reader(bucket, b"y" * 100).read()
    assert not bucket.deleted


@pytest.mark.parametrize("offset", [1, 50, 99])
def test_reading_from_an_offset(offset: int) -> None:
    content = bytes(range(100))
    bucket = Bucket(content, [10])
    assert reader(bucket, content, offset).read() == content[offset:]
    assert bucket.asked[0] == offset


@pytest.mark.parametrize("streams", [1, 4])
@pytest.mark.parametrize("size", [0, 1, 8 * MIB, 8 * MIB + 1, 33 * MIB + 5])
def test_pieces_of_a_download_come_in_order(size: int, streams: int) -> None:
    content = bytes(range(251)) * (size // 251 + 1)
    content = content[:size]
    bucket: Any = Bucket(content)
    assert b"".join(download(bucket, Digest.of(content), size, streams)) == content


@pytest.mark.parametrize("size", [0, 1, PART - 1, PART, PART + 1, 3 * PART + 7])
@pytest.mark.parametrize("source", [io.BytesIO, Trickle])
def test_an_upload_stores_the_bytes(size: int, source: type) -> None:
    content = (bytes(range(256)) * (size // 256 + 1))[:size]
    bucket: Any = Bucket()
    told: list[int] = []
    upload(bucket, source(content), Digest.of(content), size, told.append)
    assert bucket.stored.pop(f"blobs/sha256/{Digest.of(content).hex}") == content
    assert [len(one) for one in bucket.stored.values()] == ([size // STRETCH * 32] if size >= 2 * STRETCH else [])
    assert sum(told) == size
    assert bucket.calls == ([] if size <= PART else ["begin", "complete"])


@pytest.mark.parametrize("size", [10, PART + 10])
@pytest.mark.parametrize("change", ["other", "longer", "shorter"])
def test_other_bytes_than_announced_are_not_stored(size: int, change: str) -> None:
    content = b"x" * size
    sent, said = {
        "other": (b"y" + content[1:], "and sha256:[0-9a-f]{64} arrived"),
        "longer": (content + b"x", f"has more than {size}"),
        "shorter": (content[:-1], f"has {size - 1}"),
    }[change]
    bucket: Any = Bucket()
    with pytest.raises(BadInput, match=f"{said}; nothing was stored"):
        upload(bucket, io.BytesIO(sent), Digest.of(content), size)
    assert not bucket.stored
    assert bucket.calls == ([] if size <= PART else ["begin", "abort"])


def test_a_source_that_fails_aborts_the_upload() -> None:
    class Breaks(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            if self.tell() >= PART:
                raise OSError(5, "Input/output error", "disk")
            return super().read(size)

    bucket: Any = Bucket()
    with pytest.raises(OSError, match="Input/output"):
        upload(bucket, Breaks(b"x" * 3 * PART), Digest.of(b"x" * 3 * PART), 3 * PART)
    assert bucket.calls == ["begin", "abort"]
    assert not bucket.stored


def test_a_full_disk_is_said_before_a_byte_is_read() -> None:
    bucket: Any = Bucket()
    bucket.no_room = DiskFull("no room")
    source = io.BytesIO(b"x" * 10)
    with pytest.raises(DiskFull):
        upload(bucket, source, Digest.of(b"x" * 10), 10)
    assert source.tell() == 0
