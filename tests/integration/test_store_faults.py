"""S3 as it is: answers that are cut short, addresses where no S3 is, buckets in host names, makers at one moment."""

from __future__ import annotations

import os
import socket
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import boto3
import httpx
import pytest

from containers.contract import Kind, StoreLocation
from containers.errors import BadInput, Temporary
from containers.settings import SourceSettings, StoreSettings
from containers.store import FileEntry, Manifest, Store
from containers.store.client import Bucket
from containers.store.source import SourceBucket
from tests.support.s3_servers import HOST

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.integration


@pytest.fixture
def served(s3_server: str, s3_servers: Callable[[str], StoreSettings]) -> StoreSettings:
    return s3_servers(s3_server)


def connect(settings: StoreSettings) -> Store:
    return Store.open(settings.location, settings)


def manifest(store: Store, content: bytes) -> Manifest:
    entry = FileEntry(path="x", size=len(content), sha256=store.put_bytes(content))
    return Manifest(kind=Kind.CHECKPOINT, fingerprint="0" * 64, files=(entry,))


@contextmanager
def web(answer: Callable[[BaseHTTPRequestHandler], None]) -> Iterator[str]:
    """A web server that answers to every GET, HEAD and PUT as it is told to; yields its URL."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            answer(self)

        def do_HEAD(self) -> None:
            answer(self)

        def do_PUT(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            answer(self)

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


class Cutting:
    """In front of a server: the answers to the next `cuts` reads of a key end in the middle."""

    def __init__(self, behind: str | None) -> None:
        self.behind, self.cuts, self.seen = behind, 0, 0

    def __call__(self, request: BaseHTTPRequestHandler) -> None:
        found = httpx.request(request.command, f"{self.behind}{request.path}", headers=dict(request.headers))
        request.send_response(found.status_code)
        for name, value in found.headers.items():
            if name.lower() not in {"connection", "transfer-encoding", "content-length"}:
                request.send_header(name, value)
        request.send_header("Content-Length", found.headers.get("Content-Length") or str(len(found.content)))
        request.end_headers()
        content = found.content
        if self.cuts and request.command == "GET" and "list-type" not in request.path and len(content) > 1:
            self.cuts -= 1
            self.seen += 1
            content = content[: len(content) // 2]
        request.wfile.write(content)


@pytest.mark.every_s3
def test_a_small_answer_that_is_cut_short_is_asked_for_again(served: StoreSettings) -> None:
    """A manifest is read whole, or not at all."""
    store = connect(served)
    made = manifest(store, b"content")
    ref = store.commit(made)
    cutting = Cutting(served.endpoint)
    with web(cutting) as url:
        behind = served.model_copy(update={"endpoint": url})
        cutting.cuts = 3
        assert connect(behind).load(ref) == made
        assert cutting.seen == 3
        cutting.cuts = 99
        with pytest.raises(Temporary, match="does not answer"):
            connect(behind).load(ref)
        with pytest.raises(Temporary, match="does not answer"):
            connect(behind).read_bytes(made.files[0].sha256)


@pytest.mark.every_s3
def test_a_source_that_is_cut_short_is_temporary(served: StoreSettings) -> None:
    """Never a short file."""
    connect(served)
    Bucket(served.location, served).write("models/file", os.urandom(1000))
    cutting = Cutting(served.endpoint)
    keys = {"access_key_id": served.access_key_id, "secret_access_key": served.secret_access_key}
    with web(cutting) as url:
        source = SourceBucket(served.bucket, "models", SourceSettings(endpoint=url, **keys))
        (found,) = source.listing()
        cutting.cuts = 1
        with pytest.raises(Temporary), source.read(found.path, found.etag, 0, 1000) as (_, pieces):
            list(pieces)
        assert cutting.seen == 1


@pytest.mark.every_s3
def test_a_part_of_a_source(served: StoreSettings) -> None:
    """From where it was asked for, on every server."""
    connect(served)
    content = os.urandom(1000)
    Bucket(served.location, served).write("models/file", content)
    keys = {"access_key_id": served.access_key_id, "secret_access_key": served.secret_access_key}
    source = SourceBucket(served.bucket, "models", SourceSettings(endpoint=served.endpoint, **keys))
    (found,) = source.listing()
    with source.read(found.path, found.etag, 300, 700) as (start, pieces):
        assert start == 300
        assert b"".join(pieces) == content[300:700]


def says(status: int, kind: str, text: str) -> Callable[[BaseHTTPRequestHandler], None]:
    def answer(request: BaseHTTPRequestHandler) -> None:
        request.send_response(status)
        request.send_header("Content-Type", kind)
        request.send_header("Content-Length", str(len(text)))
        request.end_headers()
        if request.command != "HEAD":
            request.wfile.write(text.encode())

    return answer


@pytest.mark.parametrize(
    "page",
    [
        (404, "text/plain", "404 page not found"),
        (404, "application/json", '{"errors": [{"code": "NOT_FOUND"}]}'),
        (200, "text/html", "<!doctype html><html><head></head><body>Welcome</body></html>"),
        (200, "text/html", "<html><br></html>"),
        (200, "text/plain", ""),
        (401, "text/plain", "log in"),
    ],
)
def test_what_is_no_s3_is_said(page: tuple[int, str, str]) -> None:
    """A registry, a web page (also one that could be taken for an empty bucket), a login: for the store and for sources."""
    keys = {"access_key_id": "a", "secret_access_key": "b"}
    with web(says(*page)) as url:
        settings = StoreSettings(endpoint=url, **keys)  # type: ignore[arg-type]
        with pytest.raises(BadInput, match="no S3 answers at this address") as caught:
            connect(settings)
        assert "CARWRIGHT_STORE__ENDPOINT" in caught.value.remedy
        source = SourceBucket("bucket", "", SourceSettings(endpoint=url, **keys))  # type: ignore[arg-type]
        with pytest.raises(BadInput, match="no S3 answers at this address") as caught:
            list(source.listing())
        assert "CARWRIGHT_SOURCE__ENDPOINT" in caught.value.remedy


@pytest.mark.parametrize(
    "ask",
    [
        lambda bucket: bucket.size("key"),
        lambda bucket: bucket.look("key"),
        lambda bucket: bucket.read("key"),
        lambda bucket: bucket.write("key", b"content"),
        lambda bucket: bucket.write_new("key", b"content"),
        lambda bucket: bucket.part("key", "upload", 1, b"content"),
    ],
)
def test_a_page_in_the_store_s_place_is_no_success(ask: Callable[[Bucket], object]) -> None:
    """As a portal or a proxy sends it while a run goes on: nothing was written, and it is tried again."""
    page = "<!doctype html><html><head></head><body>Please log in</body></html>"
    with web(says(200, "text/html; charset=utf-8", page)) as url:
        settings = StoreSettings(endpoint=url, access_key_id="a", secret_access_key="b")  # type: ignore[arg-type]
        # botocore itself makes a 500 of a write whose answer is no XML of S3's.
        with pytest.raises(Temporary, match=r"a web page answers in the store's place|\(500\)"):
            ask(Bucket(settings.location, settings))


def test_a_gateway_whose_server_is_away_is_temporary() -> None:
    """Its page has no word of S3, either."""
    settings = StoreSettings(access_key_id="a", secret_access_key="b")  # type: ignore[arg-type]
    with web(says(404, "text/plain", "x")) as url, pytest.raises(BadInput):
        connect(settings.model_copy(update={"endpoint": url}))
    with web(says(502, "text/html", "<html>Bad Gateway</html>")) as url, pytest.raises(Temporary):
        connect(settings.model_copy(update={"endpoint": url}))


@pytest.fixture
def _host_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """All below HOST are this machine, as a wildcard in DNS has it."""
    look_up = socket.getaddrinfo

    def here(host: Any, *rest: Any, **options: Any) -> Any:
        return look_up("127.0.0.1" if str(host).endswith(HOST) else host, *rest, **options)

    monkeypatch.setattr(socket, "getaddrinfo", here)


@pytest.mark.usefixtures("_host_names")
def test_buckets_in_host_names(s3_servers: Callable[[str], StoreSettings]) -> None:
    """As a setting of the store and of sources; links name the host, too."""
    plain = s3_servers("seaweedfs")
    assert plain.endpoint is not None
    endpoint = plain.endpoint.replace("127.0.0.1", HOST)
    settings = plain.model_copy(update={"endpoint": endpoint, "addressing": "virtual"})
    store = connect(settings)
    entry = FileEntry(path="x", size=7, sha256=store.put_bytes(b"content"))
    assert store.read_bytes(entry.sha256) == b"content"
    assert store.link(entry).startswith(f"http://{plain.bucket}.{HOST}:")
    assert connect(plain).read_bytes(entry.sha256) == b"content"
    keys = {"access_key_id": plain.access_key_id, "secret_access_key": plain.secret_access_key}
    source = SourceSettings(endpoint=endpoint, addressing="virtual", **keys)
    assert [found.path for found in SourceBucket(plain.bucket, "blobs/sha256", source).listing()] == [entry.sha256.hex]


def test_a_public_bucket_without_keys(
    s3_servers: Callable[[str], StoreSettings], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error names the setting with which it is read."""
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
    monkeypatch.setenv("AWS_CONFIG_FILE", os.devnull)
    served = s3_servers("moto")
    connect(served)
    owner = boto3.client("s3", endpoint_url=served.endpoint, aws_access_key_id="a", aws_secret_access_key="b")
    owner.put_object(Bucket=served.bucket, Key="models/file", Body=b"content", ACL="public-read")
    closed = SourceBucket(served.bucket, "models", SourceSettings(endpoint=served.endpoint))
    with pytest.raises(BadInput, match="credentials") as caught:
        list(closed.listing())
    assert "CARWRIGHT_SOURCE__UNSIGNED=true" in caught.value.remedy
    public = SourceBucket(served.bucket, "models", SourceSettings(endpoint=served.endpoint, unsigned=True))
    (found,) = public.listing()
    with public.read(found.path, found.etag, 0, 7) as (start, pieces):
        assert start == 0
        assert b"".join(pieces) == b"content"


@pytest.mark.every_s3
def test_conditional_writes(served: StoreSettings, s3_server: str) -> None:
    """SeaweedFS and moto keep what is there; rclone knows no conditions."""
    connect(served)
    bucket = Bucket(served.location, served)
    assert bucket.write_new("results/x", b"first")
    known = s3_server != "rclone"
    assert bucket.write_new("results/x", b"second") != known
    assert bucket.read("results/x") == (b"first" if known else b"second")


@pytest.mark.every_s3
def test_two_makers_at_one_moment(served: StoreSettings, s3_server: str) -> None:
    """Both get the reference of the one artifact that is there, on a server with conditional writes; else the late one counts."""
    one, other = connect(served), connect(served)
    theirs = manifest(other, b"theirs")

    class Between(Bucket):
        """Somebody is faster after this one has looked."""

        def write_new(self, key: str, content: bytes) -> bool:
            other.commit(theirs)
            return super().write_new(key, content)

    slow = Store(Between(StoreLocation(endpoint=served.endpoint, bucket=served.bucket), served))
    ours = manifest(one, b"ours")
    known = s3_server != "rclone"
    ref = slow.commit(ours)
    assert ref == (theirs.ref if known else ours.ref)
    assert one.load(ref).digest == ref.digest
    if not known:
        with pytest.raises(BadInput, match="made again since"):
            one.load(theirs.ref)
