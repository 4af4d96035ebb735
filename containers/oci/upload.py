"""One blob to a registry: mounted, resumed or sent, in a single pass over its bytes.

One POST opens an upload, one PATCH streams the whole blob, one PUT names its digest: the digest need not be known
before the last byte, and no proxy has to hold a chunk. When the PATCH breaks off, the registry is asked how far it
came (GET on the upload's location) and the next PATCH goes on from there, in this run or, since the location is
remembered, in the next. A location on another host gets the bytes, but no login (`containers.web.origins`). Distribution up
to version 3 drops an upload whose PATCH broke in the middle; such a blob starts anew, the blobs that were finished do not.
When the PUT is not answered, the blob is looked for before anything is sent again.
"""

from __future__ import annotations

import hashlib
import re
import time
from typing import TYPE_CHECKING, Any, Final

import httpx

from containers.digest import Digest
from containers.errors import BadInput
from containers.oci.answers import RetryableError
from containers.web.exchange import REDIRECTS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from containers.oci.push_cache import PushCache
    from containers.oci.reference import Reference
    from containers.oci.repository import Blob
    from containers.oci.transport import Transport

_RANGE: Final = re.compile(r"(?:bytes=)?0-([0-9]{1,18})")
_SAME_METHOD: Final = (httpx.codes.TEMPORARY_REDIRECT, httpx.codes.PERMANENT_REDIRECT)
_SMALLER: Final = 32 << 20  # bytes of one PATCH where a whole blob is refused as too large


class Upload:
    """Brings one blob to one repository."""

    def __init__(
        self,
        transport: Transport,
        cache: PushCache,
        reference: Reference,
        blob: Blob,
        on_bytes: Callable[[int], None],
    ) -> None:
        self._transport = transport
        self._cache = cache
        self._reference = reference
        self._blob = blob
        self._on_bytes = on_bytes
        self._url = f"/v2/{reference.repository}/blobs/uploads/"
        self._key = f"{reference.name}@{blob.digest}" if blob.digest else ""
        self._hash: Any = hashlib.sha256()
        self._hashed = 0  # bytes; a resumed upload never starts behind this
        self._counted = 0  # bytes reported to on_bytes
        self._location = ""
        self._at = 0
        self._resumed = False
        self._closing: Digest | None = None  # what was to be stored when the last byte was there
        self._patience = 0.0  # seconds for which it may still come to be stored
        self._piece = blob.size

    def run(self) -> Digest:
        """Send the blob; its digest. Raises BadInput when its bytes are not what they were said to be."""
        if self._mounted():
            assert self._blob.digest is not None
            return self._blob.digest
        for attempt in self._transport.retrying():
            with attempt:
                return self._attempt()
        raise AssertionError("tenacity raises the last error")

    def _mounted(self) -> bool:
        """Ask the registry to take the blob from another of its repositories, where one is believed to have it."""
        digest = self._blob.digest
        if digest is None:
            return False
        known = (*self._blob.mount_from, *self._cache.repositories(self._reference.registry, digest))
        for other in dict.fromkeys(known):
            if other == self._reference.repository:
                continue
            answer = self._transport.request(
                "POST",
                f"{self._url}?mount={digest}&from={other}",
                accept=(201, 202, 401, 403, 404),
                headers={"Content-Length": "0"},
                mount_from=other,
            )
            if answer.status_code == httpx.codes.CREATED:
                self._cache.remember_blob(self._reference.registry, self._reference.repository, digest)
                return True
            if answer.status_code == httpx.codes.ACCEPTED:  # it opened an upload instead
                self._moved(answer)
                return False
        return False

    def _attempt(self) -> Digest:
        if self._closing is not None and self._stored(self._closing):
            return self._done(self._closing)
        self._find_place()
        while self._at < self._blob.size:
            self._patch()
        digest = self._closing = self._blob.digest or Digest(self._finished_hash())
        try:
            answer = self._transport.send(
                "PUT",
                _with_digest(self._location, digest),
                headers={"Content-Length": "0", "Content-Type": "application/octet-stream"},
                content=b"",
            )
        except RetryableError as error:
            self._patience = self._transport.settings.http.deadline if error.silent else 0.0
            raise
        if answer.status_code not in (httpx.codes.CREATED, httpx.codes.NO_CONTENT, httpx.codes.ACCEPTED):
            self._forget()
            if self._resumed and answer.status_code == httpx.codes.BAD_REQUEST:
                self._resumed = False
                raise RetryableError(f"{self._reference.registry} did not have what it said of {self._what}")
            self._raise(answer)
        said = answer.headers.get("Docker-Content-Digest", str(digest))
        if said != str(digest):
            raise BadInput(
                f"{self._reference.name} stored {self._what} as {said} and not as {digest}",
                remedy="the registry changes contents; use one that preserves digests",
            )
        return self._done(digest)

    def _done(self, digest: Digest) -> Digest:
        self._forget()
        self._cache.remember_blob(self._reference.registry, self._reference.repository, digest)
        return digest

    def _stored(self, digest: Digest) -> bool:
        """Whether the blob is there although nothing said so: a registry may take minutes to put a large one in its place.

        One that was silent is looked at again for as long as an answer may take; sending the blob again would cost more.
        """
        ends, pause = time.monotonic() + self._patience, 0.2
        while True:
            answer = self._transport.request("HEAD", self._blob_url(digest), accept=(200, 404), what="a look at a blob")
            if answer.status_code == httpx.codes.OK:
                return True
            if time.monotonic() + pause >= ends:
                return False
            time.sleep(pause)
            pause = min(2 * pause, 10.0)

    def _blob_url(self, digest: Digest) -> str:
        return f"/v2/{self._reference.repository}/blobs/{digest}"

    def _find_place(self) -> None:
        """Where to go on: an upload that is still open, of this run or an earlier one, or a new one."""
        if not self._location and self._key:
            self._location = self._cache.take_upload(self._key) or ""
        if self._location:
            answer = self._transport.request(
                "GET", self._location, accept=(200, 202, 204, 400, 403, 404, 405, 416), what="an upload's status"
            )
            if answer.status_code in (httpx.codes.OK, httpx.codes.ACCEPTED, httpx.codes.NO_CONTENT):
                reached = _reached(answer)
                # Without a digest the hash must have seen every byte that is there.
                if 0 < reached <= self._blob.size and (self._blob.digest is not None or reached <= self._hashed):
                    self._moved(answer)
                    self._at = reached
                    self._resumed = True
                    return
            self._forget()
        answer = self._transport.request("POST", self._url, accept=(202,), headers={"Content-Length": "0"})
        self._at = 0
        self._moved(answer)

    def _patch(self) -> None:
        start, end = self._at, min(self._at + self._piece, self._blob.size)
        headers = {"Content-Type": "application/octet-stream", "Content-Length": str(end - start)}
        if start or end < self._blob.size:
            headers["Content-Range"] = f"{start}-{end - 1}"
        for _ in range(REDIRECTS):
            answer = self._transport.send("PATCH", self._location, headers=headers, content=self._watched(start, end))
            if answer.status_code not in _SAME_METHOD or "Location" not in answer.headers:
                break
            self._moved(answer)
        if answer.status_code == httpx.codes.REQUEST_ENTITY_TOO_LARGE and self._piece > _SMALLER:
            self._piece = _SMALLER
            self._forget()
            raise RetryableError(
                f"{self._reference.registry} accepts no body of {end - start} bytes; continuing in smaller pieces"
            )
        if answer.status_code not in (httpx.codes.ACCEPTED, httpx.codes.NO_CONTENT, httpx.codes.CREATED):
            if answer.status_code in (httpx.codes.NOT_FOUND, httpx.codes.REQUESTED_RANGE_NOT_SATISFIABLE):
                self._forget()  # the upload was closed on us: open another
                raise RetryableError(f"{self._reference.registry} lost the upload of {self._what}")
            if answer.status_code == httpx.codes.UNAUTHORIZED and self._transport.challenged(answer):
                raise RetryableError(f"{self._reference.registry}: the login of the upload of {self._what} ran out")
            self._raise(answer)
        self._at = end
        self._moved(answer)

    def _watched(self, start: int, end: int) -> Iterator[bytes]:
        """The blob's bytes from `start` to `end`, hashed once and counted as they go out."""
        if self._counted > start:
            self._on_bytes(start - self._counted)
            self._counted = start
        at = start
        for chunk in self._blob.chunks(start):
            piece = chunk[: end - at]
            fresh = piece[max(self._hashed - at, 0) :]
            if fresh and at <= self._hashed:
                self._hash.update(fresh)
                self._hashed = at + len(piece)
            at += len(piece)
            yield piece
            self._on_bytes(at - max(self._counted, start))
            self._counted = at
            if at == end:
                break
        if end == self._blob.size:
            self._check()

    def _check(self) -> None:
        if self._hashed == self._blob.size and self._blob.digest is not None:
            actual = Digest(self._hash.copy().hexdigest())
            if actual != self._blob.digest:
                self._blob.recheck()
                raise BadInput(
                    f"{self._what} is {actual} and not {self._blob.digest}: it changed since it was hashed",
                    remedy="stop anything that writes to the checkpoint, then start again",
                )

    def _finished_hash(self) -> str:
        if self._hashed != self._blob.size:
            raise BadInput(f"{self._what}: {self._hashed} of {self._blob.size} bytes were read")
        return str(self._hash.copy().hexdigest())

    def _moved(self, answer: httpx.Response) -> None:
        location = answer.headers.get("Location")
        if location:
            self._location = self._transport.absolute(location, answer)
        if not self._location:
            raise BadInput(f"{self._reference.registry} opened an upload without a location")
        if self._key:
            self._cache.remember_upload(self._key, self._location)

    def _forget(self) -> None:
        self._location = ""
        if self._key:
            self._cache.forget_upload(self._key)

    def _raise(self, answer: httpx.Response) -> None:
        raise self._transport.explain(answer, f"the upload of {self._what}")

    @property
    def _what(self) -> str:
        return self._blob.name or str(self._blob.digest)


def _with_digest(location: str, digest: Digest) -> str:
    return f"{location}{'&' if '?' in location else '?'}digest={digest}"


def _reached(answer: httpx.Response) -> int:
    """How many bytes the registry has: `Range: 0-<last byte>`; `0-0` is what one with none says, too."""
    match = _RANGE.fullmatch(answer.headers.get("Range", ""))
    last = int(match[1]) if match else 0
    return last + 1 if last else 0
