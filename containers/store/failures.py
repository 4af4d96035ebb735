"""Translates what boto3 raises into Carwright's errors: who can fix it, and whether waiting helps."""

from __future__ import annotations

import errno
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectionError,  # noqa: A004  # botocore's own
    HTTPClientError,
    NoCredentialsError,
    ParamValidationError,
    PartialCredentialsError,
    SSLError,
)

from containers.errors import BadInput, DiskFull, Error, Temporary

if TYPE_CHECKING:
    from collections.abc import Iterator

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
_MISSING: Final = {"404", "NoSuchKey", "NotFound"}
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
    return code(error) in _MISSING


@contextmanager
def translated(doing: str, store: str) -> Iterator[None]:
    """Errors of boto3 leave as ours: `doing` says what was tried ("reading blob ..."), `store` names the store."""
    try:
        yield
    except (BotoCoreError, ClientError) as error:
        raise translate(error, doing, store) from error
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            where = f" ({error.filename})" if error.filename else ""
            raise DiskFull(
                f"{doing}: no space is left on this machine's disk{where}", remedy="free some space and run it again"
            ) from error
        if error.filename is None:
            raise
        raise BadInput(f"{doing}: {error.filename}: {error.strerror}") from error


def translate(error: BotoCoreError | ClientError, doing: str, store: str) -> Error:
    message = f"{doing}: {error}"
    if isinstance(error, ClientError):
        return _refused(error, message, store)
    if isinstance(error, NoCredentialsError | PartialCredentialsError):
        return BadInput(f"{message} ({store})", remedy=_KEYS, doctor="store")
    if isinstance(error, SSLError):
        return BadInput(
            f"{message} ({store})",
            remedy="check the endpoint's certificate; name your own authority's bundle in SSL_CERT_FILE",
            doctor="store",
        )
    if isinstance(error, ParamValidationError | ValueError):
        return BadInput(f"{message} ({store})", remedy="check CARWRIGHT_STORE__BUCKET and CARWRIGHT_STORE__ENDPOINT")
    if isinstance(error, HTTPClientError | ConnectionError):
        return unreachable(doing, store, str(error))
    return BadInput(f"{message} ({store})", remedy="check the settings of the store (CARWRIGHT_STORE__...)")


def unreachable(doing: str, store: str, why: str) -> Temporary:
    return Temporary(
        f"{doing}: the store does not answer ({store}): {why}",
        remedy="check that it runs and that CARWRIGHT_STORE__ENDPOINT is right; the same run continues where it stopped",
        doctor="store",
    )


_CLOCKS: Final = "the clocks of this machine and of the store differ by more than 15 minutes: set them"
_KEYS: Final = "set CARWRIGHT_STORE__ACCESS_KEY_ID and CARWRIGHT_STORE__SECRET_ACCESS_KEY"


def _refused(error: ClientError, message: str, store: str) -> Error:
    name = code(error)
    status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    text = str(error).lower()
    if name in _FULL or status == 507 or any(words in text for words in _FULL_TEXTS):
        return DiskFull(f"{message} (the store is full: {store})", remedy="free space in the store and run it again")
    if name in _CREDENTIALS:
        remedy = _CLOCKS if name == "RequestTimeTooSkewed" else f"the store refuses these keys; {_KEYS}"
        return BadInput(f"{message} ({store})", remedy=remedy, doctor="store")
    if name in _FORBIDDEN:
        return BadInput(
            f"{message} ({store})",
            remedy="grant these keys list, get, put and delete on the bucket, or use others",
            doctor="store",
        )
    if name in _BAD_REQUESTS:
        return BadInput(f"{message} ({store})", remedy="check CARWRIGHT_STORE__BUCKET, __ENDPOINT and __REGION")
    if status == 429 or status >= 500 or name in {"RequestTimeout", "SlowDown", "NoSuchUpload", "InvalidPart"}:
        return Temporary(f"{message} ({store})", remedy="the store is busy, failing or full: see its log; run it again")
    return Error(f"{message} ({store})")
