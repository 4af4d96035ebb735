"""Bundles, statements, keys and policies that others wrote: a value or BadInput, whatever is given."""

from __future__ import annotations

import base64
import json
from contextlib import suppress
from pathlib import Path
from typing import Final

from hypothesis import given

from containers.digest import Digest
from containers.errors import BadInput, NotTrusted
from containers.identity_token import check_token
from containers.trust import certified
from containers.trust.dsse import IN_TOTO, Envelope, read_bundle, write_bundle
from containers.trust.keys import PrivateKey, PublicKey
from containers.trust.model_signing import listed_in, statement
from containers.trust.policy import Policy
from containers.trust.simplesigning import SimpleSignature, payload
from containers.trust.statement import ForeignStatement
from tests.fuzz.strategies import texts

_KEYS: Final = Path(__file__).parents[1] / "golden" / "trust"
_PUBLIC: Final = PublicKey.parse((_KEYS / "cosign.pub").read_text(), "k")
_ABOUT: Final = Digest.of(b"image")
_BUNDLE: Final = json.loads(write_bundle(Envelope(b"{}", b"signature"), _PUBLIC))
_ROOT: Final = certified.public_root()
_ROOT_VALUE: Final = json.loads(_ROOT)
_AUTHORITY: Final = _ROOT_VALUE["certificateAuthorities"][0]["certChain"]["certificates"][0]
_ENTRY: Final = {
    "logIndex": "1",
    "logId": {"keyId": "AAAA"},
    "kindVersion": {"kind": "dsse", "version": "0.0.1"},
    "integratedTime": "1700000000",
    "inclusionPromise": {"signedEntryTimestamp": "AAAA"},
    "inclusionProof": {
        "logIndex": "1",
        "rootHash": "AAAA",
        "treeSize": "2",
        "hashes": ["AAAA"],
        "checkpoint": {"envelope": "log - 1\n2\nAAAA\n\n\u2014 log AAAAAAAA\n"},
    },
    "canonicalizedBody": "e30=",
}
_CERTIFIED: Final = {**_BUNDLE, "verificationMaterial": {"certificate": _AUTHORITY, "tlogEntries": [_ENTRY]}}
_CLAIMS: Final = {"iss": "https://i", "sub": "s", "aud": "sigstore", "iat": 1, "exp": 4_000_000_000, "nbf": 1}
_STATEMENT: Final = json.loads(statement("model", {"config.json": _ABOUT, "a/b": _ABOUT}))
_SIMPLE: Final = json.loads(payload("quay.io/org/model", _ABOUT))
_POLICY: Final = {
    "keys": [{"name": "a", "pem": _PUBLIC.pem, "statements": ["verdict"], "since": "2026-01-01"}],
    "require": {"statements": ["signature"], "signers": 1},
    "gate": {"decisions": ["pass"]},
    "base_images": [{"repository": "*", "keys": ["a"]}],
    "deny": [str(_ABOUT)],
}
_KEY_FILE: Final = {
    "kdf": {"name": "scrypt", "params": {"N": 2, "r": 1, "p": 1}, "salt": "AAAA"},
    "cipher": {"name": "nacl/secretbox", "nonce": base64.b64encode(bytes(24)).decode()},
    "ciphertext": base64.b64encode(bytes(40)).decode(),
}


@given(texts(_BUNDLE))
def test_bundle(text: bytes) -> None:
    with suppress(BadInput):
        found = read_bundle(text, "b")
        assert not _PUBLIC.verifies(found.signature, found.message)
        assert found.payload_type == IN_TOTO or found.payload_type


@given(texts(_CERTIFIED))
def test_bundle_with_a_certificate(text: bytes) -> None:
    """Whatever the library makes of it, it is not trusted."""
    with suppress(BadInput, NotTrusted):
        found = read_bundle(text, "b")
        assert found.certified
        certified.verify(found.certified, _ROOT, "b")
        raise AssertionError(text)


@given(texts(_ROOT_VALUE))
def test_trusted_root(text: bytes) -> None:
    with suppress(BadInput, UnicodeDecodeError):
        certified.read_root(text.decode(), "r")


@given(texts(_CLAIMS))
def test_token(claims: bytes) -> None:
    encoded = (base64.urlsafe_b64encode(part).rstrip(b"=") for part in (b'{"alg":"none"}', claims, b"x"))
    with suppress(BadInput):
        check_token(b".".join(encoded).decode())


@given(texts(_STATEMENT))
def test_statement(text: bytes) -> None:
    with suppress(BadInput):
        told = ForeignStatement.parse(text, "s")
        assert told.subjects.isprintable()
        told.is_about(_ABOUT)
        listed_in(told, "s")


@given(texts(_SIMPLE))
def test_simple_signature(text: bytes) -> None:
    with suppress(BadInput):
        SimpleSignature(text, b"").names(_ABOUT)


@given(texts(_POLICY))
def test_policy(text: bytes) -> None:
    with suppress(BadInput, UnicodeDecodeError):
        written = text.decode()
        with suppress(BadInput):
            Policy.load(written)
        Policy.parse(written, "p")


@given(texts(_KEY_FILE))
def test_key_file(text: bytes) -> None:
    kind = "ENCRYPTED SIGSTORE PRIVATE KEY"
    body = base64.b64encode(text).decode()
    with suppress(BadInput):
        PrivateKey.parse_all(f"-----BEGIN {kind}-----\n{body}\n-----END {kind}-----\n", "password", "k")
