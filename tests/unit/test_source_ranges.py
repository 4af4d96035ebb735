"""What S3 servers send when a part of an object is asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from pydantic import SecretStr

from containers.errors import BadInput, Temporary
from containers.settings import SourceSettings
from containers.store.source import SourceBucket
from tests.support.hostile import Asked, answer, hostile

if TYPE_CHECKING:
    from collections.abc import Callable

CONTENT = bytes(range(100))
KEY = SecretStr("key")


def read(send: Callable[[Asked, Any], None], *asked: tuple[int, int], etag: str = "") -> list[tuple[int, bytes]]:
    found = []
    with hostile(send) as server:
        settings = SourceSettings(endpoint=server.url, access_key_id=KEY, secret_access_key=KEY)
        bucket = SourceBucket("models", "tiny", settings)
        for start, stop in asked:
            with bucket.read("model.safetensors", etag, start, stop) as (offset, pieces):
                found.append((offset, b"".join(pieces)))
    return found


def part(start: int, stop: int, status: int = 206, **headers: str) -> bytes:
    said = {"Content_Range": f"bytes {start}-{stop - 1}/100", **headers}
    return answer(status, CONTENT[start:stop], **{name: value for name, value in said.items() if value})


@pytest.mark.parametrize("status", [200, 206])
def test_a_part(status: int) -> None:
    """rclone's server sends it with 200."""
    assert read(lambda _, send: send(part(20, 50, status)), (20, 50)) == [(20, CONTENT[20:50])]


def test_a_part_that_does_not_say_where_it_starts() -> None:
    assert read(lambda _, send: send(part(20, 50, Content_Range="")), (20, 50)) == [(20, CONTENT[20:50])]


def test_the_whole_object_in_place_of_a_part() -> None:
    """A server without ranges: it starts at 0."""
    assert read(lambda _, send: send(answer(200, CONTENT)), (20, 50)) == [(0, CONTENT)]


def test_another_part_than_was_asked_for() -> None:
    with pytest.raises(Temporary, match="sent another part"):
        read(lambda _, send: send(part(30, 60)), (20, 50))


def test_an_object_without_an_etag_that_changes_between_two_parts() -> None:
    """Both parts would fit, and the file would be none that ever was there."""
    dates = iter(("Sat, 28 Nov 2026 10:00:00 GMT", "Sat, 28 Nov 2026 10:00:01 GMT"))
    with pytest.raises(BadInput, match="has changed"):
        read(lambda asked, send: send(part(*span(asked), Last_Modified=next(dates))), (0, 50), (50, 100))


def span(asked: Asked) -> tuple[int, int]:
    first, _, last = asked.headers["range"].removeprefix("bytes=").partition("-")
    return int(first), int(last) + 1


def test_dates_do_not_matter_where_there_is_an_etag() -> None:
    dates = iter(("Sat, 28 Nov 2026 10:00:00 GMT", "Sat, 28 Nov 2026 10:00:01 GMT"))
    got = read(lambda asked, send: send(part(*span(asked), Last_Modified=next(dates))), (0, 50), (50, 100), etag="x")
    assert got == [(0, CONTENT[:50]), (50, CONTENT[50:])]
