"""A certificate for loopback that signs itself: trusted by nobody but who names it."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

from containers.process import run

if TYPE_CHECKING:
    from pathlib import Path


def certificate(folder: Path) -> ssl.SSLContext:
    """A server's context for 127.0.0.1 and localhost; the certificate is `cert.pem` in the folder."""
    key, cert = folder / "key.pem", folder / "cert.pem"
    new = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=x", "-days", "2"]
    names = "subjectAltName=IP:127.0.0.1,DNS:localhost,DNS:localhost.localdomain"
    run([*new, "-addext", names, "-keyout", str(key), "-out", str(cert)])
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    return context
