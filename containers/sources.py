"""Where a checkpoint comes from, parsed at the edge: `hf://org/name[@revision]`, `file:///folder`, `s3://bucket/prefix`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import quote, unquote, urlsplit

from containers.digest import Digest
from containers.errors import BadInput

# The hub's own rule for names (huggingface_hub, utils/_validators.py): 96 characters of these, no "--", no "..".
_NAME: Final = r"(?!.*(?:--|\.\.))[A-Za-z0-9_](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9_])?"
_REPO: Final = re.compile(rf"({_NAME})/({_NAME})")
_LISTED: Final = re.compile(r"(.*)#(sha256:[0-9a-f]{64})")  # a revision may hold a # of its own
COMMIT: Final = re.compile(r"[0-9a-f]{40}")
# Bucket names: S3 user guide, "Bucket naming rules".
_BUCKET: Final = re.compile(r"[a-z0-9](?:[a-z0-9.-]{1,61})[a-z0-9]")
HUB: Final = "hf://"
_REMEDY: Final = "write hf://org/name, hf://org/name@revision, file:///folder or s3://bucket/prefix"


@dataclass(frozen=True)
class HubSource:
    """A repository on a hub; without a revision its branch `main` is meant.

    A commit names the bytes only if one believes the hub: nothing that a hub's API shows proves that a file belongs to a
    commit. What is pinned is also the name in the store, so a mirror that lies about a commit would decide what every later
    run gets for it, from the hub itself as well. Therefore at a mirror `listing` pins it, too: the digest of what was listed
    for the commit, with a digest of each file, which every file is held against. Mirrors that say the same share a name. The
    public hub is believed, and pinned by the commit alone.
    """

    repo: str
    revision: str | None = None
    listing: Digest | None = None

    @property
    def pinned(self) -> bool:
        return self.revision is not None and COMMIT.fullmatch(self.revision) is not None

    def at(self, commit: str, listing: Digest | None = None) -> HubSource:
        return HubSource(self.repo, commit, listing)

    def __str__(self) -> str:
        return (
            f"{HUB}{self.repo}"
            + (f"@{self.revision}" if self.revision else "")
            + (f"#{self.listing}" if self.listing else "")
        )


@dataclass(frozen=True)
class FolderSource:
    """A folder of this machine; `listing` is the digest that pins it."""

    folder: Path
    listing: Digest | None = None

    @property
    def pinned(self) -> bool:
        return self.listing is not None

    def at(self, listing: Digest) -> FolderSource:
        return FolderSource(self.folder, listing)

    def __str__(self) -> str:
        return f"file://{quote(str(self.folder))}" + (f"#{self.listing}" if self.listing else "")


@dataclass(frozen=True)
class BucketSource:
    """The keys below a prefix of an S3 bucket; `listing` is the digest that pins them."""

    bucket: str
    prefix: str
    listing: Digest | None = None

    @property
    def pinned(self) -> bool:
        return self.listing is not None

    def at(self, listing: Digest) -> BucketSource:
        return BucketSource(self.bucket, self.prefix, listing)

    def __str__(self) -> str:
        path = f"/{quote(self.prefix)}" if self.prefix else ""
        return f"s3://{self.bucket}{path}" + (f"#{self.listing}" if self.listing else "")


Source = HubSource | FolderSource | BucketSource


def parse(text: str) -> Source:
    """Read a source as a user writes it, or pinned; raises BadInput with what is wrong with it."""
    scheme, separator, rest = text.partition("://")
    if not separator or scheme not in {"hf", "file", "s3"}:
        raise BadInput(f"not a source: {text!r}", remedy=_REMEDY)
    if any(ord(character) < 0x20 or character == "\x7f" for character in text):
        raise BadInput(f"a source with control characters: {text!r}", remedy=_REMEDY)
    if scheme == "hf":
        return _hub(text, rest)
    try:
        url = urlsplit(text)
    except ValueError as error:
        raise BadInput(f"not a source: {text!r}: {error}", remedy=_REMEDY) from error
    if url.query:
        raise BadInput(f"{text!r} has a query", remedy="write ? in a name as %3F, and # as %23")
    listing = Digest.parse(url.fragment) if url.fragment else None
    path = unquote(url.path)
    if scheme == "file":
        return _folder(text, url.netloc, path, listing)
    return _bucket(text, url.netloc, path, listing)


def _hub(text: str, rest: str) -> HubSource:
    listed = _LISTED.fullmatch(rest)
    listing = Digest.parse(listed[2]) if listed else None
    repo, at, revision = (listed[1] if listed else rest).partition("@")
    if at and not revision:
        raise BadInput(f"{text!r} names no revision behind the @", remedy=_REMEDY)
    if not _REPO.fullmatch(repo):
        raise BadInput(
            f"not the name of a model on the hub: {_no_login(repo, at)!r}",
            remedy="write hf://org/name, as the model's page shows it",
        )
    if revision != revision.strip() or ".." in revision:
        raise BadInput(f"not a revision: {revision!r}", remedy="give a branch, a tag or a commit")
    if listing is not None and not COMMIT.fullmatch(revision):
        raise BadInput(f"{text!r} has a digest of a listing, but no commit", remedy=_REMEDY)
    return HubSource(repo, revision or None, listing)


def _folder(text: str, host: str, path: str, listing: Digest | None) -> FolderSource:
    if host not in {"", "localhost"} or not path.startswith("/"):
        raise BadInput(
            f"{text!r} does not name a folder of this machine",
            remedy="write the whole path behind three slashes: file:///data/model",
        )
    folder = Path(path)
    if ".." in folder.parts or folder == Path("/"):
        raise BadInput(f"{text!r} does not name a folder plainly", remedy="write its whole path, without ..")
    return FolderSource(folder, listing)


def _bucket(text: str, bucket: str, path: str, listing: Digest | None) -> BucketSource:
    prefix = path.strip("/")
    if not _BUCKET.fullmatch(bucket):
        raise BadInput(f"not the name of an S3 bucket: {_no_login(bucket)!r}", remedy="write s3://bucket/prefix")
    if prefix and any(part in {"", ".", ".."} for part in prefix.split("/")):
        raise BadInput(f"{text!r} has an empty part, '.' or '..' in its prefix", remedy="write s3://bucket/prefix")
    return BucketSource(bucket, prefix, listing)


def _no_login(name: str, at: str = "@") -> str:
    """What was given as a name, without what stands before its @ if that looks like a login: it may be a password."""
    return f"***{at}{name.rpartition('@')[2] if '@' in name else ''}" if ":" in name and at else name
