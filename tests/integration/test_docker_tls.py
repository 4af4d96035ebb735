"""An engine elsewhere, by TLS: both sides show certificates of a CA of their own, which no other CA outranks."""

from __future__ import annotations

import json
import ssl
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

import pytest

from containers.errors import Temporary
from containers.process import run
from infra.container_engine import connect
from infra.settings import DockerSettings

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.integration


class _Engine(BaseHTTPRequestHandler):
    """Says its version, as Docker's API has it, and that it has no containers."""

    def do_GET(self) -> None:
        said = {"ApiVersion": "1.41"} if self.path.endswith("/version") else []
        body = json.dumps(said).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None: ...


def _authority(folder: Path) -> None:
    folder.mkdir()
    ca = ["-keyout", str(folder / "ca-key.pem"), "-out", str(folder / "ca.pem"), "-subj", "/CN=ca", "-days", "2"]
    run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", *ca])


def _certificate(folder: Path, key: Path, certificate: Path) -> None:
    request, names = folder / "request.pem", folder / "names"
    names.write_text("subjectAltName=IP:127.0.0.1\n")
    run(
        ["openssl", "req", "-newkey", "rsa:2048", "-nodes", "-keyout", str(key), "-out", str(request), "-subj", "/CN=x"]
    )
    signed = ["-CA", str(folder / "ca.pem"), "-CAkey", str(folder / "ca-key.pem"), "-CAcreateserial", "-days", "2"]
    run(["openssl", "x509", "-req", "-in", str(request), *signed, "-extfile", str(names), "-out", str(certificate)])


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[DockerSettings]:
    """Where it listens; the client's certificates are where DOCKER_CERT_PATH says, as for Docker's own client."""
    for name in ("ours", "another"):
        _authority(tmp_path / name)
    ours = tmp_path / "ours"
    _certificate(ours, ours / "key.pem", ours / "cert.pem")
    _certificate(ours, ours / "server-key.pem", ours / "server.pem")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(ours / "ca.pem"))
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_cert_chain(ours / "server.pem", ours / "server-key.pem")
    with ThreadingHTTPServer(("127.0.0.1", 0), _Engine) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("DOCKER_TLS_VERIFY", "1")
        monkeypatch.setenv("DOCKER_CERT_PATH", str(ours))
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "another" / "ca.pem"))
        yield DockerSettings(host=f"tcp://127.0.0.1:{server.server_port}")
        server.shutdown()


def test_its_own_ca_counts_also_where_the_machine_names_another(engine: DockerSettings) -> None:
    with connect(engine) as found:
        assert found.version == (1, 41)
        assert found.containers() == []


def test_a_certificate_of_another_ca_is_refused(
    engine: DockerSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = tmp_path / "ours"
    (ours / "ca.pem").write_bytes((tmp_path / "another" / "ca.pem").read_bytes())
    monkeypatch.delenv("REQUESTS_CA_BUNDLE")
    with pytest.raises(Temporary, match="CERTIFICATE_VERIFY_FAILED"), connect(engine):
        pass
