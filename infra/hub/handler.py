"""The answers: status codes and headers as `huggingface_hub` reads them.

What it reads (huggingface_hub 2.4): utils/_http.py, `hf_raise_for_status` (X-Error-Code, X-Error-Message, codes),
`http_backoff` (Retry-After); file_download.py, `get_hf_file_metadata` (X-Repo-Commit, X-Linked-Etag, X-Linked-Size, ETag,
Content-Length, Location), `http_get` (Content-Range, 206 or 200); utils/_pagination.py (Link); hf_api.py, `ModelInfo`,
`RepoFile`, `RepoFolder`, `list_repo_refs`, `auth_check` (bodies). There are no Xet headers: files come over plain HTTP.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
import time
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING, Any, Final, cast
from urllib.parse import parse_qs, quote, unquote, urlsplit

from infra.hub.state import AnsweredRequest

if TYPE_CHECKING:
    from pathlib import Path

    from infra.hub.faults import Fault
    from infra.hub.repositories import Commit, HubFile, HubRepository
    from infra.hub.state import HubPort, HubState

_PIECE: Final = 256 << 10
_RANGE: Final = re.compile(r"bytes=(\d*)-(\d*)")
_API: Final = re.compile(
    r"/api/models/([^/]+/[^/]+)(?:/(revision|tree|refs|commits|auth-check)(?:/([^/]+)(?:/(.+))?)?)?"
)
_RESOLVE: Final = re.compile(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)")
_CACHED: Final = re.compile(r"/api/resolve-cache/models/([^/]+/[^/]+)/([0-9a-f]{40})/(.+)")
_BLOB: Final = re.compile(r"/lfs/([0-9a-f]{64})")


class _Refused(Exception):
    """An answer with an error code."""

    def __init__(self, status: int, message: str, code: str | None = None, **headers: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code
        self.headers = headers


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    server_version = "carwright-hub"
    timeout = 60

    def do_GET(self) -> None:
        self._answer()

    def do_HEAD(self) -> None:
        self._answer()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Nothing on stderr: requests are in `Hub.served`."""

    @property
    def _hub(self) -> HubState:
        return cast("HubPort", self.server).hub

    def _answer(self) -> None:
        self._status, self._sent = 0, 0
        self._fault: Fault | None = self._hub.faults.take(self.command, self.path)
        try:
            if self._fault is not None and self._fault.status is not None:
                self._refuse(_injected_refusal(self._fault.status, self._fault.retry_after))
            elif cast("HubPort", self.server).origin == "cdn":
                self._cdn()
            else:
                self._route()
        except _Refused as refused:
            self._refuse(refused)
        finally:
            self._hub.record(
                AnsweredRequest(
                    origin=cast("HubPort", self.server).origin,
                    method=self.command,
                    path=self.path,
                    status=self._status,
                    range=self.headers.get("Range"),
                    sent=self._sent,
                    authorized="Authorization" in self.headers,
                    user_agent=self.headers.get("User-Agent", ""),
                )
            )

    def _route(self) -> None:
        url = urlsplit(self.path)
        # A revision's own slashes arrive as %2F (quote(revision, safe="")): split first, then unquote.
        if match := _CACHED.fullmatch(url.path):
            repository, _, commit = self._find(match[1], match[2], files=True)
            self._content(self._file(repository, match[2], commit, unquote(match[3])), match[2])
        elif match := _API.fullmatch(url.path):
            query = {name: values[-1] for name, values in parse_qs(url.query).items()}
            self._api(match[1], match[2], unquote(match[3] or "main"), unquote(match[4] or ""), query)
        elif match := _RESOLVE.fullmatch(url.path):
            self._resolve(match[1], unquote(match[2]), unquote(match[3]))
        else:
            raise _Refused(404, "Not Found")

    def _api(self, repo_id: str, what: str | None, revision: str, below: str, query: dict[str, str]) -> None:
        if what == "refs":
            repository = self._readable(repo_id)
            listed = {
                kind: [
                    {"name": name, "ref": f"refs/{ref}/{name}", "targetCommit": commit}
                    for name, commit in names.items()
                ]
                for kind, ref, names in (
                    ("branches", "heads", repository.branches),
                    ("tags", "tags", repository.tags),
                )
            }
            self._json({**listed, "converts": [], "pullRequests": []})
        elif what == "auth-check":
            self._gate(self._readable(repo_id))
            self._json({})
        elif what == "tree":
            _, name, commit = self._find(repo_id, revision)
            self._tree(commit, name, below, query)
        elif what == "commits":
            repository, name, _ = self._find(repo_id, revision)
            self._page(_history(repository, name), query)
        else:
            repository, name, commit = self._find(repo_id, revision)
            info = _info(repository, name, commit, blobs="blobs" in query)
            wanted = {"_id", "id", *parse_qs(urlsplit(self.path).query).get("expand", info)}
            self._json({field: value for field, value in info.items() if field in wanted})

    def _tree(self, commit: Commit, name: str, below: str, query: dict[str, str]) -> None:
        prefix = f"{below.rstrip('/')}/" if below else ""
        entries = _entries(commit, prefix, recursive=query.get("recursive", "").lower() == "true")
        if not entries and prefix:
            raise _Refused(404, f"{below} does not exist on {name}", "EntryNotFound")
        self._page(entries, query)

    def _page(self, entries: list[dict[str, Any]], query: dict[str, str]) -> None:
        start = int(query.get("cursor", "0"))
        stop = start + min(int(query.get("limit", self._hub.page)), self._hub.page)
        headers = {}
        if stop < len(entries):
            path = urlsplit(self.path).path
            rest = "".join(f"&{key}={value}" for key, value in query.items() if key != "cursor")
            headers["Link"] = f'<{self._hub.endpoint}{path}?cursor={stop}{rest}>; rel="next"'
        self._json(entries[start:stop], **headers)

    def _resolve(self, repo_id: str, revision: str, path: str) -> None:
        repository, name, commit = self._find(repo_id, revision, files=True)
        file = self._file(repository, name, commit, path)
        if file.lfs:
            signature = self._hub.sign(file.sha256)
            filename = quote(path.rpartition("/")[2], safe="")
            location = f"{self._hub.cdn}/lfs/{file.sha256}?filename={filename}&Signature={signature}"
            self._redirect(302, location, file, name)
        elif revision != name:  # a name that moves: the contents are under the commit
            self._redirect(307, f"/api/resolve-cache/models/{repo_id}/{name}/{quote(path)}", file, name)
        else:
            self._content(file, name)

    def _redirect(self, status: int, location: str, file: HubFile, commit: str) -> None:
        etag = file.sha256 if file.lfs else file.oid
        linked = {"X-Linked-Etag": f'"{etag}"', "X-Linked-Size": str(file.size)}
        body = f"Redirecting to {location}".encode()
        self._start(status, len(body), **{"Location": location, "X-Repo-Commit": commit, **linked})
        self._write(body)

    def _content(self, file: HubFile, commit: str) -> None:
        self._body(self._hub.repositories.blob(file.sha256), f'"{file.oid}"', **{"X-Repo-Commit": commit})

    def _cdn(self) -> None:
        url = urlsplit(self.path)
        match = _BLOB.fullmatch(url.path)
        query = parse_qs(url.query)
        if "Authorization" in self.headers:  # as S3 does for a signed URL; and a hub's token has no business here
            raise _Refused(400, "Only one auth mechanism allowed")
        if match is None or not hmac.compare_digest(query.get("Signature", [""])[0], self._hub.sign(match[1])):
            raise _Refused(403, "Access Denied")
        name = query.get("filename", [match[1]])[0]
        disposition = {"Content-Disposition": f"inline; filename*=UTF-8''{quote(name)}; filename=\"{quote(name)}\";"}
        self._hub.transfer(+1)
        try:
            self._body(self._hub.repositories.blob(match[1]), f'"{match[1]}"', **disposition)
        finally:
            self._hub.transfer(-1)

    def _find(self, repo_id: str, revision: str, *, files: bool = False) -> tuple[HubRepository, str, Commit]:
        repository = self._readable(repo_id)
        name = repository.resolve(revision)
        if name is None:
            raise _Refused(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        if files:
            self._gate(repository)
        return repository, name, repository.commits[name]

    def _file(self, repository: HubRepository, name: str, commit: Commit, path: str) -> HubFile:
        file = commit.file(path)
        if file is None:
            raise _Refused(404, f"{path} is not in {repository.id}", "EntryNotFound", **{"X-Repo-Commit": name})
        return file

    def _token(self) -> str | None:
        """The caller's token; refuses one that nobody has."""
        header = self.headers.get("Authorization")
        if header is None:
            return None
        token = header.removeprefix("Bearer ").strip()
        if token not in self._hub.repositories.tokens():
            raise _Refused(401, "Invalid credentials in Authorization header")
        return token

    def _readable(self, repo_id: str) -> HubRepository:
        """The repository, if the caller may know that it exists; without a token the hub says 401 to all others."""
        token = self._token()
        repository = self._hub.repositories.find(repo_id)
        if repository is None or (repository.private and token not in repository.readers):
            if token is None:
                raise _Refused(401, "Invalid username or password.", "RepoNotFound")
            raise _Refused(404, "Repository not found", "RepoNotFound")
        return repository

    def _gate(self, repository: HubRepository) -> None:
        token = self._token()
        if not repository.gated or token in repository.readers:
            return
        if token is None:
            why = "You must have access to it and be authenticated to access it. Please log in."
            raise _Refused(401, f"Access to model {repository.id} is restricted. {why}", "GatedRepo")
        why = f"you are not in the authorized list. Visit {self._hub.endpoint}/{repository.id} to ask for access."
        raise _Refused(403, f"Access to model {repository.id} is restricted and {why}", "GatedRepo")

    def _refuse(self, refused: _Refused) -> None:
        body = json.dumps({"error": refused.message}).encode()
        headers = {"Content-Type": "application/json; charset=utf-8", "X-Error-Message": refused.message}
        if refused.code is not None:
            headers["X-Error-Code"] = refused.code
        self._start(refused.status, len(body), **headers, **refused.headers)
        self._write(body)

    def _json(self, value: object, **headers: str) -> None:
        body = json.dumps(value).encode()
        etag = f'W/"{len(body):x}-{hashlib.sha256(body).hexdigest()[:27]}"'  # the hub's are weak and look like this
        if self.headers.get("If-None-Match") == etag:
            self._start(304, None, ETag=etag, **headers)
            return
        self._start(200, len(body), **{"Content-Type": "application/json; charset=utf-8", "ETag": etag}, **headers)
        self._write(body)

    def _body(self, path: Path, etag: str, **headers: str) -> None:
        """A file, all of it or a range; RFC 9110, sections 13.1.2 (If-None-Match), 13.1.5 (If-Range) and 14.2 (Range)."""
        size = path.stat().st_size
        headers = {"ETag": etag, "Accept-Ranges": "bytes", **headers}
        known = [tag.strip().removeprefix("W/") for tag in self.headers.get("If-None-Match", "").split(",")]
        if etag in known or known == ["*"]:
            self._start(304, None, **headers)
            return
        start, stop, status = 0, size, 200
        whole = self._fault is not None and self._fault.whole
        match = None if whole else _RANGE.fullmatch(self.headers.get("Range", ""))
        if match and any(match.groups()) and self.headers.get("If-Range", etag) == etag:
            start, stop = _span(match[1], match[2], size)
            if start >= stop:
                raise _Refused(416, "Range Not Satisfiable", **{"Content-Range": f"bytes */{size}"})
            headers["Content-Range"] = f"bytes {start}-{stop - 1}/{size}"
            status = 206
        self._start(status, stop - start, **{"Content-Type": "application/octet-stream", **headers})
        if self.command == "HEAD":
            return
        with path.open("rb") as file:
            file.seek(start)
            left = stop - start
            slow = self._fault.bytes_per_second if self._fault is not None else None
            most = _PIECE if slow is None else max(1, slow // 20)
            while left and (piece := file.read(min(most, left))):
                left -= len(piece)
                self._write(piece)

    def _start(self, status: int, length: int | None, **headers: str) -> None:
        self._status = status
        self.send_response(status)
        if length is not None:
            self.send_header("Content-Length", str(length))
        self.send_header("X-Request-Id", f"Root=1-{time.time_ns():x}")
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def _write(self, piece: bytes) -> None:
        if self.command == "HEAD":
            return
        fault = self._fault
        if fault is not None:
            if fault.flip is not None and 0 <= fault.flip - self._sent < len(piece):
                place = fault.flip - self._sent
                piece = piece[:place] + bytes([piece[place] ^ 1]) + piece[place + 1 :]
            if fault.cut_after is not None and self._sent + len(piece) > fault.cut_after:
                piece = piece[: fault.cut_after - self._sent]
                self.close_connection = True
            if fault.bytes_per_second is not None:
                time.sleep(len(piece) / fault.bytes_per_second)
        self.wfile.write(piece)
        self._sent += len(piece)
        if self.close_connection and fault is not None and fault.cut_after is not None:
            self.wfile.flush()
            raise ConnectionAbortedError("cut, as the test wished")


def _injected_refusal(status: int, retry_after: int | None) -> _Refused:
    extra = {} if retry_after is None else {"Retry-After": str(retry_after)}
    return _Refused(status, "as the test wished", **extra)


def _span(first: str, last: str, size: int) -> tuple[int, int]:
    """The bytes that `first-last` or `-last` means: from the first number up to, not including, the second."""
    if not first:
        return max(0, size - int(last)), size
    return int(first), min(int(last) + 1, size) if last else size


def _entries(commit: Commit, prefix: str, *, recursive: bool) -> list[dict[str, Any]]:
    folders: set[str] = set()
    files: list[dict[str, Any]] = []
    for file in commit.files:
        if not file.path.startswith(prefix):
            continue
        parts = file.path[len(prefix) :].split("/")[:-1]
        folders.update(
            prefix + "/".join(parts[: depth + 1]) for depth in range(len(parts) if recursive else min(1, len(parts)))
        )
        if recursive or not parts:
            files.append(_entry(file))
    directories = [
        {
            "type": "directory",
            "oid": hashlib.sha1(path.encode(), usedforsecurity=False).hexdigest(),
            "size": 0,
            "path": path,
        }
        for path in sorted(folders)
    ]
    return directories + files


def _entry(file: HubFile) -> dict[str, Any]:
    entry: dict[str, Any] = {"type": "file", "oid": file.oid, "size": file.size, "path": file.path}
    if file.lfs:
        entry["lfs"] = {"oid": file.sha256, "size": file.size, "pointerSize": file.pointer_size}
    return entry


def _history(repository: HubRepository, name: str) -> list[dict[str, Any]]:
    """The commit and its ancestors, newest first."""
    found: list[dict[str, Any]] = []
    following: str | None = name
    while following is not None:
        commit = repository.commits[following]
        found.append({"id": following, "title": commit.title, "message": "", "authors": [], "date": commit.date})
        following = commit.parent
    return found


def _info(repository: HubRepository, name: str, commit: Commit, *, blobs: bool) -> dict[str, Any]:
    siblings: list[dict[str, Any]] = [{"rfilename": file.path} for file in commit.files]
    if blobs:
        for sibling, file in zip(siblings, commit.files, strict=True):
            sibling.update(size=file.size, blobId=file.oid)
            if file.lfs:
                sibling["lfs"] = {"sha256": file.sha256, "size": file.size, "pointerSize": file.pointer_size}
    return {
        "_id": hashlib.sha256(repository.id.encode()).hexdigest()[:24],
        "id": repository.id,
        "modelId": repository.id,
        "author": repository.id.partition("/")[0],
        "sha": name,
        "lastModified": commit.date,
        "createdAt": commit.date,
        "private": repository.private,
        "gated": repository.gated,
        "disabled": False,
        "downloads": 0,
        "likes": 0,
        "tags": [],
        "siblings": siblings,
    }
