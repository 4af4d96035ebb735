"""The layer of HTTP that registry, hub and endpoints share, against servers on loopback that do what they like."""

from __future__ import annotations

import contextlib
import gzip
from typing import TYPE_CHECKING, Any

import httpx
import httpx2
import pytest

from containers.errors import BadInput, Error, Temporary
from containers.settings import HttpSettings
from containers.web.exchange import PAGES, Exchange, Pages
from containers.web.limits import TooSlow, Watch, guard
from containers.web.origins import Origin, resolve
from tests.support.hostile import answer, dripping, endless, hostile

if TYPE_CHECKING:
    from collections.abc import Callable

QUICK = HttpSettings(deadline=0.25, min_rate=1000, rate_window=0.25)
LOOSE = HttpSettings()
LIMIT = 1 << 20
_LARGE = gzip.compress(bytes(50 << 20))

# Answers that never come to an end, or to one only after what no machine can hold. None is silent for long.
ENDLESS_ATTACKS = {
    "a body without a length": endless(bytes(65536)),
    "a body in chunks": dripping(
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"10000\r\n" + bytes(65536) + b"\r\n", 0
    ),
    "a body one byte after the other": dripping(b"HTTP/1.1 200 OK\r\nContent-Length: 99999999\r\n\r\n"),
    "tiny chunks": dripping(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n"),
    "chunks with endless extensions": dripping(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1;", b"e=e;", 0),
    "a status line one byte after the other": dripping(b"HTTP/1.1 200 ", b"O"),
    "headers one byte after the other": dripping(b"HTTP/1.1 200 OK\r\nX: ", b"y"),
    "headers without end": dripping(b"HTTP/1.1 200 OK\r\n", b"X-Header: " + b"y" * 1000 + b"\r\n", 0),
    "one header without end": dripping(b"HTTP/1.1 200 OK\r\nX-Header: ", b"y" * 65536, 0),
    "interim answers without end": dripping(b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    "interim answers at full speed": dripping(b"", b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n", 0),
    "trailers without end": dripping(
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n", b"X-Trailer: " + b"y" * 1000 + b"\r\n", 0
    ),
    "an announced terabyte": dripping(b"HTTP/1.1 200 OK\r\nContent-Length: 1099511627776\r\n\r\n", bytes(65536), 0),
    "an error without end": dripping(b"HTTP/1.1 403 No\r\n\r\n", b"x", 0.02),
    "a redirect whose body has no end": dripping(b"HTTP/1.1 302 Found\r\nLocation: /again\r\n\r\n", bytes(65536), 0),
    "a redirect that drips": dripping(b"HTTP/1.1 302 Found\r\nLocation: /again\r\n\r\n"),
}
# Bodies that are not the size they look like.
COMPRESSED_ATTACKS = {
    "gzip": answer(body=_LARGE, Content_Encoding="gzip"),
    "deflate": answer(body=_LARGE, Content_Encoding="deflate"),
    "twice": answer(body=gzip.compress(_LARGE), Content_Encoding="gzip, gzip"),
    "brotli": answer(body=b"x", Content_Encoding="br"),
    "zstd": answer(body=b"x", Content_Encoding="zstd"),
    "in capitals": answer(body=_LARGE, Content_Encoding="GZIP"),
    "unknown": answer(body=b"x", Content_Encoding="\x1b[31m"),
}
# Where a redirect may not lead.
REDIRECT_ATTACKS = [
    "http://user:pass@127.0.0.1:1/",
    "file:///etc/passwd",
    "ftp://127.0.0.1/x",
    "gopher://127.0.0.1:1/x",
    "javascript:alert(1)",
    "data:text/plain,x",
    "unix:///var/run/docker.sock",
    "http://",
    "http:///nohost",
    "http://[::1",
    "http://127.0.0.1:99999/",
    "http://127.0.0.1:-1/",
]
CLIENTS = [httpx.Client, httpx2.Client]


def exchange(client: Any, home: str, limits: HttpSettings = QUICK) -> Exchange:
    return Exchange(client, Origin.of(home), limits)


@pytest.mark.parametrize("client", CLIENTS, ids=["httpx", "httpx2"])
@pytest.mark.parametrize("attack", ENDLESS_ATTACKS.values(), ids=ENDLESS_ATTACKS)
def test_what_never_ends_ends_here(attack: Any, client: Callable[..., Any]) -> None:
    """With an error of ours or of the client, whatever the other side does; the client's own timeout never comes."""
    with hostile(attack) as server, client(timeout=60) as one:
        http = exchange(one, server.url)
        with contextlib.suppress(Error, httpx.HTTPError, httpx2.HTTPError):
            found = http.small(one.build_request("GET", server.url), follow=True, limit=LIMIT)
            assert found.status_code >= 300, "only the beginning of an error is read"
            assert len(found.content) <= LIMIT


@pytest.mark.parametrize("client", CLIENTS, ids=["httpx", "httpx2"])
@pytest.mark.parametrize("attack", COMPRESSED_ATTACKS.values(), ids=COMPRESSED_ATTACKS)
def test_a_compressed_answer_is_not_read(attack: bytes, client: Callable[..., Any]) -> None:
    with hostile(lambda _, send: send(attack)) as server, client() as one:
        with pytest.raises(BadInput, match="compressed") as caught:
            exchange(one, server.url, LOOSE).small(one.build_request("GET", server.url), limit=LIMIT)
        assert "\x1b" not in str(caught.value)


@pytest.mark.parametrize("location", REDIRECT_ATTACKS)
def test_a_redirect_leads_to_plain_http(location: str) -> None:
    with hostile(lambda _, send: send(answer(302, Location=location))) as server, httpx.Client() as one:
        request = one.build_request("GET", server.url, headers={"Authorization": "Bearer t0ken"})
        with pytest.raises((BadInput, httpx.HTTPError)) as caught:
            exchange(one, server.url, LOOSE).small(request, follow=True)
        assert "pass" not in str(caught.value).replace("passwd", "")
        assert len(server.asked) == 1


@pytest.mark.parametrize("location", ["/again", "/again?n={n}", "//{host}/again", "http://{host}/{n}"])
def test_redirects_come_to_an_end(location: str) -> None:
    count = iter(range(10**6))

    def behave(asked: Any, send: Any) -> None:
        send(answer(307, Location=location.format(n=next(count), host=asked.headers["host"])))

    with hostile(behave) as server, httpx.Client() as one:
        with pytest.raises(BadInput, match="redirects in a circle"):
            exchange(one, server.url, LOOSE).small(one.build_request("GET", server.url), follow=True)
        assert len(server.asked) < 10


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_credential_does_not_follow_a_redirect(status: int) -> None:
    """To another port of the same machine, which is another origin. Cookies do not go along, either."""
    with (
        hostile(lambda _, send: send(answer(body=b"caught"))) as other,
        hostile(lambda _, send: send(answer(status, Location=f"{other.url}/x"))) as server,
        httpx.Client() as one,
    ):
        sent = {"Authorization": "Bearer t0ken", "Cookie": "session=t0ken", "Proxy-Authorization": "Basic t0ken"}
        request = one.build_request("GET", server.url, headers=sent)
        found = exchange(one, server.url, LOOSE).small(request, follow=True)
        assert found.content == b"caught"
        assert server.asked[0].headers["authorization"] == "Bearer t0ken"
        assert "t0ken" not in str(other.asked)
        with pytest.raises(BadInput, match="nothing was sent there"):
            exchange(one, server.url, LOOSE).small(one.build_request("GET", server.url), follow=True, stay=True)
        assert len(other.asked) == 1


# Origins that look like https://registry.example and are not it.
ORIGIN_ATTACKS = [
    "https://evil.example/",
    "https://registry.example.evil.example/",
    "https://registry.example:8443/",
    "https://registry.exampl\u0435/",
    "https://sub.registry.example/",
    "https://registry.example@evil.example/",
    "https://registry.example:443@evil.example/",
    "https://evil.example/registry.example",
    "https://evil.example?registry.example",
    "https://evil.example#@registry.example",
    "https://evil.example\\@registry.example",
    "//evil.example/x",
]
# The same host, but without TLS or over what is no HTTP.
DOWNGRADE_ATTACKS = [
    "http://registry.example/",
    "http://registry.example:443/",
    "HTTP://REGISTRY.EXAMPLE/",
    "ws://registry.example/",
    "ftp://registry.example/",
    "http://evil.example/",
]


@pytest.mark.parametrize("url", [*ORIGIN_ATTACKS, *DOWNGRADE_ATTACKS], ids=ascii)
def test_a_credential_stays_at_its_origin(url: str) -> None:
    home, headers = (
        Origin.of("https://registry.example/v2/"),
        {"Authorization": "t0ken", "Cookie": "t0ken", "Accept": "x"},
    )
    try:
        home.keep_credentials_here(resolve("https://registry.example", url), headers)
    except BadInput:
        return
    assert headers == {"Accept": "x"}


@pytest.mark.parametrize("url", DOWNGRADE_ATTACKS)
def test_nothing_at_all_goes_over_a_downgrade(url: str) -> None:
    def handler(request: httpx.Request) -> httpx.Response:
        if request.url.scheme != "https":
            pytest.fail("it was sent")
        return httpx.Response(302, headers={"Location": url})

    with httpx.Client(transport=httpx.MockTransport(handler)) as one:
        http = exchange(one, "https://registry.example", LOOSE)
        with pytest.raises(BadInput, match=r"without TLS|not an http"):
            http.small(one.build_request("GET", "https://registry.example/v2/"), follow=True)


@pytest.mark.parametrize("url", ["https://registry.example", "https://REGISTRY.example.:443/v2/", "/v2/x", "v2/x"])
def test_the_same_origin_gets_it(url: str) -> None:
    headers = {"Authorization": "x"}
    Origin.of("https://registry.example").keep_credentials_here(resolve("https://registry.example", url), headers)
    assert headers


REALM_ATTACKS = [
    ("https://registry.example", "http://registry.example/token"),
    ("https://registry.example", "http://auth.example/token"),
    ("https://registry.example", "http://127.0.0.1/token"),
    ("https://registry.example", "https://user:pass@auth.example/token"),
    ("https://registry.example", "file:///etc/passwd"),
    ("https://registry.example", "/token"),
    ("https://registry.example", ""),
    ("http://127.0.0.1:5000", "http://evil.example/token"),
    ("http://127.0.0.1:5000", "http://127.0.0.2:5000/token"),
    ("http://registry.lan", "http://registry.lan.evil.example/token"),
]


@pytest.mark.parametrize(("registry", "realm"), REALM_ATTACKS)
def test_a_login_is_not_sent_to_this_realm(registry: str, realm: str) -> None:
    with pytest.raises(BadInput):
        Origin.of(registry).check_realm(realm)


@pytest.mark.parametrize(
    ("registry", "realm"),
    [
        ("https://registry-1.docker.io", "https://auth.docker.io/token"),
        ("https://registry.example", "https://registry.example/token"),
        ("http://127.0.0.1:5000", "http://127.0.0.1:5001/token"),
        ("http://127.0.0.1:5000", "https://auth.example/token"),
    ],
)
def test_a_token_service_of_its_own_is_what_the_specification_has(registry: str, realm: str) -> None:
    assert Origin.of(registry).check_realm(realm) == Origin.of(realm)


def _page(link: str, address: str, size: int = 10) -> tuple[httpx.Response, str]:
    asked = httpx.Request("GET", httpx.URL("https://registry.example").join(address))
    return httpx.Response(200, headers={"Link": link}, content=bytes(size), request=asked), address


PAGE_ATTACKS = [
    '<http://evil.example/2>; rel="next"',
    '<//evil.example/2>; rel="next"',
    '<http://registry.example/2>; rel="next"',
    '<https://registry.example:8443/2>; rel="next"',
    '<https://user:pass@registry.example/2>; rel="next"',
    '<https://registry.example/1>; rel="next"',
    '</1>; rel="next"',
    '<>; rel="next", </1>; rel="next"',
    '<file:///etc/passwd>; rel="next"',
    '<https://[::1/2>; rel="next"',
]


@pytest.mark.parametrize("link", PAGE_ATTACKS)
def test_a_listing_stays_where_it_is_and_goes_on(link: str) -> None:
    pages = Pages(Origin.of("https://registry.example"), "the tags")
    with pytest.raises(BadInput):
        pages.following(*_page(link, "/1"))


def _follow_for_ever(pages: Pages, size: int) -> None:
    for number in range(10**6):
        pages.following(*_page(f'</{number + 1}>; rel="next"', f"/{number}", size))


def test_pages_without_end() -> None:
    """Each other than the last: by number, and by size."""
    few = Pages(Origin.of("https://registry.example"), "the tags")
    with pytest.raises(BadInput, match=f"more than {PAGES} pages"):
        _follow_for_ever(few, 10)
    large = Pages(Origin.of("https://registry.example"), "the tags", most_bytes=1 << 20)
    with pytest.raises(BadInput, match="lists more than 11 pages"):
        _follow_for_ever(large, 100_000)


def test_a_circle_of_pages() -> None:
    pages = Pages(Origin.of("https://registry.example"), "the tags")
    assert pages.following(*_page('</2>; rel="next"', "/1")) == "https://registry.example/2"
    assert pages.following(*_page('</3>; rel="next"', "https://registry.example/2")) == "https://registry.example/3"
    with pytest.raises(BadInput, match="repeats a page"):
        pages.following(*_page('</2>; rel="next"', "https://registry.example/3"))
    assert pages.following(*_page('</0>; rel="prev"', "/9")) is None


@pytest.mark.parametrize(
    ("link", "following"),
    [
        ('<?last=b>; rel="next"', "https://registry.example/v2/a/tags/list?last=b"),
        ("<?last=b>", "https://registry.example/v2/a/tags/list?last=b"),
        ('<list?last=b>; rel="next"', "https://registry.example/v2/a/tags/list?last=b"),
        ('</x?last=b>; rel="next"', "https://registry.example/x?last=b"),
        ('<https://registry.example/x>; rel="next"', "https://registry.example/x"),
        ('<?last=b>; rel="last"', None),
        ("<?last=b>, <?last=c>", None),
    ],
)
def test_where_a_listing_goes_on(link: str, following: str | None) -> None:
    """Joined with the address of the page that names it, as RFC 3986 says; some forget to say what the link is."""
    pages = Pages(Origin.of("https://registry.example"), "the tags")
    assert pages.following(*_page(link, "/v2/a/tags/list?n=2")) == following


def test_a_page_that_a_redirect_led_to_goes_on_from_there() -> None:
    pages = Pages(Origin.of("https://registry.example"), "the tags")
    page, _ = _page('<?last=b>; rel="next"', "/v2/moved/tags/list")
    assert pages.following(page, "/v2/a/tags/list") == "https://registry.example/v2/moved/tags/list?last=b"


@pytest.mark.parametrize("client", CLIENTS, ids=["httpx", "httpx2"])
def test_a_file_may_take_long_but_not_crawl(client: Callable[..., Any]) -> None:
    """What is held to a rate has no deadline: longer than one, in time, at the rate."""
    steady = dripping(b"HTTP/1.1 200 OK\r\nContent-Length: 30000\r\n\r\n", bytes(1000), 0.02)
    with hostile(steady) as server, client(timeout=60) as one:
        http = exchange(one, server.url, HttpSettings(deadline=0.3, min_rate=10, rate_window=0.2))
        response = http.open(one.build_request("GET", server.url))
        assert sum(map(len, http.pieces(response.iter_raw()))) == 30000
    crawling = dripping(b"HTTP/1.1 200 OK\r\nContent-Length: 30000\r\n\r\n")
    with hostile(crawling) as server, client(timeout=60) as one:
        http = exchange(one, server.url)
        response = http.open(one.build_request("GET", server.url))
        with pytest.raises((TooSlow, httpx.ReadTimeout, httpx2.ReadTimeout)):
            list(http.pieces(response.iter_raw()))


def test_an_upload_that_nobody_takes() -> None:
    """The request's head is read and its body never is."""

    def body() -> Any:
        while True:
            yield bytes(65536)

    def never(asked: Any, send: Any) -> None:
        dripping(b"", b"HTTP/1.1 100 Continue\r\n\r\n")(asked, send)

    with hostile(never) as server, httpx.Client(timeout=60) as one:
        request = one.build_request("PATCH", server.url, content=body(), headers={"Content-Length": str(1 << 50)})
        with pytest.raises((Temporary, httpx.TransportError)):
            exchange(one, server.url, HttpSettings(min_rate=10**12, rate_window=0.3)).upload(request)


def test_time_that_the_caller_takes_is_not_the_senders_fault() -> None:
    watch = Watch("server", rate=1000, window=1.0)
    for _ in range(20):
        assert watch.timeout(None)
        watch.moved(200, 0.1)
    assert watch.timeout(None)
    with pytest.raises(TooSlow, match=r"less than 1\.0 kB a second"):
        watch.moved(10, 1.0)


def test_a_satisfied_window_leaves_the_whole_next_one() -> None:
    """Between the last byte of an upload and the answer the registry may think for a whole window."""
    watch = Watch("server", rate=1000, window=60.0)
    watch.moved(10**9, 59.0)
    assert watch.timeout(60.0) == 60.0


def test_a_session_may_be_guarded_again_and_again() -> None:
    """As the hub's is, at every request."""
    with hostile(lambda _, send: send(answer(body=b"x"))) as server, httpx.Client() as one:
        for _ in range(5000):
            guard(one)
        assert one.get(server.url).content == b"x"


def test_what_an_honest_server_says_arrives() -> None:
    """Body, status, headers and links, of a GET and of a HEAD; an unused compression of a HEAD is no fault."""

    def behave(asked: Any, send: Any) -> None:
        if asked.method == "HEAD":
            send(b"HTTP/1.1 200 OK\r\nContent-Length: 12345\r\nContent-Encoding: gzip\r\n\r\n")
        else:
            send(answer(body=b'{"a":1}', Link='</2>; rel="next"', Content_Type="application/json"))

    with hostile(behave) as server, httpx.Client() as one:
        http = exchange(one, server.url, LOOSE)
        found = http.small(one.build_request("GET", server.url))
        assert (found.status_code, found.json(), found.links["next"]["url"]) == (200, {"a": 1}, "/2")
        head = http.small(one.build_request("HEAD", server.url))
        assert (head.status_code, head.headers["Content-Length"]) == (200, "12345")
