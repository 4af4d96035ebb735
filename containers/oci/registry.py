"""A repository of a registry (OCI distribution specification 1.1).

The referrers of a digest come from the referrers API and from the tag `sha256-<hex>`, which is an index that every client
changes by itself where the API does not take note of what it puts ("Referrers tag schema"). Two that change it at once would
lose one entry, so it is read again after it was written until the entry stays.
"""

from __future__ import annotations

import random
import re
import time
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Final, Self
from urllib.parse import quote

import httpx

from containers.digest import Digest
from containers.errors import BadInput, Temporary
from containers.oci.layer import CHUNK
from containers.oci.reference import check_tag
from containers.oci.repository import ImmutableTag, StoredManifest
from containers.oci.transport import Transport
from containers.oci.types import (
    DOCKER_LIST,
    DOCKER_MANIFEST,
    EMPTY,
    INDEX,
    MANIFEST,
    Descriptor,
    ImageManifest,
    Index,
    parse_tags,
)
from containers.oci.upload import Upload
from containers.web.exchange import Pages

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from containers.oci.push_cache import PushCache
    from containers.oci.reference import Reference
    from containers.oci.repository import Blob
    from containers.settings import StepSettings

_ACCEPT: Final = f"{MANIFEST}, {INDEX}, {DOCKER_MANIFEST}, {DOCKER_LIST}"
_LENGTH: Final = re.compile(r"[0-9]{1,18}")
_TAG_ROUNDS: Final = 12  # how often the fallback tag is written before we give up


class Registry:
    """A `Repository` behind HTTP; threads may share it."""

    def __init__(self, reference: Reference, settings: StepSettings, cache: PushCache, *, write: bool = False) -> None:
        self.reference = reference
        self._cache = cache
        self._actions = "pull,push" if write else "pull"
        self._transport = Transport(reference.registry, reference.repository, settings, actions=self._actions)
        self._url = f"/v2/{reference.repository}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._transport.close()

    def blob_size(self, digest: Digest) -> int | None:
        answer = self._transport.request("HEAD", f"{self._url}/blobs/{digest}", accept=(200, 404))
        if answer.status_code == httpx.codes.NOT_FOUND:
            return None
        self._cache.remember_blob(self.reference.registry, self.reference.repository, digest)
        length = answer.headers.get("Content-Length", "")
        return int(length) if _LENGTH.fullmatch(length) else -1

    @contextmanager
    def read_blob(self, digest: Digest, offset: int = 0) -> Iterator[Iterator[bytes]]:
        """A connection that breaks off is taken up again where it broke."""
        reader = _BlobReader(self._transport, f"{self._url}/blobs/{digest}", offset)
        try:
            yield iter(reader)
        finally:
            reader.close()

    def put_blob(self, blob: Blob, on_bytes: Callable[[int], None]) -> Digest:
        upload = Upload(self._transport, self._cache, self.reference, blob, on_bytes)
        return upload.run()

    def check_push(self) -> None:
        """Begin an upload and give it up: the registry then has checked the login and the right, and keeps no content.

        A registry that cannot give one up removes it by itself later, like every upload that breaks off.
        """
        answer = self._transport.request(
            "POST",
            f"{self._url}/blobs/uploads/",
            accept=(202,),
            headers={"Content-Length": "0"},
            what="the beginning of a push",
        )
        if location := answer.headers.get("Location"):
            with suppress(BadInput, Temporary):
                self._transport.request("DELETE", self._transport.absolute(location, answer), accept=(202, 204))

    def get(self, what: str) -> StoredManifest | None:
        answer = self._transport.request(
            "GET", f"{self._url}/manifests/{what}", accept=(200, 404), headers={"Accept": _ACCEPT}
        )
        if answer.status_code == httpx.codes.NOT_FOUND:
            return None
        content = answer.content
        digest = Digest.of(content)
        named = Digest.parse(what) if ":" in what else _header_digest(answer)
        if named is not None and named != digest:
            raise BadInput(
                f"{self.reference.name} gave a manifest {digest} as {named}",
                remedy="the registry or a proxy changes contents; do not trust it",
            )
        media_type = answer.headers.get("Content-Type", "").partition(";")[0].strip()
        return StoredManifest(content, media_type or MANIFEST, digest)

    def put(self, content: bytes, media_type: str, tag: str = "") -> Digest:
        digest = Digest.of(content)
        name = check_tag(tag) if tag else str(digest)
        answer = self._transport.request(
            "PUT",
            f"{self._url}/manifests/{name}",
            accept=(200, 201, 202),
            headers={"Content-Type": media_type},
            content=content,
        )
        said = _header_digest(answer)
        if said is not None and said != digest:
            raise BadInput(
                f"{self.reference.name} stored the manifest {digest} as {said}",
                remedy="the registry changes contents; use one that preserves digests",
            )
        return digest

    def now(self) -> datetime:
        """As the registry says it in every answer (RFC 9110, 6.6.1); this machine's where one says nothing that can be read."""
        answer = self._transport.request("GET", f"{self._url}/tags/list?n=1", accept=(200, 404))
        with suppress(ValueError):
            told = parsedate_to_datetime(answer.headers.get("Date", ""))
            if told.tzinfo is not None:
                return told
        return datetime.now(UTC)

    def tags(self) -> tuple[str, ...]:
        found: set[str] = set()
        first = f"{self._url}/tags/list"
        url: str | None = f"{first}?n=1000"
        pages: Pages | None = None
        while url:
            answer = self._transport.request("GET", url, accept=(200, 404))
            if answer.status_code == httpx.codes.NOT_FOUND:
                if pages is not None or url == first:
                    break
                url = first  # some know no `n`
                continue
            pages = pages or Pages(self._transport.home, f"the tags of {self.reference.name}")
            names = parse_tags(answer.content, f"the tags of {self.reference.name}")
            # zuul-registry lists what is named by digest alone, too; no tag has a colon.
            found.update(tag for name in names or () if ":" not in (tag := str(name)))
            url = pages.following(answer, url)
        return tuple(sorted(found))

    def referrers(self, subject: Digest) -> tuple[Descriptor, ...]:
        url: str | None = f"{self._url}/referrers/{subject}"
        pages: Pages | None = None
        found: list[Descriptor] = []
        while url:
            answer = self._transport.request("GET", url, accept=(200, 404, 400, 405))
            if answer.status_code != httpx.codes.OK or "json" not in answer.headers.get("Content-Type", ""):
                break
            found += Index.parse(answer.content, f"the referrers of {subject}").manifests
            pages = pages or Pages(self._transport.home, f"the referrers of {subject}")
            url = pages.following(answer, url)
        # Some answer the API with an empty list and mean the tag, and what was attached before a registry learned the API
        # may be in the tag alone.
        found += self._fallback(subject).manifests
        return tuple({one.digest: one for one in found}.values())

    def refer(self, content: bytes, manifest: ImageManifest) -> Digest:
        """Store a manifest with a subject. A registry that knows referrers says so in its answer (OCI-Subject)."""
        digest = Digest.of(content)
        if manifest.subject is None:
            raise BadInput(f"{digest} has no subject")
        answer = self._transport.request(
            "PUT",
            f"{self._url}/manifests/{digest}",
            accept=(200, 201, 202),
            headers={"Content-Type": manifest.media_type},
            content=content,
        )
        if not answer.headers.get("OCI-Subject"):
            kind = manifest.artifact_type or manifest.config.media_type
            entry = Descriptor(
                media_type=manifest.media_type,
                digest=digest,
                size=len(content),
                artifact_type=kind if kind != EMPTY else None,
                annotations=manifest.annotations,
            )
            self._list_in_fallback(manifest.subject.digest, entry)
        return digest

    def _fallback(self, subject: Digest) -> Index:
        stored = self.get(_fallback_tag(subject))
        parsed = stored.parse() if stored is not None else None
        return parsed if isinstance(parsed, Index) else Index(manifests=())

    def _list_in_fallback(self, subject: Digest, entry: Descriptor) -> None:
        """Add an entry to the fallback tag. HTTP gives no lock: whoever finds its entry gone writes again, and pauses
        of random length make sure that one of two is the last to look.
        """
        for round_ in range(_TAG_ROUNDS):
            started = time.monotonic()
            index = self._fallback(subject)
            if not any(one.digest == entry.digest for one in index.manifests):
                manifests = tuple(sorted((*index.manifests, entry), key=lambda one: one.digest))
                after = index.model_copy(update={"manifests": manifests, "media_type": INDEX})
                try:
                    self.put(after.encode(), INDEX, _fallback_tag(subject))
                except ImmutableTag as error:
                    raise ImmutableTag(
                        f"{self.reference.name} keeps no list of referrers and lets no tag be moved, so {entry.digest} is stored "
                        f"and not attached to {subject}",
                        remedy=f"let tags that begin with sha256- be moved in {self.reference.name}, or use a registry with "
                        "the referrers API",
                    ) from error
            # Longer than another's read and write take, as far as our own can tell.
            pause = 3 * (time.monotonic() - started) + random.uniform(0.05, 0.15) * (1 + round_)  # noqa: S311 -- no secret
            time.sleep(pause)
            if any(one.digest == entry.digest for one in self._fallback(subject).manifests):
                return
        raise Temporary(
            f"{self.reference.name}: other clients keep changing the referrers of {subject}", remedy="start again later"
        )

    def delete(self, digest: Digest) -> None:
        transport = Transport(
            self.reference.registry,
            self.reference.repository,
            self._transport.settings,
            actions=f"{self._actions},delete",
        )
        try:
            answer = transport.request("DELETE", f"{self._url}/manifests/{digest}", accept=(200, 202, 404, 405))
        finally:
            transport.close()
        # Some know no way to delete at all, and what is not there is gone: only what stays is a refusal.
        unknown = answer.status_code == httpx.codes.NOT_FOUND and self.get(str(digest)) is not None
        if unknown or answer.status_code == httpx.codes.METHOD_NOT_ALLOWED:
            raise BadInput(
                f"{self.reference.registry} does not allow deleting", remedy="delete it in the registry itself"
            )


class _BlobReader:
    """The bytes of a blob in pieces of at most 1 MiB, over as many connections as it takes."""

    def __init__(self, transport: Transport, url: str, offset: int) -> None:
        self._transport = transport
        self._url = url
        self._at = offset
        self._response: httpx.Response | None = None

    def __iter__(self) -> Iterator[bytes]:
        for attempt in self._transport.retrying():
            with attempt:
                response = self._connect()
                try:
                    for chunk in self._transport.chunks(response, CHUNK):
                        self._at += len(chunk)
                        yield chunk
                finally:
                    response.close()

    def _connect(self) -> httpx.Response:
        headers = {"Range": f"bytes={self._at}-"} if self._at else {}
        response = self._response = self._transport.stream(self._url, headers)
        if self._at and response.status_code == httpx.codes.OK:  # no ranges there: pass over what we have
            skip = self._at
            for chunk in self._transport.chunks(response, CHUNK):
                skip -= len(chunk)
                if skip <= 0:
                    break
            if skip != 0:
                response.close()
                raise BadInput(f"{self._url}: the registry cannot send a part of a blob", remedy="start again")
        return response

    def close(self) -> None:
        if self._response is not None:
            with suppress(httpx.HTTPError):
                self._response.close()


def _fallback_tag(subject: Digest) -> str:
    return f"sha256-{quote(subject.hex)}"


def _header_digest(answer: httpx.Response) -> Digest | None:
    value = answer.headers.get("Docker-Content-Digest", "")
    return Digest.parse(value) if value.startswith("sha256:") else None
