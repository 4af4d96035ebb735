"""One bucket: the few S3 calls that the store is made of. Nothing outside `containers.store` imports boto3."""

from __future__ import annotations

import contextlib
import os
import secrets
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

from botocore.exceptions import ClientError, HTTPClientError, IncompleteReadError

from containers.errors import BadInput, DiskFull, Temporary
from containers.events import amount
from containers.store.failures import check_listing, code, date, is_missing, refuse_page, skew, translated, unreachable

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime, timedelta

    from containers.contract import StoreLocation
    from containers.settings import StoreSettings

CONNECTIONS: Final = 16
SMALL: Final = 256 << 20  # bytes of an object that is read into memory whole
_PIECE: Final = 1 << 20
_BREAKS: Final = 5  # answers that may be cut short, one after the other
# What a server answers that has something under the key, or is just being given something, and one that knows no conditions.
_TAKEN: Final = {"PreconditionFailed", "412", "ConditionalRequestConflict", "409"}
_NO_CONDITIONS: Final = {"NotImplemented", "501"}
_SETTLE: Final = 6.0  # the embedded server's --dir-cache-time (infra/objectstore.py), and a second

# `standard` retries (botocore's guide, "Retries"): transient faults, throttling and 5xx, exponential backoff with
# jitter. A part that waits for its turn in rclone can take more than botocore's default of 60 s, and a part sent
# twice costs more than waiting. Payloads are not signed: botocore would read every part once more to hash it, and
# what is stored is checked against its digest on every read anyway. Checksum trailers, on by default since boto3
# 1.36, are refused by many S3 servers.
_CONFIG: Final[dict[str, Any]] = {
    "signature_version": "s3v4",
    "retries": {"mode": "standard", "total_max_attempts": 4},
    "connect_timeout": 10,
    "read_timeout": 300,
    "max_pool_connections": CONNECTIONS,
    "request_checksum_calculation": "when_required",
    "response_checksum_validation": "when_required",
}


@dataclass(frozen=True)
class Listed:
    """One key of a listing; `size` in bytes, `modified` with a time zone. `shared`: its bytes are a file of somebody else's."""

    key: str
    size: int
    modified: datetime
    shared: bool = False


@dataclass(frozen=True)
class Seen:
    """One key as a look finds it: `size` in bytes, and `age` by the store's own clock, None where it does not tell it."""

    size: int
    modified: datetime
    age: timedelta | None


@dataclass(frozen=True)
class Rehearsal:
    """`skew` is how many seconds the store's clock is ahead of this machine's; `bucket` whether the bucket is there yet."""

    skew: float
    bucket: bool


class Bucket:
    """Keys under a prefix of a bucket. Every method raises the errors of `containers.store.failures`."""

    def __init__(self, location: StoreLocation, settings: StoreSettings) -> None:
        self.name = f"{location.endpoint or 'https://s3.amazonaws.com'}/{location.bucket}"
        self._bucket = location.bucket
        self._region = location.region
        self._own_endpoint = location.endpoint is not None
        self._knows_conditions = True
        self._folder = settings.folder if settings.folder is not None and settings.folder.is_dir() else None
        prefix = location.prefix.strip("/")
        self._prefix = f"{prefix}/" if prefix else ""
        self._endpoint, self._settings = location.endpoint, settings
        # Seconds after which everybody sees a write: a server in front of a folder shows late what was written to the folder.
        self.settle = 0.0 if self._folder is None else _SETTLE

    @cached_property
    def _s3(self) -> Any:
        return self._client(self._endpoint)

    @cached_property
    def _public(self) -> Any:
        """A link is signed for the host that the browser asks."""
        public = self._settings.public_endpoint
        return self._client(public) if public else self._s3

    def _client(self, endpoint: str | None) -> Any:
        try:
            with translated("opening the store", self.name):
                return self._new_client(endpoint, self._settings)
        except ValueError as error:  # botocore's word for an endpoint that is no URL
            raise BadInput(
                f"the store's endpoint is not a URL: {endpoint!r}",
                remedy="write CARWRIGHT_STORE__ENDPOINT (and ..._PUBLIC_ENDPOINT) as http(s)://host:port",
            ) from error

    def _new_client(self, endpoint: str | None, settings: StoreSettings) -> Any:
        import boto3  # slow to load, and not needed where the store is a folder here
        from botocore.config import Config

        key, secret = settings.access_key_id, settings.secret_access_key
        addressing = addressing_style(settings.addressing, own_endpoint=self._own_endpoint)
        client = boto3.client(
            "s3",
            endpoint_url=endpoint,
            region_name=self._region,
            aws_access_key_id=key.get_secret_value() if key else None,
            aws_secret_access_key=secret.get_secret_value() if secret else None,
            config=Config(**_CONFIG, s3={"payload_signing_enabled": False, **addressing}),
        )
        client.meta.events.register("after-call.s3", refuse_page)
        return client

    def ensure(self) -> None:
        """Check that the bucket answers to these keys; create it when it is missing."""
        try:
            with translated(f"opening bucket {self._bucket!r}", self.name):
                # Unlike HeadBucket's, the answer has a body that tells bad keys from missing permission.
                self._probe()
        except BadInput as error:
            cause = error.__cause__
            if not (isinstance(cause, ClientError) and code(cause) == "NoSuchBucket"):
                raise
        else:
            return
        extra: dict[str, Any] = {}
        if not self._own_endpoint and self._region != "us-east-1":  # S3 API, CreateBucket: us-east-1 must be left out
            extra["CreateBucketConfiguration"] = {"LocationConstraint": self._region}
        with translated(f"creating bucket {self._bucket!r}", self.name):
            try:
                self._s3.create_bucket(Bucket=self._bucket, **extra)
            except ClientError as error:
                if code(error) == "BucketAlreadyOwnedByYou":
                    return
                if code(error) != "BucketAlreadyExists":
                    raise
                self._probe()  # another process was faster, or the name is taken by somebody else

    def size(self, key: str) -> int | None:
        """Bytes stored under a key; None when there is nothing."""
        with translated(f"looking for {key}", self.name):
            try:
                return int(self._s3.head_object(Bucket=self._bucket, Key=self._prefix + key)["ContentLength"])
            except ClientError as error:
                if is_missing(error):
                    return None
                raise

    def look(self, key: str) -> Seen | None:
        """Size and age of what is under a key; None when there is nothing."""
        with translated(f"looking for {key}", self.name):
            try:
                answer = self._s3.head_object(Bucket=self._bucket, Key=self._prefix + key)
            except ClientError as error:
                if is_missing(error):
                    return None
                raise
        modified, now = answer["LastModified"], date(answer)
        return Seen(int(answer["ContentLength"]), modified, None if now is None else now - modified)

    def read(self, key: str) -> bytes | None:
        """All of a small object, at most `SMALL` bytes; None when it is missing. An answer that is cut short is asked for again."""
        breaks = 0
        while True:
            with translated(f"reading {key}", self.name):
                try:
                    answer = self._s3.get_object(Bucket=self._bucket, Key=self._prefix + key)
                except ClientError as error:
                    if is_missing(error):
                        return None
                    raise
            try:
                content = _whole(answer["Body"])
                break
            except (HTTPClientError, IncompleteReadError) as error:
                breaks += 1
                if breaks > _BREAKS:
                    raise unreachable(f"reading {key}", self.name, str(error)) from error
        if len(content) > SMALL:
            raise BadInput(
                f"{key} in {self.name} has more than {amount(SMALL, 'B')}",
                remedy="no manifest is that large: the store is damaged or hostile",
            )
        return content

    def link(self, key: str, *, seconds: int, media_type: str) -> str:
        """A URL that lets anybody read this key, as `media_type`, for so long (S3 API, presigned GET; AWS: 7 days at most)."""
        asked = {"Bucket": self._bucket, "Key": self._prefix + key, "ResponseContentType": media_type}
        with translated(f"signing a link to {key}", self.name):
            return str(self._public.generate_presigned_url("get_object", Params=asked, ExpiresIn=seconds))

    def stream(self, key: str, start: int, stop: int) -> tuple[Any, int]:
        """The bytes from `start` up to, not including, `stop` (which must be more), and the size of the whole object.

        The first is botocore's StreamingBody, which the caller closes. Raises botocore's own errors: the caller tells
        a missing key and a range that is not there from faults.
        """
        answer = self._s3.get_object(Bucket=self._bucket, Key=self._prefix + key, Range=f"bytes={start}-{stop - 1}")
        return answer["Body"], int(answer["ContentRange"].rpartition("/")[2])

    def write(self, key: str, content: bytes) -> None:
        """Store a small object in one request: a reader sees the old content or the new."""
        try:
            with translated(f"writing {key}", self.name):
                self._s3.put_object(Bucket=self._bucket, Key=self._prefix + key, Body=content)
        except Temporary as error:
            raise (self.full(len(content)) or error) from error.__cause__

    def write_new(self, key: str, content: bytes) -> bool:
        """Store a small object where nothing is; False where something is there by now, which stays.

        Not every server knows such a condition (S3 API, PutObject: If-None-Match): one that does not overwrites.
        """
        if self._knows_conditions:
            with translated(f"writing {key}", self.name):
                try:
                    self._s3.put_object(Bucket=self._bucket, Key=self._prefix + key, Body=content, IfNoneMatch="*")
                except ClientError as error:
                    if code(error) in _TAKEN:
                        return False
                    if code(error) not in _NO_CONDITIONS:
                        raise
                    self._knows_conditions = False
                else:
                    return True
        self.write(key, content)
        return True

    def full(self, needed: int) -> DiskFull | None:
        """The error for an embedded store whose disk has no room for `needed` bytes more; None when it has, or is elsewhere.

        rclone says no more than "Internal Error" when its disk is full, so this looks for itself.
        """
        if self._folder is None:
            return None
        status = os.statvfs(self._folder)
        free = status.f_bavail * status.f_frsize
        if free >= needed and (status.f_favail or not status.f_files):  # without an inode limit both are 0
            return None
        return DiskFull(
            f"the store's disk has {amount(free, 'B')} free and needs {amount(needed, 'B')} ({self._folder})",
            remedy="free some space, or set CARWRIGHT_HOME to a folder on a larger disk; the same run continues from here",
        )

    def delete(self, key: str) -> None:
        """Remove a key; one that is not there is no error."""
        with translated(f"deleting {key}", self.name):
            self._s3.delete_object(Bucket=self._bucket, Key=self._prefix + key)

    def listing(self, prefix: str) -> Iterator[Listed]:
        """Every key below a prefix, in no promised order."""
        with translated(f"listing {prefix}", self.name):
            pages = self._s3.get_paginator("list_objects_v2").paginate(
                Bucket=self._bucket, Prefix=self._prefix + prefix
            )
            for page in pages:
                for item in page.get("Contents", []):
                    yield Listed(item["Key"].removeprefix(self._prefix), int(item["Size"]), item["LastModified"])

    def begin(self, key: str) -> str:
        """Start a multipart upload; returns its id. Nothing is under the key until `complete`."""
        with translated(f"writing {key}", self.name):
            return str(self._s3.create_multipart_upload(Bucket=self._bucket, Key=self._prefix + key)["UploadId"])

    def part(self, key: str, upload: str, number: int, content: bytes) -> str:
        """Send one part (numbers start at 1); returns its ETag."""
        with translated(f"writing {key}", self.name):
            answer = self._s3.upload_part(
                Bucket=self._bucket, Key=self._prefix + key, UploadId=upload, PartNumber=number, Body=content
            )
            return str(answer["ETag"])

    def complete(self, key: str, upload: str, tags: list[str]) -> None:
        """Put the parts together under the key."""
        parts = [{"PartNumber": number, "ETag": tag} for number, tag in enumerate(tags, start=1)]
        with translated(f"writing {key}", self.name):
            self._s3.complete_multipart_upload(
                Bucket=self._bucket, Key=self._prefix + key, UploadId=upload, MultipartUpload={"Parts": parts}
            )

    def abort(self, key: str, upload: str) -> None:
        """Give a multipart upload up, so that the store keeps none of its parts."""
        with translated(f"giving up {key}", self.name):
            try:
                self._s3.abort_multipart_upload(Bucket=self._bucket, Key=self._prefix + key, UploadId=upload)
            except ClientError as error:
                if code(error) != "NoSuchUpload":
                    raise

    def rehearse(self) -> Rehearsal:
        """List, then begin a write and give it up: every right that a run needs is tried, and nothing is left behind."""
        bucket = True
        with translated(f"opening bucket {self._bucket!r}", self.name):
            try:
                answer = self._probe()
            except ClientError as error:
                if code(error) != "NoSuchBucket":
                    raise
                answer, bucket = error.response, False
        if bucket:
            key = f"probes/{secrets.token_hex(8)}"
            self.abort(key, self.begin(key))
        return Rehearsal(skew(answer), bucket)

    def _probe(self) -> dict[str, Any]:
        answer: dict[str, Any] = self._s3.list_objects_v2(Bucket=self._bucket, Prefix=self._prefix, MaxKeys=1)
        check_listing(answer, self.name)
        return answer


def rehearse(location: StoreLocation, settings: StoreSettings) -> Rehearsal:
    """Whether a run could use this store; raises what opening and writing raise."""
    return Bucket(location, settings).rehearse()


def addressing_style(chosen: str, *, own_endpoint: bool) -> dict[str, str]:
    """The part of botocore's configuration: a bucket in the path, or as the first part of the host's name.

    `auto` is the path for an endpoint of one's own, since DNS knows no bucket.127.0.0.1, and AWS's own rule for AWS.
    """
    if chosen == "auto":
        return {"addressing_style": "path"} if own_endpoint else {}
    return {"addressing_style": chosen}


def _whole(body: Any) -> bytes:
    """What an answer holds, up to one byte more than `SMALL`; raises botocore's errors for one that is cut short.

    As a context manager botocore's StreamingBody is the raw stream, which checks no length and raises urllib3's errors.
    """
    content = bytearray()
    with contextlib.closing(body):
        while len(content) <= SMALL and (piece := body.read(min(_PIECE, SMALL + 1 - len(content)))):
            content += piece
    return bytes(content)
