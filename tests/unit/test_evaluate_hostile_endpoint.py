"""A measured endpoint that answers without end, or with more than it was asked for."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import pytest

from containers.errors import BadInput, Error
from containers.evaluate import client as clients
from containers.evaluate import sanity
from containers.evaluate.client import Client
from containers.evaluate.sanity import served
from containers.parameters import EvaluateOptions
from containers.settings import HttpSettings
from flows.serving.endpoint import find, vllm_version
from tests.support.hostile import Asked, answer, dripping, endless, hostile

if TYPE_CHECKING:
    from collections.abc import Callable

Send = Any
STREAM = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n"
EVENT = b'data: {"choices":[{"text":"x"}]}\n\n'

ATTACKS: dict[str, Callable[[Asked, Send], None]] = {
    "a body without end": endless(b" " * 65536),
    "one byte after the other": dripping(b"HTTP/1.1 200 OK\r\nContent-Length: 999999\r\n\r\n", b" ", 0.02),
    "headers one byte after the other": dripping(b"HTTP/1.1 200 OK\r\nX: ", b"y", 0.02),
    "interim answers": dripping(b"", b"HTTP/1.1 100 Continue\r\n\r\n", 0.01),
    "an error without end": dripping(b"HTTP/1.1 400 No\r\n\r\n", b"x" * 65536, 0),
    "a failing server without end": dripping(b"HTTP/1.1 500 No\r\n\r\n", b"x", 0.02),
    "a compressed answer": lambda _, send: send(answer(body=b"x", Content_Encoding="gzip")),
    "a redirect": lambda _, send: send(answer(302, Location="http://127.0.0.1:1/")),
    "events without end": dripping(STREAM, EVENT, 0),
    "an event now and then": dripping(STREAM, EVENT, 0.02),
    "a line without end": dripping(STREAM, b"data: " + b"x" * 65536, 0),
    "comments without end": dripping(STREAM, b": x\n", 0.01),
    "empty lines without end": dripping(STREAM, b"\n" * 4096, 0),
}


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clients, "ANSWER", 4 << 20)
    monkeypatch.setattr(clients, "LONGEST_WAIT", 0.01)
    monkeypatch.setattr(sanity, "PAUSES", (0.0, 0.0))


def options(url: str) -> EvaluateOptions:
    return EvaluateOptions(endpoint=f"{url}/v1", served_model_name="m", attempts=1, request_timeout=0.1)


@pytest.mark.parametrize("how", ["get", "post", "stream"])
@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS)
def test_an_endpoint_that_never_ends(attack: Any, how: str) -> None:
    async def ask(url: str) -> None:
        async with Client(options(url)) as client:
            if how == "get":
                await client.get(f"{url}/v1/models")
            elif how == "post":
                await client.post("completions", {"prompt": "x"})
            else:
                await client.stream("completions", {"prompt": "x"})

    with hostile(attack) as server, pytest.raises(Error):
        asyncio.run(ask(server.url))


@pytest.mark.parametrize(
    "listing",
    [[], "models", None, {"data": {}}, {"data": ["m"]}, {"data": [{}]}, {"data": [{"id": ["m"]}]}, {"data": []}],
)
def test_a_listing_in_another_form_is_bad_input(listing: Any) -> None:
    with pytest.raises(BadInput, match=r"does not list models|serves nothing"):
        asyncio.run(length_of(listing))


def test_a_page_for_a_moment_is_asked_again() -> None:
    """One page in place of an answer, as a gateway sends while it restarts, would else end a measurement as bad input."""
    listing = answer(body=json.dumps({"data": [{"id": "m", "max_model_len": 4096}]}).encode())
    answers = iter([answer(body=b"<!DOCTYPE html><title>Back soon</title>"), listing])

    async def length(url: str) -> int:
        async with Client(options(url).model_copy(update={"request_timeout": 60.0})) as client:
            return await served(client, 64)

    with hostile(lambda _, send: send(next(answers))) as server:
        assert asyncio.run(length(server.url)) == 4096


@pytest.mark.parametrize(
    ("said", "length"), [(4096, 4096), ("many", 0), ([1], 0), (True, 0), (-1, 0), (float("inf"), 0)]
)
def test_a_length_that_is_no_number_is_not_known(said: Any, length: int) -> None:
    assert asyncio.run(length_of({"data": [{"id": "m", "max_model_len": said}]})) == length


async def length_of(listing: Any) -> int:
    with hostile(lambda _, send: send(answer(body=json.dumps(listing).encode()))) as server:
        async with Client(options(server.url).model_copy(update={"request_timeout": 60.0})) as client:
            return await served(client, 64)


@pytest.mark.parametrize("look", [find, vllm_version])
@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS)
def test_an_endpoint_that_is_looked_at(attack: Any, look: Callable[..., object]) -> None:
    with hostile(attack) as server, pytest.raises(Error):
        look(f"{server.url}/v1", HttpSettings(deadline=0.2))


NAME_ATTACKS = ["\x1b[2J", "a\nb", "\u202egpj", "x" * 100_000, "[bold]", ""]


@pytest.mark.parametrize("name", NAME_ATTACKS, ids=lambda name: repr(name[:20]))
def test_a_models_name_is_quoted_safely(name: str) -> None:
    body = json.dumps({"data": [{"id": name}, {"id": "other"}]}).encode()
    with hostile(lambda _, send: send(answer(body=body))) as server, pytest.raises(BadInput) as caught:
        find(f"{server.url}/v1")
    assert "\x1b" not in str(caught.value)
    assert "\u202e" not in str(caught.value)
    assert len(caught.value.message) < 2000


@pytest.mark.parametrize(
    "url",
    ["http://user:hunter2@127.0.0.1:1/v1", "https://hunter2@host/v1", "ftp://127.0.0.1/v1", "http://[::1", "file:///x"],
)
def test_an_endpoint_without_a_login_in_it(url: str) -> None:
    """It would be stored with what was measured."""
    for use in (lambda: find(url), lambda: Client(options(url.removesuffix("/v1")))):
        with pytest.raises(BadInput) as caught:
            use()
        assert "hunter2" not in str(caught.value)
