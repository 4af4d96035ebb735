"""Which of our errors each failure of S3 becomes: the table that says who can mend it and whether a retry helps."""

from __future__ import annotations

import errno
import os
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from botocore import exceptions as botocore_errors
from botocore.parsers import ResponseParserError

from containers.contract import StoreLocation
from containers.errors import BadInput, DiskFull, Error, Temporary
from containers.settings import StoreSettings
from containers.store.client import Bucket
from containers.store.failures import translated
from containers.store.store import Store

URL = "http://127.0.0.1:1"


def refused(code: str, status: int, message: str = "", operation: str = "PutObject") -> botocore_errors.ClientError:
    answer = {"Error": {"Code": code, "Message": message}, "ResponseMetadata": {"HTTPStatusCode": status}}
    return botocore_errors.ClientError(answer, operation)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("raised", "becomes", "says"),
    [
        (refused("InvalidAccessKeyId", 403), BadInput, "ACCESS_KEY_ID"),
        (refused("SignatureDoesNotMatch", 403), BadInput, "SECRET_ACCESS_KEY"),
        (refused("ExpiredToken", 400), BadInput, "ACCESS_KEY_ID"),
        (refused("AccessDenied", 403), BadInput, "grant"),
        (refused("403", 403, operation="HeadObject"), BadInput, "grant"),
        (refused("403", 403), BadInput, "grant"),
        (refused("404", 404), BadInput, "no S3 answers at this address"),
        (refused("RequestTimeTooSkewed", 403), BadInput, "clock"),
        (refused("SecondLevelDomainForbidden", 403), BadInput, "CARWRIGHT_STORE__ADDRESSING=virtual"),
        (refused("NoSuchBucket", 404), BadInput, "BUCKET"),
        (refused("SlowDown", 503), Temporary, "again"),
        (refused("InternalError", 500), Temporary, "again"),
        (refused("502", 502), Temporary, "again"),
        (refused("XMinioStorageFull", 507), DiskFull, "free space"),
        (refused("InternalError", 500, "write x: no space left on device"), DiskFull, "free space"),
        (refused("QuotaExceeded", 403), DiskFull, "free space"),
        (botocore_errors.EndpointConnectionError(endpoint_url=URL), Temporary, "ENDPOINT"),
        (botocore_errors.ConnectTimeoutError(endpoint_url=URL), Temporary, "ENDPOINT"),
        (botocore_errors.ReadTimeoutError(endpoint_url=URL), Temporary, "ENDPOINT"),
        (botocore_errors.ConnectionClosedError(endpoint_url=URL), Temporary, "ENDPOINT"),
        (botocore_errors.IncompleteReadError(actual_bytes=1, expected_bytes=2), Temporary, "does not answer"),
        (botocore_errors.ResponseStreamingError(error="cut"), Temporary, "does not answer"),
        (ResponseParserError("no XML"), BadInput, "no S3 answers at this address"),
        (botocore_errors.SSLError(endpoint_url=URL, error="self-signed"), BadInput, "SSL_CERT_FILE"),
        (botocore_errors.NoCredentialsError(), BadInput, "ACCESS_KEY_ID"),
        (OSError(errno.ENOSPC, "No space left on device", "/full/file"), DiskFull, "/full/file"),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), DiskFull, "free some space"),
        (FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), "/no/such"), BadInput, "/no/such"),
    ],
    ids=lambda value: str(value)[:60] if isinstance(value, Exception) else None,
)
def test_each_failure_has_its_error(raised: Exception, becomes: type[Error], says: str) -> None:
    """The message names what was being done and the store; the remedy names what to change."""
    with pytest.raises(Error) as caught, translated("writing blobs/x", f"{URL}/bucket"):
        raise raised
    assert type(caught.value) is becomes
    assert "writing blobs/x" in str(caught.value)
    assert says in str(caught.value)
    assert caught.value.__cause__ is raised
    if not isinstance(raised, OSError):
        assert URL in str(caught.value)


@pytest.mark.parametrize("operation", ["HeadObject", "PutObject"])
def test_a_clock_that_is_wrong_is_named_whatever_the_store_says(operation: str) -> None:
    """By the Date of its answer: an answer to HEAD has no body, and some servers call the signature wrong."""
    later = format_datetime(datetime.now(UTC) + timedelta(days=1))
    error = refused("403" if operation == "HeadObject" else "SignatureDoesNotMatch", 403, operation=operation)
    error.response["ResponseMetadata"]["HTTPHeaders"] = {"date": later}
    with (
        pytest.raises(BadInput, match=r"the store's is 86[34]\d\d s ahead of this machine's") as caught,
        translated("x", "y"),
    ):
        raise error
    assert "timedatectl" in caught.value.remedy
    assert "ACCESS_KEY" not in caught.value.remedy


def test_what_nobody_foresaw_is_a_bug_and_not_temporary() -> None:
    with pytest.raises(Error) as caught, translated("x", "y"):
        raise refused("SomethingNew", 418)
    assert type(caught.value) is Error
    assert caught.value.exit_code == 1


@pytest.mark.parametrize("endpoint", ["127.0.0.1:9000", "not a url", "http://"])
def test_an_endpoint_that_is_no_url_is_bad_input(endpoint: str) -> None:
    """At the first use: a store that is a folder needs no client."""
    bucket = Bucket(StoreLocation(endpoint=endpoint), StoreSettings())
    with pytest.raises(BadInput, match="endpoint"):
        bucket.read("x")


@pytest.mark.parametrize("key", ["blobs/sha256/x", "results", "results/", "results/../artifacts/x", "results//x", ""])
def test_results_stay_in_their_corner(key: str) -> None:
    """Prefect picks the keys of its results; none of them may reach a blob or a manifest."""
    store = Store(Bucket(StoreLocation(endpoint=URL), StoreSettings()))
    for call in (store.read_key, store.has_key, lambda name: store.write_key(name, b"")):
        with pytest.raises(BadInput, match="results"):
            call(key)


def test_no_more_open_files_is_temporary() -> None:
    """It is no fault of the file's that could not be opened."""
    with pytest.raises(Temporary, match="no more open files on this machine"), translated("writing x", "s3"):
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE), "/scratch/file")
