"""Translates what boto3 raises into Carwright's errors: who can fix it, and whether waiting helps."""

from __future__ import annotations

import errno
import re
import time
from contextlib import contextmanager
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, Final

from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectionError,  # noqa: A004  # botocore's own
    HTTPClientError,
    IncompleteReadError,
    NoCredentialsError,
    ParamValidationError,
    PartialCredentialsError,
    SSLError,
)
from botocore.parsers import ResponseParserError

from containers.errors import BadInput, DiskFull, Error, Temporary, exhausted

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from datetime import datetime

    from botocore.awsrequest import AWSResponse
    from botocore.model import OperationModel

    from containers.digest import Digest

# Codes of the S3 API reference ("Error responses"), and of MinIO and Ceph where they have their own.
_CREDENTIALS: Final = {
    "ExpiredToken",
    "InvalidAccessKeyId",
    "InvalidToken",
    "RequestTimeTooSkewed",
    "SignatureDoesNotMatch",
    "TokenRefreshRequired",
}
_FORBIDDEN: Final = {"403", "AccessDenied", "AllAccessDisabled", "AccountProblem", "BucketAlreadyExists"}
_MISSING: Final = {"NoSuchKey", "NotFound"}
_HOSTS_ONLY: Final = {"SecondLevelDomainForbidden", "PathStyleDomainForbidden"}  # Alibaba's and Tencent's word for it
_REDIRECTED: Final = 300
_OF_A_LISTING: Final = {
    "Name",
    "KeyCount",
    "MaxKeys",
    "IsTruncated",
    "Contents",
}  # S3 API, ListObjectsV2: what is in every answer
SKEW: Final = 900.0  # seconds between two clocks from which S3 refuses a signature (RequestTimeTooSkewed)
_FULL: Final = {"507", "InsufficientStorage", "QuotaExceeded", "XMinioStorageFull"}
_FULL_TEXTS: Final = ("no space left on device", "disk quota exceeded")
_BAD_REQUESTS: Final = {"400", "301", "InvalidBucketName", "NoSuchBucket", "PermanentRedirect"}


class DamagedBlob(Temporary):
    """A blob's bytes are not those that its name promises; the next run makes it again."""

    def __init__(self, digest: Digest, why: str, store: str) -> None:
        super().__init__(
            f"blob {digest} is damaged: {why} ({store})",
            remedy="it no longer counts as stored: run the whole pipeline again to make it again",
        )
        self.digest = digest


def code(error: ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))


def is_missing(error: ClientError) -> bool:
    """Whether the key is not there (HEAD has no body, so its code is only the status)."""
    return code(error) in _MISSING or (code(error) == "404" and _without_body(error))


def _without_body(error: ClientError) -> bool:
    return bool(error.operation_name.startswith("Head"))


def check_listing(answer: Mapping[str, Any], store: str) -> None:
    """Raises BadInput where what was answered to a listing is none: any web page that is XML would pass for an empty bucket."""
    if not _OF_A_LISTING & answer.keys():
        raise no_s3("listing", "the answer is not a listing", store)


def no_s3(doing: str, why: str, store: str) -> BadInput:
    return BadInput(
        f"{doing}: no S3 answers at this address: {why} ({store})",
        remedy="correct CARWRIGHT_STORE__ENDPOINT, which is the address of the S3 API and of no registry, console or web page; "
        "or CARWRIGHT_STORE__ADDRESSING, if the bucket is part of its host name",
        doctor="store",
    )


def date(answer: Mapping[str, Any]) -> datetime | None:
    """The store's time by the answer's Date (RFC 9110, 6.6.1), which is exact to a second."""
    said = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("date", "")
    try:
        return parsedate_to_datetime(said).astimezone(UTC)
    except (TypeError, ValueError):
        return None


def skew(answer: Mapping[str, Any]) -> float:
    """Seconds that the store's clock is ahead of this machine's; 0 where it does not tell."""
    now = date(answer)
    return now.timestamp() - time.time() if now is not None else 0.0


@contextmanager
def translated(doing: str, store: str) -> Iterator[None]:
    """Errors of boto3 leave as ours: `doing` says what was tried ("reading blob ..."), `store` names the store."""
    try:
        yield
    except (BotoCoreError, ClientError, ResponseParserError) as error:
        raise translate(error, doing, store) from error
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            where = f" ({error.filename})" if error.filename else ""
            raise DiskFull(
                f"{doing}: no space is left on this machine's disk{where}", remedy="free some space and run it again"
            ) from error
        if what := exhausted(error):
            raise Temporary(
                f"{doing}: no more {what} on this machine",
                remedy="end other programs or raise the limit, and run it again",
            ) from error
        if error.filename is None:
            raise
        raise BadInput(f"{doing}: {error.filename}: {error.strerror}") from error


def translate(error: BotoCoreError | ClientError | ResponseParserError, doing: str, store: str) -> Error:
    if isinstance(error, ClientError):
        return _refused(error, doing, store)
    if isinstance(error, ResponseParserError):
        return no_s3(doing, "the answer is no XML of S3", store)
    if isinstance(error, HTTPClientError | ConnectionError | IncompleteReadError) and not isinstance(error, SSLError):
        return unreachable(doing, store, str(error))
    message = f"{doing}: {error} ({store})"
    for kinds, remedy, doctor in _REMEDIES:
        if isinstance(error, kinds):
            return BadInput(message, remedy=remedy, doctor=doctor)
    return BadInput(message, remedy="check the settings of the store (CARWRIGHT_STORE__...)")


_OF_S3: Final = re.compile(r"etag$|x-amz").match


def refuse_page(http_response: AWSResponse, model: OperationModel, **_: Any) -> None:
    """botocore's `after-call` event: a web page with status 200 is no answer of S3's, and no write that it answers took place.

    What has to be XML is told by its parser, and a listing by `check_listing`; all others would pass for empty successes.
    A store may call an answer or an object HTML, too; its own answers carry an ETag or a header of Amazon's.
    Raises Temporary: where the address is wrong for good, opening the store has said so.
    """
    headers = {name.lower(): value for name, value in http_response.headers.items()}
    page = headers.get("content-type", "").startswith("text/html") and not any(map(_OF_S3, headers))
    if page and model.name != "ListObjectsV2" and http_response.status_code < _REDIRECTED:
        raise Temporary(
            f"a web page answers in the store's place to {model.name} ({http_response.url.partition('?')[0]})",
            remedy="look for a proxy or a login page between here and the store, and run it again",
            doctor="store",
        )


def unreachable(doing: str, store: str, why: str) -> Temporary:
    return Temporary(
        f"{doing}: the store does not answer ({store}): {why}",
        remedy="check that it runs and that CARWRIGHT_STORE__ENDPOINT is right; the same run continues where it stopped",
        doctor="store",
    )


_KEYS: Final = "set CARWRIGHT_STORE__ACCESS_KEY_ID and CARWRIGHT_STORE__SECRET_ACCESS_KEY"
_REMEDIES: Final[tuple[tuple[tuple[type[Exception], ...], str, str], ...]] = (
    ((NoCredentialsError, PartialCredentialsError), _KEYS, "store"),
    (
        (SSLError,),
        "check the endpoint's certificate; name your own authority's bundle in SSL_CERT_FILE",
        "store",
    ),
    ((ParamValidationError, ValueError), "check CARWRIGHT_STORE__BUCKET and CARWRIGHT_STORE__ENDPOINT", ""),
)
# By what the server says: what to do, and the line of `carwright doctor`.
_NAMED: Final[tuple[tuple[set[str], str, str], ...]] = (
    (_CREDENTIALS, f"the store refuses these keys; {_KEYS}", "store"),
    (_HOSTS_ONLY, "this store knows a bucket by its host name: set CARWRIGHT_STORE__ADDRESSING=virtual", ""),
)
_ALSO_WITHOUT_BODY: Final[tuple[tuple[set[str], str, str], ...]] = (
    (_FORBIDDEN, "grant these keys list, get, put and delete on the bucket, or use others", "store"),
    (_BAD_REQUESTS, "check CARWRIGHT_STORE__BUCKET, __ENDPOINT, __REGION and __ADDRESSING", ""),
)


def _refused(error: ClientError, doing: str, store: str) -> Error:
    name, message = code(error), f"{doing}: {error}"
    status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    text = str(error).lower()
    if name in _FULL or status == 507 or any(words in text for words in _FULL_TEXTS):
        return DiskFull(f"{message} (the store is full: {store})", remedy="free space in the store and run it again")
    if _is_a_page(error):
        return no_s3(doing, "the answer is no XML of S3", store)
    if status == 429 or status >= 500 or name in {"RequestTimeout", "SlowDown", "NoSuchUpload", "InvalidPart"}:
        return Temporary(f"{message} ({store})", remedy="the store is busy, failing or full: see its log; run it again")
    return _bad_input(error, status, doing, store) or Error(f"{message} ({store})")


def _is_a_page(error: ClientError) -> bool:
    """Whether a listing was answered with something that is no XML: botocore makes a status of 500 of every such 200."""
    kind = error.response.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("content-type", "")
    return code(error) == "500" and error.operation_name == "ListObjectsV2" and "xml" not in kind


def _bad_input(error: ClientError, status: int, doing: str, store: str) -> BadInput | None:
    name, message = code(error), f"{doing}: {error} ({store})"
    if name == "RequestTimeTooSkewed" or (status in (400, 403) and abs(skew(error.response)) >= SKEW):
        return _wrong_clock(error, message)
    for names, remedy, doctor in _NAMED:
        if name in names:
            return BadInput(message, remedy=remedy, doctor=doctor)
    if name.isdigit() and status != 403 and not _without_body(error):  # 403 is also what a guard before an S3 says
        return no_s3(doing, f"status {status} and nothing of S3 in the answer", store)
    for names, remedy, doctor in _ALSO_WITHOUT_BODY:
        if name in names:
            return BadInput(message, remedy=remedy, doctor=doctor)
    return None


def _wrong_clock(error: ClientError, message: str) -> BadInput:
    ahead = skew(error.response)
    told = f"the store's is {abs(ahead):.0f} s {'ahead of' if ahead > 0 else 'behind'} this machine's" if ahead else ""
    return BadInput(
        f"{message}: the clocks differ too much{f': {told}' if told else ''}",
        remedy="set this machine's clock, or the store's (timedatectl set-ntp true); the keys may well be right",
        doctor="store",
    )
