"""A hostile hub: it keeps the token for itself at most, holds nobody for ever, and cannot speak for the hub itself."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import httpx2
import pytest
from huggingface_hub.errors import HfHubHTTPError
from pydantic import SecretStr

from containers.digest import Digest
from containers.download import retries
from containers.download.hub import HubOrigin
from containers.download.origin import listing_digest
from containers.download.selection import Remote, select
from containers.download.work import resolve
from containers.errors import BadInput, Error, Temporary
from containers.events import Reporter
from containers.hub_http import HubHttp
from containers.settings import HttpSettings, StepSettings
from containers.sources import HubSource, parse
from containers.step import Context
from flows.watching.hub import HubClient
from infra.doctor.hub import hub as look_at_hub
from infra.settings import Settings
from tests.support.hostile import Asked, answer, dripping, endless, hostile

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from infra.doctor import Line

Send = Any
COMMIT = "0" * 40
TOKEN = "hf_canary"
SOURCE = HubSource("acme/tiny", COMMIT)
LISTED = [
    {"type": "file", "path": "config.json", "size": 2, "oid": "1" * 40},
    {"type": "file", "path": "tokenizer.json", "size": 2, "oid": "2" * 40},
    {"type": "file", "path": "model.safetensors", "size": 130, "oid": "3" * 40, "lfs": {"oid": "a" * 64, "size": 9}},
]


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retries, "FIRST_WAIT", 0.001)


def settings_for(url: str, **http: float) -> StepSettings:
    return StepSettings(hub_endpoint=url, hub_token=SecretStr(TOKEN), http=HttpSettings(**http))


def hub(url: str, source: HubSource = SOURCE, **http: float) -> HubOrigin:
    return HubOrigin(source, settings_for(url, **http), lambda _: None)


def watcher(url: str, **http: float) -> HubClient:
    return HubClient(Settings(hub_endpoint=url, hub_token=SecretStr(TOKEN), http=HttpSettings(**http)), {})


def doctor(url: str, **http: float) -> Line:
    settings = Settings(hub_endpoint=url, hub_token=SecretStr(TOKEN), http=HttpSettings(**http))
    return look_at_hub(settings, "hf://acme/tiny")


def honest(listed: Any = LISTED) -> Callable[[Asked, Send], None]:
    def behave(asked: Asked, send: Send) -> None:
        if "/tree/" in asked.path:
            send(answer(body=json.dumps(listed).encode(), Content_Type="application/json"))
        elif asked.method == "HEAD":
            send(answer(200, ETag='"x"', X_Repo_Commit=COMMIT))
        else:
            send(answer(body=json.dumps({"sha": COMMIT}).encode()))

    return behave


def leading_to(url: str) -> dict[str, Callable[[Asked, Send], None]]:
    body = json.dumps(LISTED).encode()
    return {
        "Link": lambda _, send: send(answer(body=body, Link=f'<{url}/next>; rel="next"')),
        "Link to itself": lambda asked, send: send(answer(body=body, Link=f'<{asked.path}>; rel="next"')),
        **{
            f"redirect {status}": lambda _, send, status=status: send(answer(status, Location=f"{url}/x"))
            for status in (301, 302, 303, 307, 308)
        },
    }


USES: dict[str, Callable[[str], object]] = {
    "commit": lambda url: hub(url).commit(),
    "listing": lambda url: hub(url).files(COMMIT),
    "watcher's listing": lambda url: watcher(url).listing("acme/tiny", COMMIT),
    "watcher's head": lambda url: watcher(url).head("acme/tiny", "main"),
    "watcher's tags": lambda url: watcher(url).tags("acme/tiny"),
    "access": lambda url: watcher(url).check_access("acme/tiny", COMMIT),
    "doctor": doctor,
}
TOKEN_ATTACKS = [(way, use) for way in leading_to("") for use in USES]


@pytest.mark.parametrize(("way", "use"), TOKEN_ATTACKS)
def test_the_token_stays_at_the_hub(way: str, use: str) -> None:
    with hostile(lambda _, send: send(answer(body=b"[]"))) as other, hostile(leading_to(other.url)[way]) as server:
        with suppress(Error):
            USES[use](server.url)
        assert server.asked[0].headers["authorization"] == f"Bearer {TOKEN}"
        assert TOKEN not in str(other.asked)
        if use != "access":  # an answer of the API stays at the hub; the contents of a file may be elsewhere
            assert not other.asked


def test_contents_come_from_elsewhere_without_the_token() -> None:
    """As the hub itself has it: a redirect to a CDN."""
    with (
        hostile(lambda _, send: send(answer(body=b"x" * 9))) as cdn,
        hostile(lambda _, send: send(answer(302, Location=f"{cdn.url}/blob"))) as server,
    ):
        with hub(server.url).open(Remote("model.safetensors", 9), 0, 9) as (start, pieces):
            assert (start, b"".join(pieces)) == (0, b"x" * 9)
        assert server.asked[0].has_login
        assert cdn.asked
        assert not cdn.asked[0].has_login


ENDLESS_ATTACKS = {
    "endless": endless(bytes(65536)),
    "endless JSON": endless(b"[" * 65536),
    "dripping": dripping(b"HTTP/1.1 200 OK\r\nContent-Length: 9999999\r\n\r\n"),
    "dripping headers": dripping(b"HTTP/1.1 200 OK\r\nX: "),
    "interim answers": dripping(b"", b"HTTP/1.1 100 Continue\r\n\r\n", 0.01),
    "an endless error": dripping(b"HTTP/1.1 404 No\r\nX-Error-Code: RepoNotFound\r\n\r\n"),
    "an endless redirect": dripping(b"HTTP/1.1 307 No\r\nLocation: /x\r\n\r\n"),
    "a compressed answer": lambda _, send: send(answer(body=b"x", Content_Encoding="gzip")),
}


@pytest.mark.parametrize("use", ["commit", "listing", "watcher", "doctor", "access", "contents"])
@pytest.mark.parametrize("attack", ENDLESS_ATTACKS.values(), ids=ENDLESS_ATTACKS)
def test_a_hub_that_never_ends(attack: Any, use: str) -> None:
    limits = {"deadline": 0.2, "min_rate": 1e9, "rate_window": 0.2}
    with hostile(attack) as server, suppress(Error, httpx2.HTTPError, HfHubHTTPError):
        if use == "contents":
            with hub(server.url, **limits).open(Remote("x", 1 << 20), 0, 1 << 20) as (_, pieces):
                for size, _piece in enumerate(pieces):
                    if size > 100:  # `Transfer` stops where the declared size is passed
                        break
        elif use == "commit":
            hub(server.url, **limits).commit()
        elif use == "listing":
            hub(server.url, **limits).files(COMMIT)
        elif use == "doctor":
            doctor(server.url, **limits)
        elif use == "watcher":
            watcher(server.url, **limits).head("acme/tiny", "main")
        else:
            watcher(server.url, **limits).check_access("acme/tiny", COMMIT)


def test_a_listing_without_end() -> None:
    count = iter(range(10**6))

    def behave(asked: Asked, send: Send) -> None:
        send(answer(body=json.dumps(LISTED).encode() + b" " * (8 << 20), Link=f'</{next(count)}>; rel="next"'))

    with hostile(behave) as server, pytest.raises(BadInput, match="lists more than"):
        watcher(server.url).listing("acme/tiny", COMMIT)


LISTING_ATTACKS: list[Any] = [
    None,
    {},
    "x",
    5,
    [None],
    [5],
    ["x"],
    [[]],
    [{}],
    [{"type": "file"}],
    [{"type": "file", "path": "x"}],
    [{"type": "file", "path": 5, "size": 2, "oid": "1"}],
    [{"type": "file", "path": "x", "size": "2", "oid": "1"}],
    [{"type": "file", "path": "x", "size": -2, "oid": "1"}],
    [{"type": "file", "path": "x", "size": True, "oid": "1"}],
    [{"type": "file", "path": "x", "size": 1e999, "oid": "1"}],
    [{"type": "file", "path": "x", "size": 2}],
    [{"type": "file", "path": "x", "size": 2, "oid": "1", "lfs": 5}],
    [{"type": "file", "path": "x", "size": 2, "oid": "1", "lfs": {"oid": "a" * 63, "size": 2}}],
    [{"type": "file", "path": "x", "size": 2, "oid": "1", "lfs": {"oid": "../../etc", "size": 2}}],
    [{"type": "file", "path": "x", "size": 2, "oid": "1", "lfs": {"size": 2}}],
]


@pytest.mark.parametrize("listed", LISTING_ATTACKS, ids=lambda value: repr(value)[:60])
def test_a_listing_that_is_none(listed: Any) -> None:
    with hostile(honest(listed)) as server:
        for use in (lambda: hub(server.url).files(COMMIT), lambda: watcher(server.url).listing("acme/tiny", COMMIT)):
            with suppress(BadInput, Temporary):
                use()


@pytest.mark.parametrize(
    "sha", ["", "main", "../../x", "0" * 39, "0" * 41, "G" * 40, "0" * 40 + "\n", None, 5, ["0" * 40]]
)
def test_a_commit_that_is_none(sha: Any) -> None:
    with (
        hostile(lambda _, send: send(answer(body=json.dumps({"sha": sha}).encode()))) as server,
        pytest.raises(BadInput, match="names no commit"),
    ):
        hub(server.url, HubSource("acme/tiny")).commit()


def test_a_file_listed_twice() -> None:
    twice = [Remote("config.json", 2, git="1"), Remote("config.json", 2, sha256=Digest("a" * 64))]
    with pytest.raises(BadInput, match="twice"):
        select(twice, "hf://acme/tiny")


ENDPOINT_ATTACKS = [
    "",
    "x",
    "file:///etc",
    "ftp://hub",
    "https://",
    "https://u:hunter2@hub",
    "http://[::1",
    "http://h:99999",
]


@pytest.mark.parametrize("endpoint", ENDPOINT_ATTACKS[1:])
def test_an_endpoint_that_is_none(endpoint: str) -> None:
    with pytest.raises(BadInput) as caught:
        HubHttp(endpoint, SecretStr(TOKEN), HttpSettings())
    assert "hunter2" not in str(caught.value)


# Another hub's statements about the same commit: another size, another digest, a file more, one less, another name.
POISON_ATTACKS: list[Any] = [
    [{**LISTED[0], "oid": "9" * 40}, *LISTED[1:]],
    [{**LISTED[0], "size": 3}, *LISTED[1:]],
    [*LISTED[:2], {**LISTED[2], "lfs": {"oid": "b" * 64, "size": 9}}],
    [*LISTED[:2], {**LISTED[2], "lfs": {"oid": "a" * 64, "size": 10}}],
    [*LISTED, {"type": "file", "path": "chat_template.jinja", "size": 2, "oid": "1" * 40}],
    [*LISTED, {"type": "file", "path": "LICENSE", "size": 2, "oid": "1" * 40}],
    [LISTED[0], {**LISTED[1], "path": "sub/tokenizer.json"}, {**LISTED[1], "path": "tokenizer.json"}, LISTED[2]],
    [{**LISTED[0], "oid": "2" * 40}, {**LISTED[1], "oid": "1" * 40}, LISTED[2]],
]


def resolved(url: str, tmp_path: Path) -> str:
    context = Context(settings_for(url), Reporter(), tmp_path, tmp_path / "result.json")
    return resolve(HubSource("acme/tiny"), context).pinned


@pytest.mark.parametrize("listed", POISON_ATTACKS, ids=range(len(POISON_ATTACKS)))
def test_a_mirror_cannot_take_the_name_of_what_another_gives(listed: Any, tmp_path: Path) -> None:
    """What is pinned is what is kept in the store: two that say something else of one commit have two names."""
    with hostile(honest()) as one, hostile(honest()) as same, hostile(honest(listed)) as evil:
        good = resolved(one.url, tmp_path)
        assert good == resolved(same.url, tmp_path), "what mirrors agree on is kept once"
        assert good.startswith(f"hf://acme/tiny@{COMMIT}#sha256:")
        assert resolved(evil.url, tmp_path) not in (good, f"hf://acme/tiny@{COMMIT}")


def test_a_mirror_that_changes_its_mind(tmp_path: Path) -> None:
    """Between resolving and downloading, or when a run repeats an earlier one."""
    with hostile(honest()) as server:
        pinned = parse(resolved(server.url, tmp_path))
        server.behave = honest(POISON_ATTACKS[0])
        context = Context(settings_for(server.url), Reporter(), tmp_path, tmp_path / "result.json")
        with pytest.raises(BadInput, match="has changed since it was resolved"):
            resolve(pinned, context)


def test_the_hub_itself_is_pinned_by_the_commit() -> None:
    """So that what is in stores keeps its name."""
    for endpoint in (None, "https://huggingface.co", "https://HUGGINGFACE.co:443/"):
        assert HubHttp(endpoint or "https://huggingface.co", None, HttpSettings()).is_public
    for endpoint in (
        "http://huggingface.co",
        "https://huggingface.co.evil.example",
        "https://hf.co",
        "http://127.0.0.1:8080",
    ):
        assert not HubHttp(endpoint, None, HttpSettings()).is_public


def test_a_pinned_source_is_written_as_it_is_read() -> None:
    digest = listing_digest([Remote("x", 1, git="1" * 40)])
    text = f"hf://acme/tiny@{COMMIT}#{digest}"
    assert parse(text) == HubSource("acme/tiny", COMMIT, digest)
    assert str(parse(text)) == text
    assert str(parse("hf://acme/tiny@a#b")) == "hf://acme/tiny@a#b", "a branch may have such a name"
    with pytest.raises(BadInput, match="no commit"):
        parse(f"hf://acme/tiny@main#{digest}")


@pytest.mark.parametrize(
    "text",
    [
        "hf://user:hunter2@hub/org/name",
        "s3://key:hunter2@bucket/prefix",
        "https://user:hunter2@host/org/name",
        "file://user:hunter2@host/folder",
    ],
)
def test_a_password_in_a_source_is_not_repeated(text: str) -> None:
    with pytest.raises(BadInput) as caught:
        parse(text)
    assert "hunter2" not in str(caught.value)
