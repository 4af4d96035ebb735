"""A bucket to read checkpoints from: any S3 endpoint, with settings of its own, and never written to."""

from __future__ import annotations

from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeVar

import boto3
from botocore import UNSIGNED
from botocore.config import Config
from botocore.exceptions import ClientError, NoCredentialsError

from containers.errors import BadInput, DiskFull, Error, Temporary
from containers.store.client import addressing_style
from containers.store.failures import check_listing, code, translated

if TYPE_CHECKING:
    from collections.abc import Iterator

    from containers.settings import SourceSettings

E = TypeVar("E", bound=Error)

_PIECE: Final = 1 << 20
_PARTIAL: Final = 206  # Partial Content; 200 is the whole object (RFC 9110, 15.3.7 and 14.2)
_CONFIG: Final[dict[str, Any]] = {
    "retries": {"mode": "standard", "total_max_attempts": 4},
    "connect_timeout": 10,
    "read_timeout": 60,
    "max_pool_connections": 64,
    "response_checksum_validation": "when_required",  # many S3 servers have none; the store hashes what arrives
}


@dataclass(frozen=True)
class SourceKey:
    """One object: `path` is relative to the prefix, `etag` without its quotation marks."""

    path: str
    size: int
    etag: str


class SourceBucket:
    """The objects below a prefix. Raises BadInput (keys, permission, names) and Temporary."""

    def __init__(self, bucket: str, prefix: str, settings: SourceSettings) -> None:
        key, secret = settings.access_key_id, settings.secret_access_key
        self._bucket = bucket
        self._prefix = f"{prefix}/" if prefix else ""
        self._name = f"s3://{bucket}/{prefix}"
        self._dates: dict[str, Any] = {}  # of the objects that were read
        addressing = addressing_style(settings.addressing, own_endpoint=settings.endpoint is not None)
        signing = UNSIGNED if settings.unsigned else "s3v4"
        try:
            with self._translated("opening"):
                self._s3: Any = boto3.client(
                    "s3",
                    endpoint_url=settings.endpoint,
                    region_name=settings.region,
                    aws_access_key_id=key.get_secret_value() if key else None,
                    aws_secret_access_key=secret.get_secret_value() if secret else None,
                    config=Config(**_CONFIG, signature_version=signing, s3=addressing),
                )
        except ValueError as error:  # botocore's word for an endpoint that is no URL
            raise BadInput(
                f"the endpoint of s3:// sources is not a URL: {settings.endpoint!r}",
                remedy="write CARWRIGHT_SOURCE__ENDPOINT as http(s)://host:port",
            ) from error

    def listing(self) -> Iterator[SourceKey]:
        """Every object; what S3 consoles make to show a folder (an empty key that ends in /) is left out."""
        with self._translated("listing"):
            pages = self._s3.get_paginator("list_objects_v2").paginate(Bucket=self._bucket, Prefix=self._prefix)
            for page in pages:
                check_listing(page, self._name)
                for item in page.get("Contents", []):
                    path = item["Key"].removeprefix(self._prefix)
                    if path and not path.endswith("/"):
                        yield SourceKey(path, int(item["Size"]), str(item["ETag"]).strip('"'))

    @contextmanager
    def read(self, path: str, etag: str, start: int, stop: int) -> Iterator[tuple[int, Iterator[bytes]]]:
        """The bytes from `start` up to, not including, `stop`, in pieces, and where they really start: at 0 when the server
        has no ranges. BadInput when the object has changed.
        """
        with self._translated(f"reading {path} from"):
            try:
                answer = self._s3.get_object(
                    Bucket=self._bucket,
                    Key=self._prefix + path,
                    Range=f"bytes={start}-{stop - 1}",
                    **({"IfMatch": f'"{etag}"'} if etag else {}),
                )
            except ClientError as error:
                if code(error) in {"PreconditionFailed", "412"}:
                    raise self._changed(path) from error
                raise
            with closing(answer["Body"]) as body:  # as a context manager itself it would check no length
                yield self._start(answer, path, start, etag), iter(lambda: body.read(_PIECE), b"")

    def _start(self, answer: Any, path: str, asked: int, etag: str) -> int:
        """Where an answer starts. Without an ETag to ask for, an object has changed when its date has."""
        if not etag and self._dates.setdefault(path, answer.get("LastModified")) != answer.get("LastModified"):
            raise self._changed(path)
        said = answer.get("ContentRange")  # rclone sends it with 200, and others a part without it
        partial = said is not None or answer["ResponseMetadata"]["HTTPStatusCode"] == _PARTIAL
        if said is not None and not said.startswith(f"bytes {asked}-"):
            raise Temporary(f"{self._name} sent another part of {path} than was asked for", remedy="run it again")
        return asked if partial else 0

    def _changed(self, path: str) -> BadInput:
        return BadInput(
            f"{path} in {self._name} has changed since it was listed", remedy="run again to use the new version"
        )

    @contextmanager
    def _translated(self, doing: str) -> Iterator[None]:
        """As `containers.store.failures`, with the names of these settings in what to do."""
        try:
            with translated(f"{doing} {self._name}", "the source"):
                yield
        except (BadInput, DiskFull, Temporary) as error:
            renamed = self._renamed(error)
            if isinstance(error.__cause__, NoCredentialsError):
                renamed.remedy += "; or CARWRIGHT_SOURCE__UNSIGNED=true, if anybody may read the bucket"
            raise renamed from error

    def _renamed(self, error: E) -> E:
        return type(error)(error.message, remedy=error.remedy.replace("CARWRIGHT_STORE__", "CARWRIGHT_SOURCE__"))
