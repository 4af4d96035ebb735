"""A Sigstore of one's own on loopback: an issuer of tokens, a certificate authority (Fulcio), a certificate log and a
transparency log (Rekor's API, version 1), as far as clients use them.

It is a stand-in for the services, and everything that it signs is signed as they do it: certificates of ten minutes with an
embedded timestamp of the certificate log (RFC 6962), entries in a Merkle tree with inclusion proof, checkpoint and a signed
time. So real clients sign with it, and real verifiers check what came of it. Tokens, requests for certificates and entries are
checked before anything is issued. What a test wants to be wrong, it sets: `log_delay`, `issues`, `answers`.
"""

from __future__ import annotations

import base64
import hashlib
import json
import struct
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, Final, Self
from urllib.parse import parse_qs, urlsplit

import jwt
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from tests.support.merkle_log import MerkleLog

if TYPE_CHECKING:
    from pathlib import Path

AUDIENCE: Final = "sigstore"
REQUEST_TOKEN: Final = "request"  # what GitHub's runner gives a job, to ask for tokens with
_ISSUER, _ISSUER_V2, _REPOSITORY = (
    x509.ObjectIdentifier(f"1.3.6.1.4.1.57264.1.{number}") for number in (1, 8, 12)
)  # fulcio, oid-info.md
_SCTS: Final = x509.ObjectIdentifier("1.3.6.1.4.1.11129.2.4.2")  # RFC 6962, 3.3
_LIFE: Final = timedelta(minutes=10)
_START: Final = datetime(2024, 1, 1, tzinfo=UTC)
_SHA256: Final = ec.ECDSA(hashes.SHA256())


class Refused(Exception):
    """The services' own words for what they do not take, with an HTTP status."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def key_id(key: ec.EllipticCurvePrivateKey) -> bytes:
    return hashlib.sha256(_spki(key)).digest()


def _spki(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def _new() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def _der(certificate: x509.Certificate) -> str:
    return base64.b64encode(certificate.public_bytes(serialization.Encoding.DER)).decode()


def _pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(serialization.Encoding.PEM).decode()


@dataclass
class LocalSigstore:
    """The services; a context manager. `log_delay` are seconds from a signature to its entry's time."""

    log_delay: int = 0
    issues: str = ""  # the issuer that certificates name, where it is not this one
    also: str = ""  # a second subject in certificates
    usage: x509.ObjectIdentifier = ExtendedKeyUsageOID.CODE_SIGNING  # what certificates are for
    answers: dict[str, tuple[int, str]] = field(default_factory=dict)  # by path: what is answered instead
    said: list[str] = field(default_factory=list)  # the paths that were asked for
    token_key: ec.EllipticCurvePrivateKey = field(default_factory=_new)
    root_key: ec.EllipticCurvePrivateKey = field(default_factory=_new)
    ca_key: ec.EllipticCurvePrivateKey = field(default_factory=_new)
    ct_key: ec.EllipticCurvePrivateKey = field(default_factory=_new)
    log_key: ec.EllipticCurvePrivateKey = field(default_factory=_new)

    def __post_init__(self) -> None:
        self.root = self._authority("root", self.root_key, None, self.root_key)
        self.intermediate = self._authority("intermediate", self.ca_key, self.root, self.root_key)
        self.log = MerkleLog([f"entry {number}".encode() for number in range(5)])
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def url(self) -> str:
        """Of all services; the issuer's name, too."""
        return f"http://127.0.0.1:{self._server.server_port}"

    def token(self, subject: str = "https://ci.example/org/repo/ship.yaml@refs/heads/main", **claims: Any) -> str:
        """An OIDC token for a build, or with `email` for a person; claims that are None are left out."""
        now = int(time.time())
        told = {"iss": self.url, "sub": subject, "aud": AUDIENCE, "iat": now, "exp": now + 300, **claims}
        return jwt.encode({k: v for k, v in told.items() if v is not None}, self.token_key, algorithm="ES256")

    def trusted_root(self) -> dict[str, Any]:
        """What verifiers trust (sigstore/protobuf-specs, trustroot)."""
        return {
            "mediaType": "application/vnd.dev.sigstore.trustedroot+json;version=0.1",
            "tlogs": [self._log(self.log_key)],
            "certificateAuthorities": [
                {
                    "subject": {"organization": "local", "commonName": "local"},
                    "uri": self.url,
                    "certChain": {
                        "certificates": [{"rawBytes": _der(self.intermediate)}, {"rawBytes": _der(self.root)}]
                    },
                    "validFor": {"start": _START.isoformat()},
                }
            ],
            "ctlogs": [self._log(self.ct_key)],
            "timestampAuthorities": [],
        }

    def trust_config(self) -> dict[str, Any]:
        """The same, and where the services are: what clients sign with."""
        service = {
            "url": self.url,
            "majorApiVersion": 1,
            "validFor": {"start": _START.isoformat()},
            "operator": "local",
        }
        return {
            "mediaType": "application/vnd.dev.sigstore.clienttrustconfig.v0.1+json",
            "trustedRoot": self.trusted_root(),
            "signingConfig": {
                "mediaType": "application/vnd.dev.sigstore.signingconfig.v0.2+json",
                "caUrls": [service],
                "oidcUrls": [service],
                "rekorTlogUrls": [service],
                "tsaUrls": [],
                "rekorTlogConfig": {"selector": "ANY"},
                "tsaConfig": {"selector": "ANY"},
            },
        }

    def write(self, folder: Path) -> Path:
        """`trusted_root.json` and `trust_config.json` in a folder; the path of the latter."""
        (folder / "trusted_root.json").write_text(json.dumps(self.trusted_root()))
        path = folder / "trust_config.json"
        path.write_text(json.dumps(self.trust_config()))
        return path

    def _log(self, key: ec.EllipticCurvePrivateKey) -> dict[str, Any]:
        return {
            "baseUrl": self.url,
            "hashAlgorithm": "SHA2_256",
            "publicKey": {
                "rawBytes": base64.b64encode(_spki(key)).decode(),
                "keyDetails": "PKIX_ECDSA_P256_SHA_256",
                "validFor": {"start": _START.isoformat()},
            },
            "logId": {"keyId": base64.b64encode(key_id(key)).decode()},
        }

    def _authority(
        self,
        name: str,
        key: ec.EllipticCurvePrivateKey,
        issuer: x509.Certificate | None,
        signed_by: ec.EllipticCurvePrivateKey,
    ) -> x509.Certificate:
        subject = x509.Name(
            [x509.NameAttribute(NameOID.ORGANIZATION_NAME, "local"), x509.NameAttribute(NameOID.COMMON_NAME, name)]
        )
        usage = x509.KeyUsage(
            digital_signature=False,
            content_commitment=False,
            key_encipherment=False,
            data_encipherment=False,
            key_agreement=False,
            key_cert_sign=True,
            crl_sign=True,
            encipher_only=False,
            decipher_only=False,
        )
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer.subject if issuer else subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(_START)
            .not_valid_after(_START + timedelta(days=3650))
            .add_extension(x509.BasicConstraints(ca=True, path_length=0 if issuer else 1), critical=True)
            .add_extension(usage, critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        )
        if issuer is not None:
            above = x509.AuthorityKeyIdentifier.from_issuer_public_key(signed_by.public_key())
            code = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CODE_SIGNING])
            builder = builder.add_extension(above, critical=False).add_extension(code, critical=False)
        return builder.sign(signed_by, hashes.SHA256())

    def certify(self, asked: dict[str, Any], token: str) -> x509.Certificate:
        """A certificate for whom the token is about; Refused for a token or a request that does not hold.

        What is asked with is a signing request (sigstore-python), or a key and its signature over the subject (cosign).
        """
        try:
            claims = jwt.decode(token, self.token_key.public_key(), ["ES256"], audience=AUDIENCE, issuer=self.url)
        except jwt.InvalidTokenError as error:
            raise Refused(401, f"There was an error processing the identity token: {error}") from error
        email = claims.get("email")
        key = _asked_for(asked, email or claims["sub"])
        name = x509.RFC822Name(email) if email else x509.UniformResourceIdentifier(claims["sub"])
        second = [x509.UniformResourceIdentifier(self.also)] if self.also else []
        now = datetime.now(UTC).replace(microsecond=0)
        issuer = (self.issues or self.url).encode()
        usage = x509.KeyUsage(True, False, False, False, False, False, False, False, False)
        above = x509.AuthorityKeyIdentifier.from_issuer_public_key(self.ca_key.public_key())
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([]))
            .issuer_name(self.intermediate.subject)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now)
            .not_valid_after(now + _LIFE)
            .add_extension(usage, critical=True)
            .add_extension(x509.ExtendedKeyUsage([self.usage]), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
            .add_extension(above, critical=False)
            .add_extension(x509.SubjectAlternativeName([name, *second]), critical=True)
            .add_extension(x509.UnrecognizedExtension(_ISSUER, issuer), critical=False)
            .add_extension(x509.UnrecognizedExtension(_ISSUER_V2, _tagged(0x0C, issuer)), critical=False)
        )
        if repository := claims.get("repository"):
            builder = builder.add_extension(
                x509.UnrecognizedExtension(_REPOSITORY, _tagged(0x0C, repository.encode())), critical=False
            )
        before = builder.sign(self.ca_key, hashes.SHA256()).tbs_certificate_bytes
        listed = x509.UnrecognizedExtension(_SCTS, _tagged(0x04, self._timestamped(before)))
        return builder.add_extension(listed, critical=False).sign(self.ca_key, hashes.SHA256())

    def _timestamped(self, certificate: bytes) -> bytes:
        """The list with one signed timestamp for a certificate that has none yet (RFC 6962, 3.2 and 3.3)."""
        moment = int(time.time() * 1000)
        entry = struct.pack("!BBQH", 0, 0, moment, 1) + key_id(self.ca_key)
        entry += len(certificate).to_bytes(3, "big") + certificate + struct.pack("!H", 0)
        signature = self.ct_key.sign(entry, _SHA256)
        one = struct.pack("!B32sQHBBH", 0, key_id(self.ct_key), moment, 0, 4, 3, len(signature)) + signature
        return struct.pack("!HH", len(one) + 2, len(one)) + one

    def record(self, proposed: dict[str, Any]) -> dict[str, Any]:
        """An entry of the log as Rekor answers it; Refused for a signature that does not hold."""
        kind = proposed.get("kind")
        if kind == "dsse":
            spec = _dsse(proposed["spec"]["proposedContent"])
        elif kind == "hashedrekord":
            spec = _hashed(proposed["spec"])
        else:
            raise Refused(400, f"entry kind {kind!r} is not supported here")
        body = _canonical({"apiVersion": "0.0.1", "kind": kind, "spec": spec})
        with self._lock:
            index = self.log.add(body)
            proof, size, root = self.log.proof(index), self.log.size, self.log.root()
        promised = {
            "body": base64.b64encode(body).decode(),
            "integratedTime": int(time.time()) + self.log_delay,
            "logID": key_id(self.log_key).hex(),
            "logIndex": index,
        }
        entry = {
            **promised,
            "verification": {
                "inclusionProof": {
                    "checkpoint": self.checkpoint(size, root),
                    "hashes": [one.hex() for one in proof],
                    "logIndex": index,
                    "rootHash": root.hex(),
                    "treeSize": size,
                },
                "signedEntryTimestamp": base64.b64encode(self.log_key.sign(_canonical(promised), _SHA256)).decode(),
            },
        }
        return {hashlib.sha256(b"\0" + body).hexdigest(): entry}

    def checkpoint(self, size: int, root: bytes) -> str:
        """A signed note about the tree (transparency-dev/formats, log)."""
        note = f"log.local - 1\n{size}\n{base64.b64encode(root).decode()}\n"
        signed = key_id(self.log_key)[:4] + self.log_key.sign(note.encode(), _SHA256)
        return f"{note}\n\u2014 log.local {base64.b64encode(signed).decode()}\n"


def _asked_for(asked: dict[str, Any], subject: str) -> ec.EllipticCurvePublicKey:
    """The key in a request, once it is shown that who asks has the other half of it."""
    wrong = Refused(400, "The signature supplied in the request could not be verified")
    if "certificateSigningRequest" in asked:
        request = x509.load_pem_x509_csr(base64.b64decode(asked["certificateSigningRequest"]))
        key = request.public_key()
        if not request.is_signature_valid or not isinstance(key, ec.EllipticCurvePublicKey):
            raise wrong
        return key
    given = asked["publicKeyRequest"]
    key = serialization.load_pem_public_key(given["publicKey"]["content"].encode())
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise wrong
    try:
        key.verify(base64.b64decode(given["proofOfPossession"]), subject.encode(), _SHA256)
    except InvalidSignature as error:
        raise wrong from error
    return key


def _tagged(tag: int, content: bytes) -> bytes:
    """DER."""
    size = len(content)
    length = (
        bytes([size]) if size < 128 else b"\x81" + bytes([size]) if size < 256 else b"\x82" + size.to_bytes(2, "big")
    )
    return bytes([tag]) + length + content


def _canonical(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def _verified(certificate: bytes, signature: str, message: bytes, algorithm: Any = hashes.SHA256) -> None:
    key = x509.load_pem_x509_certificate(certificate).public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey)
    try:
        key.verify(base64.b64decode(signature), message, ec.ECDSA(algorithm))
    except InvalidSignature as error:
        raise Refused(400, "verifying signature: invalid signature when validating ASN.1 encoded signature") from error


def _dsse(proposed: dict[str, Any]) -> dict[str, Any]:
    """rekor, pkg/types/dsse/v0.0.1: what is kept are hashes, and the signatures with their certificates."""
    envelope, (verifier,) = json.loads(proposed["envelope"]), proposed["verifiers"]
    payload, kind = base64.b64decode(envelope["payload"]), envelope["payloadType"].encode()
    message = b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)
    for one in envelope["signatures"]:
        _verified(base64.b64decode(verifier), one["sig"], message, hashes.SHA256())
    return {
        "envelopeHash": _hash(proposed["envelope"].encode()),
        "payloadHash": _hash(payload),
        "signatures": [{"signature": one["sig"], "verifier": verifier} for one in envelope["signatures"]],
    }


def _hashed(spec: dict[str, Any]) -> dict[str, Any]:
    """rekor, pkg/types/hashedrekord/v0.0.1."""
    from cryptography.hazmat.primitives.asymmetric.utils import Prehashed

    signature, data = spec["signature"], spec["data"]["hash"]
    certificate = base64.b64decode(signature["publicKey"]["content"])
    _verified(certificate, signature["content"], bytes.fromhex(data["value"]), Prehashed(hashes.SHA256()))
    return {
        "data": {"hash": {"algorithm": data["algorithm"], "value": data["value"]}},
        "signature": {
            "content": signature["content"],
            "publicKey": {"content": signature["publicKey"]["content"]},
        },
    }


def _hash(content: bytes) -> dict[str, str]:
    return {"algorithm": "sha256", "value": hashlib.sha256(content).hexdigest()}


def _handler(sigstore: LocalSigstore) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        _entry = ""

        def log_message(self, *_: Any) -> None:
            """Tests look at what comes of it."""

        def do_GET(self) -> None:
            self._answer(b"")

        def do_POST(self) -> None:
            self._answer(self.rfile.read(int(self.headers.get("Content-Length", 0))))

        def _answer(self, content: bytes) -> None:
            path = urlsplit(self.path).path
            sigstore.said.append(path)
            try:
                if path in sigstore.answers:
                    status, text = sigstore.answers[path]
                    self._send(status, text.encode())
                else:
                    self._send(*self._route(path, content))
            except Refused as error:
                self._send(error.status, json.dumps({"code": 3, "message": str(error)}).encode())

        def _route(self, path: str, content: bytes) -> tuple[int, bytes]:
            if path == "/api/v2/signingCert":
                token = self.headers.get("Authorization", "").removeprefix("Bearer ")
                made = sigstore.certify(json.loads(content), token)
                chain = [_pem(one) for one in (made, sigstore.intermediate, sigstore.root)]
                return 200, json.dumps({"signedCertificateEmbeddedSct": {"chain": {"certificates": chain}}}).encode()
            if path == "/api/v1/signingCert":  # Fulcio's older interface, which cosign 2 speaks
                asked = json.loads(content)
                key = base64.b64decode(asked["publicKey"]["content"])
                given = {"publicKey": {"content": key.decode()}, "proofOfPossession": asked["signedEmailAddress"]}
                token = self.headers.get("Authorization", "").removeprefix("Bearer ")
                made = sigstore.certify({"publicKeyRequest": given}, token)
                return 201, "".join(_pem(one) for one in (made, sigstore.intermediate, sigstore.root)).encode()
            if path == "/api/v1/log/entries":
                entry = sigstore.record(json.loads(content))
                self._entry = next(iter(entry))
                return 201, json.dumps(entry).encode()
            if path == "/token":  # as GitHub's runner offers it to a job
                if self.headers.get("Authorization") != f"bearer {REQUEST_TOKEN}":
                    raise Refused(403, "no")
                (audience,) = parse_qs(urlsplit(self.path).query)["audience"]
                return 200, json.dumps({"value": sigstore.token(aud=audience)}).encode()
            raise Refused(404, f"there is no {path}")

        def _send(self, status: int, content: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            if self._entry:  # by which cosign finds the entry in the answer
                self.send_header("ETag", self._entry)
            self.end_headers()
            with suppress(BrokenPipeError):
                self.wfile.write(content)

    return Handler
