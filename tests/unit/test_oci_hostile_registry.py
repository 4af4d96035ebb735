"""A hostile registry: it gets its own login at most, leads no login to anybody else, and holds nobody for ever."""

from __future__ import annotations

import base64
import json
import re
import sqlite3
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest
from pydantic import SecretStr

from containers.digest import Digest
from containers.errors import BadInput, Error, Temporary
from containers.oci.credentials import find_credentials
from containers.oci.push_cache import PushCache
from containers.oci.reference import Reference
from containers.oci.registry import Registry
from containers.oci.repository import Blob
from containers.settings import HttpSettings, RegistrySettings, StepSettings
from tests.support.hostile import Asked, answer, dripping, endless, hostile

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

Send = Any
BLOB = b"the bytes of a layer" * 100
DIGEST = Digest.of(BLOB)
BASIC = "Basic " + base64.b64encode(b"ann:hunter2").decode()


def settings_for(host: str, tmp_path: Path, **http: float) -> StepSettings:
    return StepSettings(
        cache=tmp_path / "cache",
        docker_config=tmp_path / "docker",
        registry=RegistrySettings(host=host, username="ann", password=SecretStr("hunter2"), attempts=2, timeout=5),
        http=HttpSettings(**http),
    )


def registry_at(host: str, settings: StepSettings, cache: PushCache | None = None) -> Registry:
    return Registry(Reference.parse(f"{host}/org/car"), settings, cache or PushCache(None), write=True)


def challenging(
    then: Callable[[Asked, Send], None], challenge: str = 'Basic realm="x"'
) -> Callable[[Asked, Send], None]:
    """First a 401, so that the client logs in."""

    def behave(asked: Asked, send: Send) -> None:
        if asked.has_login:
            then(asked, send)
        else:
            send(answer(401, WWW_Authenticate=challenge.format(host=asked.headers["host"])))

    return behave


def leading_to(url: str) -> dict[str, Callable[[Asked, Send], None]]:
    """Every way in which a registry names another address, which is `url`."""

    def upload(asked: Asked, send: Send) -> None:
        send(answer(202, Location=f"{url}/upload") if asked.method == "POST" else answer(404))

    def second_step(asked: Asked, send: Send) -> None:
        at_home = f"/v2/org/car/blobs/uploads/1?{asked.method}"
        send(answer(202, Location=at_home if asked.method == "POST" else f"{url}/upload"))

    def redirect(status: int) -> Callable[[Asked, Send], None]:
        return lambda _, send: send(answer(status, Location=f"{url}/moved"))

    def link(asked: Asked, send: Send) -> None:
        kind = "application/vnd.oci.image.index.v1+json"
        body = json.dumps({"schemaVersion": 2, "tags": ["v1"], "manifests": [], "mediaType": kind}).encode()
        send(answer(body=body, Link=f'<{url}/next>; rel="next"', Content_Type=kind))

    return {
        "Location of a POST": upload,
        "Location of a PATCH": second_step,
        "Link": link,
        **{f"redirect {status}": redirect(status) for status in (301, 302, 303, 307, 308)},
    }


def _read(place: Registry) -> bytes:
    with place.read_blob(DIGEST) as chunks:
        return b"".join(chunks)


USES: dict[str, Callable[[Registry], object]] = {
    "push a blob": lambda place: place.put_blob(Blob.of(BLOB), lambda _: None),
    "push a manifest": lambda place: place.put(b"{}", "application/vnd.oci.image.manifest.v1+json", "v1"),
    "read a manifest": lambda place: place.get("v1"),
    "read a blob": _read,
    "look for a blob": lambda place: place.blob_size(DIGEST),
    "list tags": lambda place: place.tags(),
    "list referrers": lambda place: place.referrers(DIGEST),
    "delete": lambda place: place.delete(DIGEST),
}
# Ways of leading away, tried with every use of a registry.
CREDENTIAL_ATTACKS = [(way, use) for way in leading_to("") for use in USES]


@pytest.mark.parametrize(("way", "use"), CREDENTIAL_ATTACKS)
def test_a_login_goes_to_its_registry_alone(way: str, use: str, tmp_path: Path) -> None:
    """The other server, on a port of its own, never sees an Authorization header; nor does it get a token fetched for it."""

    def greedy(asked: Asked, send: Send) -> None:
        realm = f"http://{asked.headers['host']}/token"
        send(answer(401, WWW_Authenticate=f'Bearer realm="{realm}",service="x"'))

    with (
        hostile(greedy) as other,
        hostile(challenging(leading_to(other.url)[way])) as server,
        registry_at(server.address, settings_for(server.address, tmp_path)) as place,
        suppress(Error),
    ):
        USES[use](place)
    assert any(one.headers.get("authorization") == BASIC for one in server.asked), (
        "the registry itself was logged in to"
    )
    for one in other.asked:
        assert not one.has_login
        assert "hunter2" not in str(one)
        assert not one.path.startswith("/token"), "a 401 of another server is not answered"


# Challenges whose realm may not get the login of a registry on 127.0.0.1.
CHALLENGE_ATTACKS = [
    'Bearer realm="http://evil.example/token"',
    'Bearer realm="http://localhost.evil.example/token",service="x"',
    'Bearer realm="http://127.0.0.1@evil.example/token"',
    'Bearer realm="http://ann:hunter2@{host}/token"',
    'Bearer realm="file:///etc/passwd"',
    'Bearer realm="ftp://{host}/token"',
    'Bearer realm="/token"',
    'Bearer realm=""',
    'Bearer realm="http://[::1"',
    'Bearer realm="http://127.0.0.1:99999/"',
    'bearer REALM="http://evil.example/token"',
]


@pytest.mark.parametrize("challenge", CHALLENGE_ATTACKS)
def test_a_login_is_not_sent_to_any_realm(challenge: str, tmp_path: Path) -> None:
    with (
        hostile(challenging(lambda _, send: send(answer(200)), challenge)) as server,
        registry_at(server.address, settings_for(server.address, tmp_path)) as place,
    ):
        with pytest.raises(BadInput) as caught:
            place.get("v1")
        assert "hunter2" not in str(caught.value)
        assert not any(one.has_login for one in server.asked)


# What a token service may answer.
TOKEN_ATTACKS = [
    b"",
    b"null",
    b"[]",
    b"{}",
    b'{"token": null}',
    b'{"token": ""}',
    b'{"token": "a\\r\\nX-Evil: 1"}',
    b'{"token": "a b"}',
    b'{"token": "\\u001b[31m"}',
    b'{"token": "\\ud800"}',
    json.dumps({"token": "x" * 100_000}).encode(),
    b"[" * 100_000,
    b"\xff\xfe",
]


@pytest.mark.parametrize("body", TOKEN_ATTACKS, ids=lambda body: repr(body[:30]))
def test_a_token_that_is_none(body: bytes, tmp_path: Path) -> None:
    def behave(asked: Asked, send: Send) -> None:
        if asked.path.startswith("/token"):
            send(answer(body=body))
        else:
            send(answer(401, WWW_Authenticate=f'Bearer realm="http://{asked.headers["host"]}/token"'))

    with (
        hostile(behave) as server,
        registry_at(server.address, settings_for(server.address, tmp_path)) as place,
        pytest.raises(BadInput, match="answered a login"),
    ):
        place.get("v1")


@pytest.mark.parametrize("life", ["1e999", "-1e999", "NaN", "-5", "1e300", "true", '"60"', "null", "[]"])
def test_the_life_of_a_token_is_bounded(life: str, tmp_path: Path) -> None:
    """Whatever is said, the token is used, and asked for again in the end."""

    def behave(asked: Asked, send: Send) -> None:
        if asked.path.startswith("/token"):
            send(answer(body=f'{{"token": "good", "expires_in": {life}}}'.encode()))
        elif asked.headers.get("authorization") == "Bearer good":
            send(answer(404))
        else:
            send(answer(401, WWW_Authenticate=f'Bearer realm="http://{asked.headers["host"]}/token"'))

    with hostile(behave) as server, registry_at(server.address, settings_for(server.address, tmp_path)) as place:
        assert place.get("v1") is None


# Logins that must not reach the registry evil.example.
LOGIN_ATTACKS = [
    "quay.io",
    "QUAY.io",
    "quay.io:443",
    "quay.io.evil.example",
    "evil.example:5000",
    "docker.io",
    "127.0.0.1",
]


@pytest.mark.parametrize("host", LOGIN_ATTACKS)
def test_a_login_by_variable_is_for_its_registry(host: str, tmp_path: Path) -> None:
    """Neither a base (`--base evil.example/x`) nor anything else that is read gets it."""
    settings = settings_for(host, tmp_path)
    assert find_credentials("evil.example", "org/car", settings) is None
    found = find_credentials(host.lower(), "org/car", settings)
    assert found is not None
    assert found.username == "ann"


def test_a_login_for_no_registry_goes_to_none(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="for no registry in particular") as caught:
        find_credentials("quay.io", "org/car", settings_for("", tmp_path))
    assert "CARWRIGHT_REGISTRY__HOST=quay.io" in caught.value.remedy
    hub = settings_for("docker.io", tmp_path)
    assert find_credentials("index.docker.io", "org/car", hub) is not None, "two names of one registry"


# Answers that try to hold the client for ever, or to fill its memory.
ENDLESS_ATTACKS = {
    "endless": endless(bytes(65536)),
    "dripping": dripping(b"HTTP/1.1 200 OK\r\nContent-Length: 9999999\r\n\r\n"),
    "dripping headers": dripping(b"HTTP/1.1 200 OK\r\nX: "),
    "interim answers": dripping(b"", b"HTTP/1.1 100 Continue\r\n\r\n", 0.01),
}


@pytest.mark.parametrize(
    "use", ["read a manifest", "read a blob", "look for a blob", "list tags", "list referrers", "push a manifest"]
)
@pytest.mark.parametrize("attack", ENDLESS_ATTACKS.values(), ids=ENDLESS_ATTACKS)
def test_a_registry_that_never_ends(attack: Any, use: str, tmp_path: Path) -> None:
    """An error at the end of the deadline; a blob ends where its reader has what was declared, which the reader watches."""
    limits = {"deadline": 0.2, "min_rate": 1e9, "rate_window": 0.2}
    settings = settings_for("", tmp_path, **limits)
    settings = settings.model_copy(update={"registry": RegistrySettings(attempts=1, timeout=0.2)})
    with (
        hostile(attack) as server,
        registry_at(server.address, settings) as place,
        suppress(Error),
    ):
        if use == "read a blob":
            with place.read_blob(DIGEST) as chunks:
                for size, chunk in enumerate(chunks):
                    assert len(chunk) <= 1 << 20
                    if size > 20:
                        break
        else:
            USES[use](place)


def test_tags_without_end(tmp_path: Path) -> None:
    def behave(asked: Asked, send: Send) -> None:
        number = int((re.search(r"last=(\d+)", asked.path) or [0, 0])[1]) + 1
        body = json.dumps({"tags": [f"t{number}"]}).encode() + b" " * (8 << 20)
        send(answer(body=body, Link=f'</v2/org/car/tags/list?last={number}>; rel="next"'))

    with hostile(behave) as server, registry_at(server.address, settings_for("", tmp_path)) as place:
        with pytest.raises(BadInput, match="lists more than"):
            place.tags()
        assert len(server.asked) <= 1000


HEADER_ATTACKS = {
    "Content-Length": ("look for a blob", {"Content_Length": "0"}),
    "Range": ("push a blob", {"Range": "0-" + "9" * 5000, "Location": "/v2/org/car/blobs/uploads/1"}),
    "Retry-After": ("read a manifest", {"Retry_After": "\u00b2"}),
    "Retry-After as a date": ("read a manifest", {"Retry_After": "Fri, 31 Dec 99999 23:59:59 GMT"}),
    "Retry-After for ever": ("read a manifest", {"Retry_After": "9" * 400}),
    "Docker-Content-Digest": ("push a manifest", {"Docker_Content_Digest": "sha256:" + "\x01"}),
}


@pytest.mark.parametrize(("use", "headers"), HEADER_ATTACKS.values(), ids=HEADER_ATTACKS)
def test_headers_that_are_none(use: str, headers: dict[str, str], tmp_path: Path) -> None:
    """An error of ours, or none; never one of Python's."""
    settings = settings_for("", tmp_path).model_copy(update={"registry": RegistrySettings(attempts=1, timeout=5)})
    status = (
        429
        if "Retry_After" in headers
        else 201
        if "Docker_Content_Digest" in headers
        else 202
        if "Range" in headers
        else 200
    )
    with (
        hostile(lambda _, send: send(answer(status, **headers))) as server,
        registry_at(server.address, settings) as place,
        suppress(BadInput, Temporary),
    ):
        USES[use](place)


def test_an_error_body_is_quoted_safely(tmp_path: Path) -> None:
    """At most a line of it, without what a terminal obeys, and without the login that it repeats."""

    def behave(asked: Asked, send: Send) -> None:
        message = f"\x1b[2J\nerror: forged\u202e {asked.headers.get('authorization')} " + "x" * 10_000
        send(answer(403, json.dumps({"errors": [{"code": "DENIED", "message": message}]}).encode()))

    with (
        hostile(challenging(behave)) as server,
        registry_at(server.address, settings_for(server.address, tmp_path)) as place,
        pytest.raises(BadInput, match="answered 403") as caught,
    ):
        place.get("v1")
    assert "\n" not in caught.value.message
    assert "\x1b" not in caught.value.message
    assert BASIC.partition(" ")[2] not in str(caught.value)
    assert len(caught.value.message) < 600


def test_an_upload_of_an_earlier_run_is_not_a_way_out(tmp_path: Path) -> None:
    """A location that was remembered, by whomever, is asked without the login when it is another server's."""
    with (
        hostile(lambda _, send: send(answer(202, Range="0-5"))) as other,
        hostile(challenging(lambda _, send: send(answer(500)))) as server,
    ):
        cache = PushCache(tmp_path / "cache")
        cache.remember_upload(f"{server.address}/org/car@{DIGEST}", f"{other.url}/upload")
        with sqlite3.connect(tmp_path / "cache" / "oci.sqlite") as base:
            base.execute("update upload set owner = '0:0'")  # the process that remembered it is gone
        base.close()
        with registry_at(server.address, settings_for(server.address, tmp_path), cache) as place, suppress(Error):
            place.get("v1")
        with registry_at(server.address, settings_for(server.address, tmp_path), cache) as place, suppress(Error):
            place.put_blob(Blob.of(BLOB), lambda _: None)
        assert other.asked
        assert not any(one.has_login for one in other.asked)
    assert (tmp_path / "cache" / "oci.sqlite").stat().st_mode & 0o077 == 0
