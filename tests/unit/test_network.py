"""Proxies and certificates: loopback is never asked for through a proxy, and one bundle counts for every library."""

from __future__ import annotations

import socket
import sys
from typing import TYPE_CHECKING

import pytest

from containers.errors import BadInput
from containers.network import completed
from containers.process import run
from tests.support.package_index import serving

if TYPE_CHECKING:
    from pathlib import Path


def test_nothing_is_added_where_nothing_is_set() -> None:
    assert completed({"PATH": "/bin", "NO_PROXY": "example.org", "HTTP_PROXY": ""}) == {}


@pytest.mark.parametrize("name", ["HTTP_PROXY", "https_proxy", "ALL_PROXY"])
def test_loopback_is_excepted_from_a_proxy(name: str) -> None:
    proxy = {name: "http://proxy.example:3128"}
    loopback = "localhost,127.0.0.1,::1"
    assert completed(proxy) == {"NO_PROXY": loopback, "no_proxy": loopback}
    given = completed(proxy | {"NO_PROXY": "a.example, 127.0.0.1"})
    assert given == dict.fromkeys(("NO_PROXY", "no_proxy"), "a.example,127.0.0.1,localhost,::1")
    assert completed(proxy | {"no_proxy": "*"})["NO_PROXY"] == "*"


def test_a_socks_proxy_is_refused_in_words() -> None:
    with pytest.raises(BadInput, match="ALL_PROXY names a SOCKS proxy") as caught:
        completed({"ALL_PROXY": "socks5h://proxy.example:1080"})
    assert "HTTPS_PROXY" in caught.value.remedy


@pytest.mark.parametrize("name", ["SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"])
def test_one_bundle_counts_for_every_library(name: str, tmp_path: Path) -> None:
    bundle = tmp_path / "own ca.pem"
    bundle.touch()
    names = {"SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"}
    assert completed({name: str(bundle)}) == dict.fromkeys(names - {name}, str(bundle))
    assert completed(dict.fromkeys(names, str(bundle))) == {}
    bundle.unlink()
    with pytest.raises(BadInput, match=rf"{name} names .*own ca\.pem, and there is no such file"):
        completed({name: str(bundle)})


def test_a_folder_of_certificates_is_no_file(tmp_path: Path) -> None:
    """OpenSSL takes it by another name."""
    found = completed({"REQUESTS_CA_BUNDLE": str(tmp_path)})
    assert found == {"SSL_CERT_DIR": str(tmp_path), "CURL_CA_BUNDLE": str(tmp_path)}


def test_libraries_reach_loopback_beside_a_proxy(tmp_path: Path) -> None:
    """Nothing listens where the proxy is said to be: a request that went there would fail."""
    script = """if True:
        import sys
        from containers import network
        network.arrange()
        import boto3, httpx, requests
        from botocore.utils import get_environ_proxies
        print(httpx.get(sys.argv[1]).status_code, requests.get(sys.argv[1]).status_code, get_environ_proxies(sys.argv[1]))
    """
    (tmp_path / "file").write_text("content")
    with serving(tmp_path) as index, socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        variables = {"HTTP_PROXY": f"http://127.0.0.1:{closed.getsockname()[1]}"}
        done = run([sys.executable, "-c", script, f"http://127.0.0.1:{index.port}/file"], env=variables)
    assert done.stdout.split() == ["200", "200", "{}"]
