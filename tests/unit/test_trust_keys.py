"""Keys, envelopes and bundles. The key files in tests/golden/trust: cosign.key is cosign 2.5's own, its password "secret"."""

from __future__ import annotations

import base64
import json
import subprocess
from pathlib import Path

import pytest

from containers.errors import BadInput
from containers.signing_settings import SigningSettings
from containers.trust.dsse import BUNDLE, Envelope, pae, read_bundle, write_bundle
from containers.trust.keys import PrivateKey, PublicKey, new_key
from containers.trust.signers import open_signers, signature_of

KEYS = Path(__file__).parents[1] / "golden" / "trust"


def test_a_key_file_of_cosigns_is_read() -> None:
    """Its public key is the one that cosign wrote beside it."""
    (key,) = PrivateKey.parse_all((KEYS / "cosign.key").read_text(), "secret", "k")
    assert key.public.pem == (KEYS / "cosign.pub").read_text()
    assert "secret" not in repr(key)


def test_a_new_key_opens_with_its_password_alone() -> None:
    """And holds nothing of the key in the clear."""
    text, public = new_key("pass word")
    (key,) = PrivateKey.parse_all(text, "pass word", "k")
    assert key.public.fingerprint == public.fingerprint
    assert text.startswith("-----BEGIN ENCRYPTED SIGSTORE PRIVATE KEY-----")
    with pytest.raises(BadInput, match="the password does not open k"):
        PrivateKey.parse_all(text, "another", "k")
    with pytest.raises(BadInput, match="no password is given"):
        PrivateKey.parse_all(text, None, "k")


def test_openssl_verifies_what_is_signed(tmp_path: Path) -> None:
    """The same bytes get the same signature, and it is ECDSA with SHA-256."""
    (key,) = PrivateKey.parse_all((KEYS / "cosign.key").read_text(), "secret", "k")
    made = key.sign(b"message")
    assert made == key.sign(b"message")
    (tmp_path / "sig").write_bytes(made)
    (tmp_path / "m").write_bytes(b"message")
    argv = ["openssl", "dgst", "-sha256", "-verify", str(KEYS / "cosign.pub"), "-signature", "sig", "m"]
    assert subprocess.run(argv, cwd=tmp_path, check=False, capture_output=True).returncode == 0
    assert not key.public.verifies(made, b"massage")
    assert not key.public.verifies(made[:-1], b"message")


@pytest.mark.parametrize(
    ("argv", "what"),
    [
        (["genpkey", "-algorithm", "ed25519"], ""),
        (["ecparam", "-name", "secp384r1", "-genkey", "-noout"], ""),
        (["genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"], ""),
        (["genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:1024"], "of RSA with 1024 bits"),
        (["ecparam", "-name", "secp256k1", "-genkey", "-noout"], "on the curve secp256k1"),
        (["genpkey", "-algorithm", "x25519"], "X25519PrivateKey"),
    ],
)
def test_kinds_of_keys(argv: list[str], what: str) -> None:
    """Keys that OpenSSL makes are used if they can sign for somebody, and refused by what they are."""
    text = subprocess.run(["openssl", *argv], check=True, capture_output=True, text=True).stdout
    if what:
        with pytest.raises(BadInput, match=what):
            PrivateKey.parse_all(text, None, "k")
        return
    (key,) = PrivateKey.parse_all(text, None, "k")
    assert key.public.verifies(key.sign(b"x"), b"x")
    assert key.sign(b"x") == key.sign(b"x")


@pytest.mark.parametrize(
    ("text", "fragment"),
    [
        ("", "holds no private key"),
        ("-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----", "holds no private key"),
        ("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----", "damaged private key"),
        (
            "-----BEGIN ENCRYPTED SIGSTORE PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED SIGSTORE PRIVATE KEY-----",
            "k is not|damaged key file",
        ),
    ],
)
def test_what_is_no_private_key(text: str, fragment: str) -> None:
    with pytest.raises(BadInput, match=fragment):
        PrivateKey.parse_all(text, "secret", "k")


def test_a_private_key_is_no_public_one() -> None:
    with pytest.raises(BadInput, match="not a public key in PEM"):
        PublicKey.parse((KEYS / "cosign.key").read_text(), "the policy's key")


def test_pae_is_the_specifications() -> None:
    """The example of DSSE's protocol.md."""
    assert pae("http://example.com/HelloWorld", b"hello world") == (
        b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
    )


def _bundle(**changed: object) -> bytes:
    key = PublicKey.parse((KEYS / "cosign.pub").read_text(), "k")
    value = json.loads(write_bundle(Envelope(b"{}", b"sig"), key))
    return json.dumps({**value, **changed}).encode()


def test_a_bundle_comes_back() -> None:
    assert read_bundle(_bundle(), "b") == Envelope(b"{}", b"sig")


@pytest.mark.parametrize(
    ("changed", "fragment"),
    [
        ({"mediaType": "application/vnd.dev.sigstore.bundle+json;version=0.1"}, "another version"),
        ({"mediaType": 7}, "no Sigstore bundle"),
        ({"verificationMaterial": {}}, "neither a key nor a certificate"),
        ({"verificationMaterial": {"publicKey": {}, "certificate": {}}}, "both a key and a certificate"),
        ({"verificationMaterial": None}, "no verificationMaterial"),
        ({"dsseEnvelope": None}, "holds no envelope"),
        ({"dsseEnvelope": {"payload": "e30=", "payloadType": "t", "signatures": []}}, "0 signatures"),
        (
            {"dsseEnvelope": {"payload": "e30=", "payloadType": "t", "signatures": [{"sig": "c2ln"}, {"sig": "AAAA"}]}},
            "2 signatures, and a bundle has one",
        ),
        ({"dsseEnvelope": {"payload": "!", "payloadType": "t", "signatures": [{"sig": "c2ln"}]}}, "not base64"),
    ],
)
def test_bundles_that_are_refused(changed: dict[str, object], fragment: str) -> None:
    with pytest.raises(BadInput, match=fragment):
        read_bundle(_bundle(**changed), "b")


def test_a_command_signs(tmp_path: Path) -> None:
    """It gets the message and prints the signature; another key than it says is noticed."""
    key = tmp_path / "p.pem"
    text = subprocess.run(
        ["openssl", "ecparam", "-name", "prime256v1", "-genkey", "-noout"], check=True, capture_output=True
    )
    key.write_bytes(text.stdout)
    public = subprocess.run(["openssl", "ec", "-in", str(key), "-pubout"], check=True, capture_output=True, text=True)
    program = tmp_path / "sign"
    program.write_text(f"#!/bin/sh\nopenssl dgst -sha256 -sign {key} | base64\n")
    program.chmod(0o755)
    (signer,) = open_signers(SigningSettings(command=(str(program),), public_key=public.stdout))
    assert signer.public.verifies(signature_of(signer, b"m"), b"m")
    (other,) = open_signers(SigningSettings(command=(str(program),), public_key=str(KEYS / "cosign.pub")))
    with pytest.raises(BadInput, match="not a signature of the key"):
        signature_of(other, b"m")
    program.write_text("#!/bin/sh\necho no token >&2; exit 3\n")
    with pytest.raises(BadInput, match="no token"):
        signature_of(signer, b"m")


def test_several_keys_in_one_text() -> None:
    """An old one and a new one; the same one twice signs once."""
    both = (KEYS / "cosign.key").read_text() + (KEYS / "carwright.key").read_text()
    found = open_signers(SigningSettings(key=both + both, password="secret"))
    assert [one.public.pem for one in found] == [(KEYS / f"{name}.pub").read_text() for name in ("cosign", "carwright")]


def test_scrypt_that_takes_all_memory_is_refused() -> None:
    body = {"kdf": {"name": "scrypt", "params": {"N": 1 << 30, "r": 8, "p": 1}, "salt": ""}, "cipher": {"nonce": ""}}
    inner = base64.b64encode(json.dumps(body).encode()).decode()
    kind = "ENCRYPTED SIGSTORE PRIVATE KEY"
    with pytest.raises(BadInput, match="damaged key file"):
        PrivateKey.parse_all(f"-----BEGIN {kind}-----\n{inner}\n-----END {kind}-----\n", "secret", "k")


def test_the_media_type_is_cosigns() -> None:
    assert BUNDLE == "application/vnd.dev.sigstore.bundle.v0.3+json"
