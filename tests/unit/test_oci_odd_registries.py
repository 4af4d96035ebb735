"""Registries as they are: other challenges, addresses, answers and habits than the simplest one's, each of which somebody runs."""

from __future__ import annotations

import json
import socket
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from pydantic import SecretStr

from containers.digest import Digest
from containers.errors import BadInput, Temporary
from containers.oci import referrers
from containers.oci.answers import broken
from containers.oci.challenges import Challenge, parse
from containers.oci.push_cache import PushCache
from containers.oci.reference import Reference
from containers.oci.registry import Registry
from containers.oci.repository import Blob, ImmutableTag
from containers.settings import HttpSettings, RegistrySettings, StepSettings
from tests.support.certificates import certificate
from tests.support.hostile import Asked, answer, hostile
from tests.support.registry_double import Fault, registry_double

if TYPE_CHECKING:
    from pathlib import Path

BLOB = b"the bytes of a layer" * 100
DIGEST = Digest.of(BLOB)
MANIFEST = "application/vnd.oci.image.manifest.v1+json"


def registry_at(address: str, tmp_path: Path, *, login: bool = True, **changes: Any) -> Registry:
    who = {"host": address, "username": "ann", "password": SecretStr("secret")} if login else {}
    settings = StepSettings(
        cache=tmp_path / "cache",
        docker_config=tmp_path / "docker",
        registry=RegistrySettings(**{"attempts": 4, "timeout": 5, **who, **changes}),
        http=HttpSettings(deadline=10),
    )
    return Registry(Reference.parse(f"{address}/org/car"), settings, PushCache(None), write=True)


def stored(place: Registry, content: bytes = BLOB) -> Digest:
    """A blob that is put there."""
    return place.put_blob(Blob.of(content, "a layer"), lambda _: None)


def car(place: Registry) -> Digest:
    """A small image that is put there."""
    stored(place)
    stored(place, b"{}")
    config = {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": str(Digest.of(b"{}")), "size": 2}
    layer = {"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": str(DIGEST), "size": len(BLOB)}
    content = {"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": [layer]}
    return place.put(json_bytes(content), MANIFEST, "v1")


def json_bytes(value: Any) -> bytes:
    return json.dumps(value).encode()


@pytest.mark.parametrize(
    ("header", "found"),
    [
        ('Basic realm="x"', [("basic", {"realm": "x"})]),
        ("Negotiate", [("negotiate", {})]),
        ('Negotiate, Basic realm="a, b"', [("negotiate", {}), ("basic", {"realm": "a, b"})]),
        ('Negotiate YII=, Basic realm="x"', [("negotiate", {}), ("basic", {"realm": "x"})]),
        (
            'Bearer realm="https://x/t",service="s",scope="repository:a:pull,push",Basic realm=x',
            [
                ("bearer", {"realm": "https://x/t", "service": "s", "scope": "repository:a:pull,push"}),
                ("basic", {"realm": "x"}),
            ],
        ),
        (r'Basic realm="say \"a\\b\"", charset=UTF-8', [("basic", {"realm": 'say "a\\b"', "charset": "UTF-8"})]),
        ('bearer REALM = "https://x/t" , service=s', [("bearer", {"realm": "https://x/t", "service": "s"})]),
        (',, Basic realm="x" ,', [("basic", {"realm": "x"})]),
        ('NTLM, Negotiate, Digest qop="auth", nonce="a=b"', [("ntlm", {}), ("negotiate", {}), ("digest", {"qop": "auth", "nonce": "a=b"})]),
        ('realm="x"', []),
        ("", []),
        ('Basic realm="x', [("basic", {})]),
        ("=== ,=", []),
    ],
)  # fmt: skip
def test_every_challenge_is_read(header: str, found: list[tuple[str, dict[str, str]]]) -> None:
    """RFC 9110, 11.6.1 and 11.2; what is none is passed over."""
    assert parse(header) == tuple(Challenge(*one) for one in found)


BEARER = 'Bearer realm="http://{address}/token",service="test"'
OFFERS = {
    "Negotiate and Basic": ("Negotiate", 'Basic realm="x"'),
    "Negotiate and Basic in one": ('Negotiate, Basic realm="x"',),
    "Basic and Bearer": ('Basic realm="x"', BEARER),
    "Bearer and Basic in one": (BEARER + ', Basic realm="x"',),
    "Bearer without an address, and Basic": ('Bearer realm="the registry"', 'Basic realm="x"'),
    "Bearer without a realm, and Basic": ("Bearer", 'Basic realm="x"'),
    "a Bearer that may not have the login, and Basic": ('Bearer realm="http://evil.example/t"', 'Basic realm="x"'),
    "NTLM, Digest and Bearer": ("NTLM", 'Digest realm="x", nonce="y"', BEARER),
}


@pytest.mark.parametrize("offered", OFFERS.values(), ids=OFFERS)
def test_the_challenge_that_can_be_answered_is(offered: tuple[str, ...], tmp_path: Path) -> None:
    auth = "bearer" if BEARER in str(offered) else "basic"
    with registry_double(auth=auth, challenges=offered) as served, registry_at(served.address, tmp_path) as place:
        assert stored(place) == DIGEST
        assert place.blob_size(DIGEST) == len(BLOB)


def test_a_token_for_nobody_where_there_is_no_login(tmp_path: Path) -> None:
    """A public repository's token is fetched without a login, also where Basic is offered beside it."""
    with registry_double(auth="bearer", challenges=('Basic realm="x"', BEARER)) as served:
        with registry_at(served.address, tmp_path, login=False) as place, pytest.raises(BadInput, match="the login"):
            place.get("v1")
        assert served.tokens


def test_what_cannot_be_answered_is_named(tmp_path: Path) -> None:
    with registry_double(auth="basic", challenges=("Negotiate", "NTLM")) as served:
        with registry_at(served.address, tmp_path) as place, pytest.raises(BadInput, match="answered 401") as caught:
            place.get("v1")
        assert "asks for negotiate, ntlm, which Carwright does not speak" in caught.value.remedy
        assert "docker login" not in caught.value.remedy


def test_a_realm_keeps_its_own_parameters(tmp_path: Path) -> None:
    realm = 'Bearer realm="http://{address}/token?client=x"'
    with registry_double(auth="bearer", challenges=(realm,)) as served, registry_at(served.address, tmp_path) as place:
        assert place.get("v1") is None
        assert served.tokens[-1]["client"] == ["x"]
        assert served.tokens[-1]["scope"] == ["repository:org/car:pull,push"]


@pytest.mark.parametrize("locations", ["", "./", "../../blobs/uploads/", "//{address}/v2/org/car/blobs/uploads/"])
def test_an_upload_whose_location_is_relative(locations: str, tmp_path: Path) -> None:
    """To the request that it answers (RFC 9110, 10.2.2), not to the registry's root. Nothing is sent twice."""
    with registry_double() as served, registry_at(served.address, tmp_path) as place:
        served.locations = locations.replace("{address}", served.address)
        assert stored(place) == DIGEST
        assert served.received == len(BLOB)


@pytest.mark.parametrize("status", [307, 308])
def test_writing_is_redirected(status: int, tmp_path: Path) -> None:
    """Each kind of request once: it is sent again as it was, to where it was led."""
    with registry_double() as served, registry_at(served.address, tmp_path) as place:
        start = "/v2/org/car/blobs/uploads/"
        served.faults = [
            Fault("POST", "uploads", status=status, headers={"Location": start + "?moved"}),
            Fault("PATCH", "uploads/0$", status=status, headers={"Location": "0?moved"}),
            Fault("PUT", "uploads/0", status=status, headers={"Location": f"0?digest={DIGEST}"}),
        ]
        assert stored(place) == DIGEST
        assert not any(one.times for one in served.faults)


def test_a_write_that_would_become_a_read_is_not_followed(tmp_path: Path) -> None:
    fault = Fault("POST", "uploads", status=302, headers={"Location": "/elsewhere/v2/org/car/blobs/uploads/"})
    with registry_double(faults=[fault]) as served, registry_at(served.address, tmp_path) as place:
        with pytest.raises(BadInput, match="answered 302") as caught:
            stored(place)
        assert "leads to /elsewhere" in caught.value.remedy


@pytest.mark.parametrize("links", ["", "list", "/v2/{repository}/tags/list"])
def test_all_pages_of_tags(links: str, tmp_path: Path) -> None:
    with registry_double(links=links) as served, registry_at(served.address, tmp_path) as place:
        served.tags = {("org/car", f"v{number}"): str(DIGEST) for number in range(8)}
        assert place.tags() == tuple(f"v{number}" for number in range(8))


def test_a_listing_that_knows_no_number(tmp_path: Path) -> None:
    with registry_double(knows_n=False) as served, registry_at(served.address, tmp_path) as place:
        assert place.tags() == ()
        served.tags = {("org/car", f"v{number}"): str(DIGEST) for number in range(8)}
        assert len(place.tags()) == 8


def test_digests_among_the_tags(tmp_path: Path) -> None:
    """zuul-registry lists them: what an old candidate is referred by would else look like a release that needs it."""
    with registry_double() as served, registry_at(served.address, tmp_path) as place:
        served.tags = {("org/car", "v1"): str(DIGEST), ("org/car", str(DIGEST)): str(DIGEST)}
        assert place.tags() == ("v1",)


def test_a_blob_that_is_stored_late_is_not_sent_again(tmp_path: Path) -> None:
    """The registry needs longer to store a blob than we wait for its answer: it is looked for, and is there."""
    with (
        registry_double(faults=[Fault("PUT", "uploads", late=2)]) as served,
        registry_at(served.address, tmp_path, timeout=0.3) as place,
    ):
        assert stored(place) == DIGEST
        assert served.received == len(BLOB)
        assert [method for method, path in served.requests if "uploads" in path] == ["POST", "PATCH", "PUT"]


def test_a_blob_that_comes_to_be_stored_later_still(tmp_path: Path) -> None:
    """It is not there at the first look either."""
    looks = 0

    def behave(asked: Asked, send: Any) -> None:
        nonlocal looks
        where = "/v2/org/car/blobs/uploads/1"
        if asked.method == "HEAD":
            looks += 1
            send(answer(200 if looks > 2 else 404, Content_Length=str(len(BLOB))))
        elif asked.method != "PUT":
            send(answer(202, Location=where))
        # and no answer to the PUT

    with hostile(behave) as server, registry_at(server.address, tmp_path, timeout=0.3) as place:
        assert stored(place) == DIGEST
        assert [one.method for one in server.asked] == ["POST", "PATCH", "PUT", "HEAD", "HEAD", "HEAD"]


@pytest.mark.parametrize("code", ["MANIFEST_BLOB_UNKNOWN", "BLOB_UPLOAD_UNKNOWN"])
@pytest.mark.parametrize("status", [400, 404])
def test_a_blob_that_the_registry_does_not_see_yet(status: int, code: str, tmp_path: Path) -> None:
    """What one part of a registry has stored, another may see a moment later: the manifest is sent again."""
    with registry_double() as served, registry_at(served.address, tmp_path) as place:
        fault = Fault("PUT", "manifests", status=status, code=code, times=2)
        served.faults = [fault]
        assert str(car(place)) == served.tags["org/car", "v1"]
        assert not fault.times
        served.faults = [Fault("PUT", "manifests", status=status, code=code, times=99)]
        with pytest.raises(Temporary, match=code):
            car(place)


def attach(place: Registry, subject: Digest, text: str) -> Digest:
    file = referrers.Attachment("report.json", "application/json", text.encode())
    digest, _ = referrers.attach(place, subject, referrers.EVALUATION, (file,))
    return digest


def test_an_empty_list_of_referrers_is_not_the_last_word(tmp_path: Path) -> None:
    """The registry answers the API, knows nothing, and took no note when it was told (no OCI-Subject)."""
    with registry_double(referrers_api="empty") as served, registry_at(served.address, tmp_path) as place:
        subject = car(place)
        one = attach(place, subject, "1")
        assert [found.digest for found in referrers.attached(place, subject)] == [one]
        assert attach(place, subject, "1") == one


def test_what_was_attached_before_the_registry_knew_the_api(tmp_path: Path) -> None:
    with registry_double() as served, registry_at(served.address, tmp_path) as place:
        subject = car(place)
        one = attach(place, subject, "1")
        served.referrers_api = True
        two = attach(place, subject, "2")
        assert sorted(found.digest for found in referrers.attached(place, subject)) == sorted((one, two))


def test_tags_that_cannot_be_moved(tmp_path: Path) -> None:
    """Without the API one referrer has a place, the second does not: said so that a promotion can go on."""
    with registry_double(immutable=True) as served, registry_at(served.address, tmp_path) as place:
        subject = car(place)
        one = attach(place, subject, "1")
        with pytest.raises(ImmutableTag, match=r"lets no tag be moved, so sha256:.* is stored and not attached"):
            attach(place, subject, "2")
        assert [found.digest for found in referrers.attached(place, subject)] == [one]
        with pytest.raises(ImmutableTag, match="answered 400") as caught:
            place.put(b'{"schemaVersion":2,"layers":[]}', MANIFEST, "v1")
        assert "choose a tag that is not there yet" in caught.value.remedy


def test_a_registry_that_knows_no_way_to_delete(tmp_path: Path) -> None:
    """404 for the request, and the image stays: not taken for one that is gone already."""
    with registry_double() as served, registry_at(served.address, tmp_path) as place:
        subject = car(place)
        served.faults = [Fault("DELETE", "manifests", status=404)]
        with pytest.raises(BadInput, match="does not allow deleting"):
            place.delete(subject)
        place.delete(subject)
        place.delete(subject)
        assert place.get(str(subject)) is None


def test_a_registry_with_tls_on_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """HTTPS is tried where HTTP is not understood; its certificate must be vouched for all the same."""
    with registry_double(tls=certificate(tmp_path)) as served:
        with registry_at(served.address, tmp_path) as place, pytest.raises(BadInput, match="TLS failed") as caught:
            place.get("v1")
        assert "SSL_CERT_FILE" in caught.value.remedy
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "cert.pem"))
        with registry_at(served.address, tmp_path) as place:
            assert place.tags() == ()
            assert str(car(place)) == served.tags["org/car", "v1"]
        with registry_at(served.address, tmp_path) as place, place.read_blob(DIGEST) as chunks:
            assert b"".join(chunks) == BLOB, "also where the first thing that is read is a blob"


def test_a_registry_that_says_that_it_wants_tls(tmp_path: Path) -> None:
    """Go's servers answer plain HTTP with 400 and words; where there is no TLS after all, 400 is what it says."""
    told = answer(400, b"Client sent an HTTP request to an HTTPS server.")
    with (
        hostile(lambda _, send: send(told)) as server,
        registry_at(server.address, tmp_path) as place,
        pytest.raises(BadInput, match="answered 400"),
    ):
        place.get("v1")


def gone(number: int) -> httpx.ConnectError:
    error = httpx.ConnectError("no such name")
    error.__cause__ = socket.gaierror(number, "no such name")
    return error


@pytest.mark.parametrize(
    ("host", "number", "kind"),
    [
        ("registry:5000", socket.EAI_NONAME, BadInput),
        ("registry:5000", socket.EAI_AGAIN, BadInput),
        ("quay.example", socket.EAI_NONAME, BadInput),
        ("quay.example", socket.EAI_AGAIN, Temporary),
        ("https://auth.quay.example", socket.EAI_AGAIN, Temporary),
    ],
)
def test_a_name_that_nobody_knows(host: str, number: int, kind: type[Exception]) -> None:
    """At once, with what to do: only a resolver that may answer later is asked again."""
    error = broken(host, gone(number))
    assert isinstance(error, kind)
    assert not (isinstance(error, Temporary) and kind is BadInput)
    assert ("localhost:PORT" in error.remedy) is (kind is BadInput)


def test_a_name_of_a_container_on_the_host(tmp_path: Path) -> None:
    """As the dry run's containers call their registry; found out without a second attempt."""
    host = "carwright-no-such-container:5000"
    with (
        registry_at(host, tmp_path, plain_http=(host,)) as place,
        pytest.raises(BadInput, match="does not know the name"),
    ):
        place.get("v1")
