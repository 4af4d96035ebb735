"""A registry in memory, on loopback, that fails on demand.

It follows the distribution specification where Debian's docker-registry does not: it keeps what arrived of an upload that
broke off and says so (GET on the upload), and it can serve the referrers API. What it is told to do wrong, it does wrong.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import socket
import struct
import threading
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

if TYPE_CHECKING:
    import ssl
    from collections.abc import Iterator

_ROUTE = re.compile(r"/v2/(?P<repository>.+?)/(?P<kind>blobs/uploads|blobs|manifests|tags|referrers)(?:/(?P<name>.*))?")


@dataclass
class Fault:
    """What to do instead of answering, for the next `times` requests of `method` whose path matches `path` and whose body
    is longer than `over` bytes.

    `status` answers with it, and with an error of that `code`. `reset_after` takes that many bytes of the body and cuts the
    connection. `lie` answers as if all were well, with another digest in the header or other bytes in the body. `late` does
    what was asked and answers after so many seconds.
    """

    method: str
    path: str
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    reset_after: int = -1
    lie: bool = False
    times: int = 1
    over: int = -1
    code: str = "TEST"
    late: float = 0.0


@dataclass
class RegistryDouble:
    """The state of the registry; tests read and change it while it serves.

    `challenges` are the headers of a 401 in place of the usual one, in which `{address}` stands for the registry's own.
    `referrers_api`: "empty" lists none and takes note of none, as one of the large public registries does. `locations` is put
    before the number of an upload, `links` before the parameters of a page. `immutable` lets no tag be moved. `knows_n`: with
    False a listing with a parameter `n` is not found.
    """

    address: str = ""
    auth: str = ""  # "", "basic" or "bearer"; the login is ann:secret, the refresh token is "refresh"
    challenges: tuple[str, ...] = ()
    referrers_api: bool | str = False
    locations: str = "/v2/{repository}/blobs/uploads/"
    links: str = "/v2/{repository}/tags/list"
    immutable: bool = False
    knows_n: bool = True
    faults: list[Fault] = field(default_factory=list)
    blobs: dict[tuple[str, str], bytes] = field(default_factory=dict)
    manifests: dict[tuple[str, str], tuple[str, bytes]] = field(default_factory=dict)
    tags: dict[tuple[str, str], str] = field(default_factory=dict)
    uploads: dict[str, bytearray] = field(default_factory=dict)
    requests: list[tuple[str, str]] = field(default_factory=list)
    tokens: list[dict[str, Any]] = field(default_factory=list)
    received: int = 0  # bytes of blobs
    connections: int = 0  # that are open
    opened: int = 0  # uploads; their names are not used again
    lock: threading.Lock = field(default_factory=threading.Lock)
    ended: threading.Event = field(default_factory=threading.Event)

    def fault(self, method: str, path: str, size: int) -> Fault | None:
        with self.lock:
            for one in self.faults:
                if one.times and one.method == method and re.search(one.path, path) and size > one.over:
                    one.times -= 1
                    return one
        return None


class _Cut(Exception):
    """The connection is to be cut."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    registry: RegistryDouble

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Tests read `requests` instead."""

    def handle(self) -> None:
        with self.registry.lock:
            self.registry.connections += 1
        try:
            super().handle()
        finally:
            with self.registry.lock:
                self.registry.connections -= 1

    def _serve(self) -> None:
        url = urlsplit(self.path)
        self.registry.requests.append((self.command, self.path))
        fault = self.registry.fault(self.command, self.path, int(self.headers.get("Content-Length", "0")))
        try:
            if fault is not None and fault.status:
                self._drain()
                body = {"errors": [{"code": fault.code, "message": "as told"}]}
                self._answer(fault.status, json.dumps(body).encode(), fault.headers)
                return
            if url.path == "/token":
                self._token(parse_qs(url.query))
                return
            if not self._welcome():
                return
            if url.path == "/v2/":
                self._answer(200, b"{}")
                return
            match = _ROUTE.fullmatch(url.path)
            assert match, self.path
            handler = {
                "blobs/uploads": self._upload,
                "blobs": self._blob,
                "manifests": self._manifest,
                "tags": self._tags,
                "referrers": self._referrers,
            }[match["kind"]]
            handler(match["repository"], match["name"] or "", parse_qs(url.query), fault)
        except _Cut:
            # RST instead of FIN: what a crashed proxy does
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.close_connection = True
            self.connection.close()
        except (ConnectionError, ValueError):
            self.close_connection = True

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = _serve  # noqa: N815

    def _body(self, into: bytearray, fault: Fault | None = None) -> None:
        left = int(self.headers.get("Content-Length", "0"))
        while left:
            if fault is not None and 0 <= fault.reset_after <= len(into):
                raise _Cut
            chunk = self.rfile.read(min(left, 1 << 16))
            if not chunk:
                raise ConnectionError
            into += chunk
            left -= len(chunk)
            self.registry.received += len(chunk)

    def _drain(self) -> None:
        with suppress(ConnectionError):
            self._body(bytearray())

    def _answer(
        self, status: int, body: bytes = b"", headers: dict[str, str] | list[tuple[str, str]] | None = None
    ) -> None:
        self.send_response(status)
        given = headers if isinstance(headers, list) else list((headers or {}).items())
        if not any(name == "Content-Length" for name, _ in given):
            self.send_header("Content-Length", str(len(body)))
        for name, value in given:
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _welcome(self) -> bool:
        wanted = {"basic": "Basic " + base64.b64encode(b"ann:secret").decode(), "bearer": "Bearer good", "": None}
        if wanted[self.registry.auth] in (None, self.headers.get("Authorization")):
            return True
        self._drain()
        challenge = {
            "basic": 'Basic realm="test"',
            "bearer": f'Bearer realm="http://{self.registry.address}/token",service="test",scope="repository:x:pull"',
        }[self.registry.auth]
        told = [one.format(address=self.registry.address) for one in self.registry.challenges] or [challenge]
        self._answer(401, b'{"errors":[{"code":"UNAUTHORIZED"}]}', [("WWW-Authenticate", one) for one in told])
        return False

    def _token(self, query: dict[str, list[str]]) -> None:
        body = bytearray()
        self._body(body)
        form = parse_qs(body.decode())
        login = self.headers.get("Authorization", "")
        good = login == "Basic " + base64.b64encode(b"ann:secret").decode() or form.get("refresh_token") == ["refresh"]
        self.registry.tokens.append({"method": self.command, **query, **form})
        if good:
            self._answer(200, b'{"token":"good","expires_in":60}')
        else:
            self._answer(401, b'{"errors":[{"code":"UNAUTHORIZED","message":"wrong login"}]}')

    def _upload(self, repository: str, name: str, query: dict[str, list[str]], fault: Fault | None) -> None:
        state = self.registry
        if self.command == "POST":
            mount, source = query.get("mount", [""])[0], query.get("from", [""])[0]
            if mount and (source, mount) in state.blobs:
                state.blobs[repository, mount] = state.blobs[source, mount]
                self._answer(201, headers={"Docker-Content-Digest": mount})
                return
            with state.lock:
                name = f"{state.opened}"
                state.opened += 1
            state.uploads[name] = bytearray()
            self._answer(202, headers={"Location": state.locations.format(repository=repository) + name})
            return
        if name not in state.uploads:
            self._drain()
            self._answer(404)
            return
        held = state.uploads[name]
        where = {"Location": f"/v2/{repository}/blobs/uploads/{name}"}
        if self.command == "DELETE":
            del state.uploads[name]
            self._answer(204)
            return
        if self.command == "PATCH":
            said = self.headers.get("Content-Range")
            if said and int(said.partition("-")[0]) != len(held):
                self._drain()
                self._answer(416)
                return
            self._body(held, fault)
        if self.command in ("PATCH", "GET"):
            where["Range"] = f"0-{max(len(held) - 1, 0)}"
            self._answer(202 if self.command == "PATCH" else 204, headers=where)
            return
        self._body(held, fault)
        digest = query["digest"][0]
        if digest != "sha256:" + hashlib.sha256(held).hexdigest():
            self._answer(400, b'{"errors":[{"code":"DIGEST_INVALID"}]}')
            return
        state.blobs[repository, digest] = bytes(held)
        del state.uploads[name]
        if fault is not None and fault.late:
            state.ended.wait(fault.late)
            fault = None
        self._answer(201, headers={"Docker-Content-Digest": digest if fault is None else "sha256:" + "0" * 64})

    def _blob(self, repository: str, name: str, query: dict[str, list[str]], fault: Fault | None) -> None:
        content = self.registry.blobs.get((repository, name))
        if content is None:
            self._answer(404)
            return
        if fault is not None and fault.lie:
            content = content[:-1] + bytes([content[-1] ^ 1])
        start = int(re.sub(r"\D", "", self.headers.get("Range", "0")))
        if fault is not None and fault.reset_after >= 0:
            self.send_response(206 if start else 200)
            self.send_header("Content-Length", str(len(content) - start))
            self.end_headers()
            self.wfile.write(content[start : start + fault.reset_after])
            self.wfile.flush()
            raise _Cut
        self._answer(206 if start else 200, content[start:])

    def _manifest(self, repository: str, name: str, query: dict[str, list[str]], fault: Fault | None) -> None:
        state = self.registry
        if self.command == "PUT":
            body = bytearray()
            self._body(body)
            state.received -= len(body)
            digest = "sha256:" + hashlib.sha256(body).hexdigest()
            parsed = json.loads(body)
            for blob in (*parsed.get("layers", ()), *([parsed["config"]] if "config" in parsed else [])):
                if (repository, blob["digest"]) not in state.blobs:
                    self._answer(400, b'{"errors":[{"code":"MANIFEST_BLOB_UNKNOWN"}]}')
                    return
            if state.immutable and state.tags.get((repository, name), digest) != digest:
                self._answer(400, b'{"errors":[{"code":"TAG_INVALID","message":"the tag is immutable"}]}')
                return
            state.manifests[repository, digest] = (self.headers["Content-Type"], bytes(body))
            if ":" not in name:
                state.tags[repository, name] = digest
            headers = {"Docker-Content-Digest": digest if fault is None else "sha256:" + "0" * 64}
            if "subject" in parsed and state.referrers_api is True:
                headers["OCI-Subject"] = parsed["subject"]["digest"]
            self._answer(201, headers=headers)
            return
        digest = name if ":" in name else state.tags.get((repository, name), "")
        found = state.manifests.get((repository, digest))
        if found is None:
            self._answer(404)
        elif self.command == "DELETE":
            del state.manifests[repository, digest]
            for key in [key for key, value in state.tags.items() if value == digest and key[0] == repository]:
                del state.tags[key]
            self._answer(202)
        else:
            content = found[1] if fault is None else found[1].replace(b'"schemaVersion":2', b'"schemaVersion": 2')
            self._answer(200, content, {"Content-Type": found[0], "Docker-Content-Digest": digest})

    def _tags(self, repository: str, name: str, query: dict[str, list[str]], fault: Fault | None) -> None:
        if "n" in query and not self.registry.knows_n:
            self._answer(404)
            return
        names = sorted(tag for place, tag in self.registry.tags if place == repository)
        last = query.get("last", [""])[0]
        page = [tag for tag in names if tag > last][:3]  # small pages, so that clients must follow the links
        more = bool(page) and page[-1] != names[-1]
        where = self.registry.links.format(repository=repository)
        link = {"Link": f'<{where}?last={page[-1]}>; rel="next"'} if more else {}
        self._answer(200, json.dumps({"name": repository, "tags": page}).encode(), link)

    def _referrers(self, repository: str, name: str, query: dict[str, list[str]], fault: Fault | None) -> None:
        if not self.registry.referrers_api:
            self._answer(404)
            return
        entries = []
        held = {} if self.registry.referrers_api == "empty" else self.registry.manifests
        for (place, digest), (media_type, content) in held.items():
            parsed = json.loads(content)
            if place == repository and parsed.get("subject", {}).get("digest") == name:
                entry = {"mediaType": media_type, "digest": digest, "size": len(content)}
                entries.append(entry | {"artifactType": parsed.get("artifactType", parsed["config"]["mediaType"])})
        index = {"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": entries}
        self._answer(200, json.dumps(index).encode(), {"Content-Type": "application/vnd.oci.image.index.v1+json"})


@contextmanager
def registry_double(tls: ssl.SSLContext | None = None, **options: Any) -> Iterator[RegistryDouble]:
    """Serve until the block ends."""
    state = RegistryDouble(**options)
    handler = type("Handler", (_Handler,), {"registry": state})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    state.address = f"127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield state
    finally:
        state.ended.set()
        server.shutdown()
        thread.join()
        server.server_close()
