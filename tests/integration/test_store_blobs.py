"""The store on S3 servers: round trips, damage, races, uploads that are killed and servers that go away.

What is marked `every_s3` runs on each of tests/support/s3_servers.py, the rest on rclone, or on what `pytest --s3` names;
tests that look into rclone's folder are for rclone alone.
"""

from __future__ import annotations

import contextlib
import io
import multiprocessing
import os
import signal
import socket
import struct
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import boto3
import pytest
from botocore.config import Config
from pydantic import SecretStr

from containers.contract import Kind, StoreLocation
from containers.digest import Digest
from containers.errors import BadInput, Temporary
from containers.settings import StoreSettings
from containers.store import DamagedBlob, FileEntry, Manifest, Store, Swept
from containers.store.client import Bucket
from containers.store.transfer import MIB, PART
from infra.objectstore import EmbeddedStore
from tests.support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.integration
FINGERPRINT = "0" * 64


def connect(settings: StoreSettings) -> Store:
    return Store.open(StoreLocation(endpoint=settings.endpoint, bucket=settings.bucket), settings)


@pytest.fixture
def served(s3_server: str, s3_servers: Any, tmp_path: Path) -> Iterator[StoreSettings]:
    if s3_server != "rclone":
        yield s3_servers(s3_server)
        return
    with EmbeddedStore(tmp_path / "store", tmp_path / "rclone.log") as settings:
        yield settings


@pytest.fixture
def embedded(served: StoreSettings) -> Path:
    """The folder of rclone's server, for what only there can be seen."""
    if served.folder is None:
        pytest.skip("looks into the folder of rclone's server")
    return served.folder


@pytest.fixture
def store(served: StoreSettings) -> Store:
    return connect(served)


def put(store: Store, path: str, content: bytes) -> FileEntry:
    return FileEntry(path=path, size=len(content), sha256=store.put_bytes(content))


def manifest(*files: FileEntry, fingerprint: str = FINGERPRINT, **metadata: Any) -> Manifest:
    return Manifest(kind=Kind.CHECKPOINT, fingerprint=fingerprint, files=files, metadata=metadata)


@pytest.fixture
def bucket(served: StoreSettings) -> Bucket:
    """The keys below the store: past every check of it, as a stranger with the keys goes."""
    return Bucket(StoreLocation(endpoint=served.endpoint, bucket=served.bucket), served)


class Slow(io.RawIOBase):
    """A source that gives its bytes in parts and then, after `limit`, none for a minute."""

    def __init__(self, content: bytes, limit: int) -> None:
        super().__init__()
        self._stream, self._limit = io.BytesIO(content), limit

    def read(self, size: int = -1) -> bytes:
        if self._stream.tell() >= self._limit:
            time.sleep(60)
        return self._stream.read(size)


def upload_for_ever(settings: StoreSettings, content: bytes, limit: int, begun: Any) -> None:
    """In a process of its own: sends parts, says so, and never ends."""
    connect(settings).put_stream(
        Slow(content, limit), digest=Digest.of(content), size=len(content), on_bytes=lambda _: begun.set()
    )


def put_same(settings: StoreSettings, path: Path, start: Any) -> None:
    start.wait()
    connect(settings).put_file(path)


@pytest.mark.every_s3
def test_blobs_and_their_ranges(store: Store, bucket: Bucket) -> None:
    """Of one part and of several, and of nothing; whole, from the middle, and damaged."""
    for size in (0, 1, PART + 5):
        content = os.urandom(size)
        digest = Digest.of(content)
        store.put_stream(io.BytesIO(content), digest=digest, size=size)
        assert store.has_blob(digest, size)
        assert not store.has_blob(digest, size + 1)
        for offset in (0, size // 2):
            with store.open_blob(digest, size=size, offset=offset) as stream:
                assert stream.read() == content[offset:]
    bucket.write(f"blobs/sha256/{digest.hex}", content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(DamagedBlob), store.open_blob(digest, size=size) as stream:
        stream.read()
    assert not store.has_blob(digest, size)


@pytest.mark.parametrize("known", [True, False], ids=["digest known", "digest unknown"])
@pytest.mark.parametrize("size", [0, 1, PART - 1, PART, PART + 1, 3 * PART + 5])
def test_round_trip(store: Store, tmp_path: Path, size: int, known: bool) -> None:
    """File to blob to file, and as a stream, and from the middle; storing it again sends nothing."""
    content = os.urandom(size)
    source = tmp_path / "source"
    source.write_bytes(content)
    told: list[int] = []
    digest = store.put_file(source, digest=Digest.of(content) if known else None, on_bytes=told.append)
    assert digest == Digest.of(content)
    assert sum(told) == size
    assert store.has_blob(digest, size)
    assert not store.has_blob(digest, size + 1)

    entry = FileEntry(path="x", size=size, sha256=digest)
    store.get_file(entry, tmp_path / "sub" / "fetched", told.append)
    assert (tmp_path / "sub" / "fetched").read_bytes() == content
    assert sum(told) == 2 * size
    with store.open_blob(digest, size=size) as stream:
        assert stream.read() == content
    with store.open_blob(digest, size=size, offset=size // 2) as stream:
        assert stream.read() == content[size // 2 :]
    assert store.put_file(source) == digest


def test_an_artifact_of_many_small_files(store: Store, tmp_path: Path) -> None:
    """Comes back below a folder, once for every name, also where two names share a blob."""
    contents = {f"sub{number % 7}/{number:03}.json": str(number // 2).encode() for number in range(120)}
    files = sorted((put(store, path, content) for path, content in contents.items()), key=lambda entry: entry.path)
    ref = store.commit(manifest(*files, source="test"))
    told: list[int] = []
    read = store.materialize(ref, tmp_path / "out", told.append)
    assert read.metadata == {"source": "test"}
    assert {
        str(path.relative_to(tmp_path / "out")): path.read_bytes()
        for path in (tmp_path / "out").rglob("*")
        if path.is_file()
    } == contents
    assert sum(told) == read.size
    assert [found.ref for found in store.manifests()] == [ref]
    assert list(store.manifests(Kind.GROUP)) == []


def test_materialize_goes_on_where_it_was_killed(store: Store, tmp_path: Path) -> None:
    """Right files are kept (same inode), wrong and missing ones fetched, half files of a killed process removed."""
    ref = store.commit(manifest(put(store, "a", b"aaa"), put(store, "b", b"bbb"), put(store, "c", b"ccc")))
    out = tmp_path / "out"
    store.materialize(ref, out)
    kept = (out / "a").stat().st_ino
    (out / "b").write_bytes(b"bbx")
    (out / "c").unlink()
    (out / ".carwright-1234.part").write_bytes(b"c")
    (out / "mine").write_bytes(b"untouched")
    store.materialize(ref, out)
    assert (out / "a").stat().st_ino == kept
    assert {path.name: path.read_bytes() for path in out.iterdir()} == {
        "a": b"aaa",
        "b": b"bbb",
        "c": b"ccc",
        "mine": b"untouched",
    }


@pytest.mark.parametrize("size", [100, 20 * MIB])
def test_tampered_bytes_are_found_and_redone(store: Store, bucket: Bucket, tmp_path: Path, size: int) -> None:
    """A flipped bit is found by every way to read, nothing wrong is left behind, and the blob can be stored again."""
    content = os.urandom(size)

    def tamper() -> FileEntry:
        entry = put(store, "x", content)
        damaged = bytearray(content)
        damaged[size // 2] ^= 1
        bucket.write(f"blobs/sha256/{entry.sha256.hex}", bytes(damaged))
        assert store.has_blob(entry.sha256, size)  # the size is right, so nobody can see it from outside
        return entry

    def stream(entry: FileEntry) -> None:
        with store.open_blob(entry.sha256, size=size) as reader:
            while reader.read(MIB):
                pass

    ways = [
        lambda entry: store.get_file(entry, tmp_path / "out" / "x"),
        lambda entry: store.materialize(store.commit(manifest(entry)), tmp_path / "out"),
        lambda entry: store.read_bytes(entry.sha256),
        stream,
    ]
    for read in ways:
        entry = tamper()
        with pytest.raises(DamagedBlob) as caught:
            read(entry)
        assert caught.value.digest == entry.sha256
        assert str(entry.sha256) in str(caught.value)
        assert [path for path in (tmp_path / "out").rglob("*") if path.is_file()] == []
        assert not store.has_blob(entry.sha256, size)
        assert store.find(Kind.CHECKPOINT, FINGERPRINT) is None
    assert store.read_bytes(put(store, "x", content).sha256) == content


@pytest.mark.every_s3
def test_a_missing_blob_is_said_by_name(store: Store, tmp_path: Path) -> None:
    for size in (0, 10):
        entry = FileEntry(path="x", size=size, sha256=Digest("d" * 64))
        assert not store.has_blob(entry.sha256, size)
        with pytest.raises(BadInput, match="d" * 64):
            store.read_bytes(entry.sha256)
        with pytest.raises(BadInput, match="d" * 64):
            store.get_file(entry, tmp_path / "x")
        with pytest.raises(BadInput, match="d" * 64), store.open_blob(entry.sha256, size=size) as stream:
            stream.read()
    assert not (tmp_path / "x").exists()


@pytest.mark.every_s3
def test_commit_refuses_what_is_not_there(store: Store) -> None:
    """Neither a missing blob nor one of another size makes an artifact."""
    here = put(store, "here", b"abc")
    absent = FileEntry(path="there", size=3, sha256=Digest("d" * 64))
    with pytest.raises(BadInput, match=r"1 of 2 blobs .* there"):
        store.commit(manifest(here, absent))
    with pytest.raises(BadInput, match="here"):
        store.commit(manifest(here.model_copy(update={"size": 4})))
    assert store.find(Kind.CHECKPOINT, FINGERPRINT) is None
    assert list(store.manifests()) == []


@pytest.mark.every_s3
def test_an_artifact_without_a_blob_is_no_hit(store: Store, bucket: Bucket) -> None:
    entry = put(store, "a", b"abc")
    ref = store.commit(manifest(entry))
    assert store.find(Kind.CHECKPOINT, FINGERPRINT) == manifest(entry)
    bucket.write(f"blobs/sha256/{entry.sha256.hex}", b"ab")
    assert store.find(Kind.CHECKPOINT, FINGERPRINT) is None
    store.discard_blob(entry.sha256)
    assert store.find(Kind.CHECKPOINT, FINGERPRINT) is None
    assert store.load(ref) == manifest(entry)


@pytest.mark.every_s3
def test_load_refuses_other_contents(store: Store) -> None:
    """A reference says which contents it means; a manifest that is absent, other or unreadable is not handed out."""
    ref = store.commit(manifest(put(store, "a", b"abc")))
    with pytest.raises(BadInput, match="not in the store"):
        store.load(ref.model_copy(update={"fingerprint": "1" * 64}))
    with pytest.raises(BadInput, match="and not"):
        store.load(ref.model_copy(update={"digest": Digest("e" * 64)}))


@pytest.mark.every_s3
def test_an_unreadable_manifest_is_made_again(store: Store, bucket: Bucket) -> None:
    made = manifest(put(store, "a", b"abc"))
    ref = store.commit(made)
    right = (bucket.read(f"artifacts/checkpoint/{FINGERPRINT}.json") or b"").decode()
    for text in ("", "{", right.replace(FINGERPRINT, "1" * 64), right.replace('"a"', '"../a"')):
        bucket.write(f"artifacts/checkpoint/{FINGERPRINT}.json", text.encode())
        with pytest.raises(BadInput, match=FINGERPRINT):
            store.load(ref)
        assert store.find(Kind.CHECKPOINT, FINGERPRINT) is None
    assert store.commit(made) == ref
    assert store.load(ref) == made


@pytest.mark.every_s3
def test_what_is_known_under_a_fingerprint_stays(store: Store) -> None:
    """A second maker with other bytes gets the first one's reference; with the same bytes it may add to the metadata."""
    first = store.commit(manifest(put(store, "a", b"first")))
    assert store.commit(manifest(put(store, "a", b"second"))) == first
    assert store.commit(manifest(put(store, "a", b"first"), more="known")) == first
    assert store.load(first).metadata == {"more": "known"}
    store.forget(first)
    assert store.find(Kind.CHECKPOINT, FINGERPRINT) is None
    second = store.commit(manifest(put(store, "a", b"second")))
    assert second.digest != first.digest


@pytest.mark.every_s3
@pytest.mark.parametrize("size", [1000, PART + 1000])
def test_a_file_that_is_not_what_was_said_is_refused(store: Store, bucket: Bucket, tmp_path: Path, size: int) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x" * size)
    wrong = Digest.of(b"y" * size)
    with pytest.raises(BadInput, match="nothing was stored"):
        store.put_file(path, digest=wrong)
    assert not store.has_blob(wrong, size)
    assert list(bucket.listing("blobs/")) == []


def test_a_file_that_is_not_there(store: Store, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="absent"):
        store.put_file(tmp_path / "absent")
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(BadInput, match="below"):
        store.get_file(put(store, "x", b"abc"), tmp_path / "file" / "below")


def test_several_processes_store_the_same_blob(served: StoreSettings, store: Store, tmp_path: Path) -> None:
    """At the same moment; whoever is last changes nothing, and the blob is whole."""
    content = os.urandom(2 * PART + 3)
    (tmp_path / "file").write_bytes(content)
    spawn = multiprocessing.get_context("spawn")
    start = spawn.Event()
    writers = [spawn.Process(target=put_same, args=(served, tmp_path / "file", start)) for _ in range(4)]
    for writer in writers:
        writer.start()
    start.set()
    for writer in writers:
        writer.join()
    assert [writer.exitcode for writer in writers] == [0] * 4
    with store.open_blob(Digest.of(content), size=len(content)) as stream:
        assert stream.read() == content


@pytest.mark.parametrize("size", [4 * PART, PART], ids=["between parts", "within one part"])
def test_a_killed_upload_leaves_nothing_and_can_be_mended(
    served: StoreSettings, embedded: Path, store: Store, tmp_path: Path, size: int
) -> None:
    """SIGKILL in the middle: no blob, nothing in a listing; storing it again works, and a new server cleans up."""
    content = os.urandom(size)
    digest = Digest.of(content)
    spawn = multiprocessing.get_context("spawn")
    begun = spawn.Event()
    if size == PART:
        kill_within_a_put(served, content)
    else:
        child = spawn.Process(target=upload_for_ever, args=(served, content, 3 * PART, begun))
        child.start()
        assert begun.wait(60)
        assert child.pid is not None
        os.kill(child.pid, signal.SIGKILL)
        child.join()
    assert not store.has_blob(digest, size)
    assert survey(store).before == 0

    path = tmp_path / "file"
    path.write_bytes(content)
    store.put_file(path, digest=digest)
    with store.open_blob(digest, size=size) as stream:
        assert stream.read() == content


def kill_within_a_put(settings: StoreSettings, content: bytes) -> None:
    """What the server sees of a client that is killed while it sends one PUT: half of the body, then a reset."""
    assert settings.access_key_id is not None
    assert settings.secret_access_key is not None
    client = boto3.client(
        "s3",
        endpoint_url=settings.endpoint,
        region_name=settings.region,
        aws_access_key_id=settings.access_key_id.get_secret_value(),
        aws_secret_access_key=settings.secret_access_key.get_secret_value(),
        config=Config(signature_version="s3v4", s3={"addressing_style": "path"}),
    )
    key = f"blobs/sha256/{Digest.of(content).hex}"
    url = urlsplit(client.generate_presigned_url("put_object", Params={"Bucket": settings.bucket, "Key": key}))

    def half_written() -> list[Path]:
        assert settings.folder is not None
        return list(settings.folder.rglob(".rclone_*"))

    with socket.create_connection((url.hostname or "", url.port or 0)) as connection:
        head = f"PUT {url.path}?{url.query} HTTP/1.1\r\nHost: {url.netloc}\r\nContent-Length: {len(content)}\r\n\r\n"
        connection.sendall(head.encode() + content[: len(content) // 2])
        until(half_written, "the server writes")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # close() resets
    until(lambda: not half_written(), "the server has noticed")


def test_a_server_that_stops_while_reading(tmp_path: Path) -> None:
    """The reader gets bytes and then Temporary, never a short blob; the file does not appear."""
    content = os.urandom(96 * MIB)
    with contextlib.ExitStack() as stack:
        served = stack.enter_context(EmbeddedStore(tmp_path / "store", tmp_path / "log"))
        store = connect(served)
        entry = put(store, "x", content)
        reader = stack.enter_context(store.open_blob(entry.sha256, size=entry.size))
        assert reader.read(MIB) == content[:MIB]

        stopped = []

        def stop(_: int) -> None:
            if not stopped:
                stopped.append(True)
                server.close()

        server = stack.pop_all()
        with pytest.raises(Temporary, match="does not answer"):
            store.get_file(entry, tmp_path / "out", stop)
        assert not list(tmp_path.glob("*.part"))
        assert not (tmp_path / "out").exists()


def test_a_server_that_stops_while_writing(tmp_path: Path) -> None:
    """The writer gets Temporary; a server that comes back shows nothing, and the same call then mends it."""
    content = os.urandom(6 * PART)
    path = tmp_path / "file"
    path.write_bytes(content)
    stack = contextlib.ExitStack()
    store = connect(stack.enter_context(EmbeddedStore(tmp_path / "store", tmp_path / "log")))
    with pytest.raises(Temporary) as caught:
        store.put_file(path, digest=Digest.of(content), on_bytes=lambda _: stack.close())
    assert "CARWRIGHT_STORE__ENDPOINT" in str(caught.value)
    with EmbeddedStore(tmp_path / "store", tmp_path / "log") as served:
        again = connect(served)
        assert not again.has_blob(Digest.of(content), len(content))
        assert list((tmp_path / "store").rglob(".rclone*")) == []
        again.put_file(path, digest=Digest.of(content))
        with again.open_blob(Digest.of(content), size=len(content)) as stream:
            assert stream.read() == content


def test_readers_see_all_of_an_artifact_or_nothing(served: StoreSettings) -> None:
    """While one thread removes and makes an artifact again and again, `find` never gives a part of it."""
    store, other = connect(served), connect(served)
    files = tuple(put(store, f"{number}", f"content {number}".encode()) for number in range(5))
    made = manifest(*files)
    seen: set[str] = set()
    enough = threading.Event()

    def write() -> None:
        while not enough.is_set():
            store.forget(store.commit(made))
            store.discard_blob(files[0].sha256)
            put(store, "0", b"content 0")

    with ThreadPoolExecutor(1) as pool:
        writing = pool.submit(write)
        while seen != {"whole", "nothing"} and not writing.done():
            found = other.find(made.kind, made.fingerprint)
            if found is not None:
                assert found == made
            seen.add("nothing" if found is None else "whole")
        enough.set()
        writing.result()


@pytest.mark.every_s3
def test_wrong_keys_are_bad_input(served: StoreSettings, s3_server: str) -> None:
    if s3_server == "moto":
        pytest.skip("moto looks at no keys")
    for changed in ({"access_key_id": SecretStr("nobody")}, {"secret_access_key": SecretStr("wrong")}):
        with pytest.raises(BadInput, match="refuses these keys") as caught:
            connect(served.model_copy(update=changed))
        for secret in (served.access_key_id, served.secret_access_key):
            assert secret is not None
            assert secret.get_secret_value() not in str(caught.value)


def test_a_bucket_name_that_s3_refuses_is_bad_input(served: StoreSettings) -> None:
    with pytest.raises(BadInput, match="BUCKET"):
        connect(served.model_copy(update={"bucket": "x"}))


def test_nobody_at_the_endpoint_is_temporary() -> None:
    """Port 9 of loopback (discard) has no listener."""
    settings = StoreSettings(access_key_id=SecretStr("a"), secret_access_key=SecretStr("b"))
    with pytest.raises(Temporary, match=r"127\.0\.0\.1:9"):
        Store.open(StoreLocation(endpoint="http://127.0.0.1:9"), settings)


@pytest.mark.every_s3
def test_prefixes_are_worlds_of_their_own(served: StoreSettings, bucket: Bucket) -> None:
    places = [StoreLocation(endpoint=served.endpoint, bucket=served.bucket, prefix=name) for name in ("", "a", "a/b/")]
    stores = [Store.open(place, served) for place in places]
    refs = [store.commit(manifest(put(store, "x", str(number).encode()))) for number, store in enumerate(stores)]
    for store, ref in zip(stores, refs, strict=True):
        assert [found.ref for found in store.manifests()] == [ref]
    assert bucket.size(f"a/b/artifacts/checkpoint/{FINGERPRINT}.json")


def survey(store: Store) -> Swept:
    """What a sweep says when it removes nothing."""
    return store.sweep(lambda: lambda manifest: "needed", older=timedelta(days=1))


def make_old(folder: Path) -> None:
    """Date everything that is in the server's folder years back."""
    for path in folder.rglob("*"):
        if path.is_file():
            os.utime(path, (1e9, 1e9))


@pytest.mark.every_s3
def test_results_are_kept_by_name(store: Store) -> None:
    """Overwritten in place; KeyError for none; names may hold what Prefect puts into them."""
    for key in ("results/flow/abc", "results/a b+c=d%2F", "results/ü"):
        assert not store.has_key(key)
        with pytest.raises(KeyError):
            store.read_key(key)
        store.write_key(key, b"1")
        store.write_key(key, b"2")
        assert store.read_key(key) == b"2"
        assert store.has_key(key)
    assert list(store.manifests()) == []
    assert survey(store).before == 0


def test_sweep_takes_what_nobody_names_and_only_on_request(
    served: StoreSettings, embedded: Path, store: Store, bucket: Bucket
) -> None:
    """Age is the server's word; claims and notices are kept there, too."""
    named, orphan = (put(store, name, name.encode()) for name in ("named", "orphan"))
    store.commit(manifest(named))
    assert survey(store).orphans == 0  # younger than a day
    make_old(embedded)
    store.write_key("watch/hub.json", b"{}")
    until(lambda: survey(store).orphans == 1, "the server sees the new dates")
    found = survey(store)
    assert (found.orphaned, found.before, found.after) == (6, 11, 5)
    assert connect(served).has_blob(orphan.sha256, 6)  # a run that counts on it
    assert survey(store).orphans == 0
    for claim in list(bucket.listing("claims/")):
        bucket.delete(claim.key)
    assert store.sweep(lambda: lambda manifest: "needed", older=timedelta(days=1), delete=True) == found
    assert not connect(served).has_blob(orphan.sha256, 6)
    assert connect(served).has_blob(named.sha256, 5)
    assert not list(bucket.listing("notices/"))


@pytest.mark.every_s3
def test_sweep_stops_at_what_it_cannot_read(served: StoreSettings, store: Store, bucket: Bucket) -> None:
    """A manifest of a newer version may name any blob: nothing is removed. Names that are no blobs' are left alone."""
    orphan = put(store, "orphan", b"orphan")
    bucket.write("blobs/sha256/README", b"not a blob")
    for key in (f"artifacts/unheard-of/{FINGERPRINT}.json", f"artifacts/group/{FINGERPRINT}.json", "artifacts/x"):
        bucket.write(key, b'{"schema_version": 2}')
        with pytest.raises(BadInput, match=key):
            store.sweep(lambda: lambda manifest: "", older=timedelta(days=1), delete=True)
        assert store.has_blob(orphan.sha256, orphan.size)
        bucket.delete(key)
    assert survey(store).before == 6


def test_find_says_when_the_keys_may_not_read(served: StoreSettings, store: Store) -> None:
    """Missing permission is not a missing artifact, which would be made again for nothing."""

    class Denied(Bucket):
        def read(self, key: str) -> bytes:
            raise BadInput(f"reading {key}: AccessDenied")

    store.commit(manifest(put(store, "a", b"abc")))
    location = StoreLocation(endpoint=served.endpoint, bucket=served.bucket)
    with pytest.raises(BadInput, match="AccessDenied"):
        Store(Denied(location, served)).find(Kind.CHECKPOINT, FINGERPRINT)
