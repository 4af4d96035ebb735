"""Keys for signatures: public ones, and private ones as cosign keeps them.

A key file of cosign (sigstore/sigstore, pkg/cryptoutils, and go-securesystemslib, encrypted) is a PEM block whose body is
JSON: the parameters of scrypt, by which the password becomes a key, and a nacl secretbox (XSalsa20 and Poly1305) around the
key in PKCS #8. Keys in the usual PEM blocks are read, too. What is signed with ECDSA is signed as RFC 6979 has it, so the
same bytes get the same signature.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Self

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa

from containers.digest import Digest
from containers.errors import BadInput
from containers.foreign_json import CONFIGURATION, parse_object

if TYPE_CHECKING:
    from collections.abc import Iterator

_COSIGN: Final = ("ENCRYPTED SIGSTORE PRIVATE KEY", "ENCRYPTED COSIGN PRIVATE KEY")
_BLOCK: Final = re.compile(r"-----BEGIN ([A-Z0-9 ]+)-----.*?-----END \1-----", re.DOTALL)
_SCRYPT: Final = {"N": 65536, "r": 8, "p": 1}  # as cosign 2 and 3 write them
_LARGEST_N: Final = 1 << 20  # of scrypt, with r = 8: a gigabyte
_SHORTEST_RSA: Final = 2048  # bits
_HASHES: Final = {256: hashes.SHA256(), 384: hashes.SHA384(), 521: hashes.SHA512()}  # by the bits of the curve

_Public = ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey | rsa.RSAPublicKey
_Private = ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey


@dataclass(frozen=True)
class PublicKey:
    """An ECDSA key (P-256, P-384, P-521), an Ed25519 key, or an RSA key of at least 2048 bits."""

    key: _Public

    @classmethod
    def parse(cls, text: str, what: str) -> Self:
        """From a PEM block; raises BadInput, naming `what`, for anything else and for keys that are not public."""
        blocks = list(_blocks(text))
        if len(blocks) != 1 or "PUBLIC KEY" not in blocks[0][0]:
            found = ", ".join(kind for kind, _ in blocks) or "nothing"
            raise BadInput(
                f"{what} is not a public key in PEM ({found})", remedy="give the file that begins with BEGIN PUBLIC KEY"
            )
        try:
            key = serialization.load_pem_public_key(blocks[0][1].encode())
        except (ValueError, UnsupportedAlgorithm) as error:
            raise BadInput(f"{what} is a damaged public key", remedy="take the file of the key again") from error
        return cls(_of_a_known_kind(key, what))

    @property
    def pem(self) -> str:
        encoding, form = serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        return self.key.public_bytes(encoding, form).decode()

    @property
    def fingerprint(self) -> Digest:
        """Of the key in DER: `openssl pkey -pubin -in FILE -outform DER | sha256sum`."""
        encoding, form = serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        return Digest.of(self.key.public_bytes(encoding, form))

    @property
    def hint(self) -> str:
        """The key's name in a bundle: the SHA-256 of its PEM text, as OpenSSF Model Signing demands it."""
        return hashlib.sha256(self.pem.encode()).hexdigest()

    @property
    def note(self) -> str:
        """What some verifiers cannot do with it; empty for the kind that all of them read."""
        if isinstance(self.key, ec.EllipticCurvePublicKey) and self.key.curve.key_size == 256:
            return ""
        return (
            f"{self.fingerprint.short} is not ECDSA on P-256: podman, skopeo and cosign 2 may not verify what it signs"
        )

    def verifies(self, signature: bytes, message: bytes) -> bool:
        """Whether the signature is this key's and over this message."""
        try:
            if isinstance(self.key, ec.EllipticCurvePublicKey):
                self.key.verify(signature, message, ec.ECDSA(_HASHES[self.key.curve.key_size]))
            elif isinstance(self.key, rsa.RSAPublicKey):
                self.key.verify(signature, message, padding.PKCS1v15(), hashes.SHA256())
            else:
                self.key.verify(signature, message)
        except InvalidSignature:
            return False
        return True


@dataclass(frozen=True)
class PrivateKey:
    """A private key; never shown."""

    key: _Private

    @classmethod
    def parse_all(cls, text: str, password: str | None, what: str) -> tuple[Self, ...]:
        """Every key in a text of PEM blocks; raises BadInput for none, a wrong password and other kinds of keys."""
        keys = tuple(cls._parse(kind, block, password, what) for kind, block in _blocks(text) if "PRIVATE" in kind)
        if not keys:
            raise BadInput(f"{what} holds no private key", remedy="`carwright keys new` makes one")
        return keys

    @classmethod
    def _parse(cls, kind: str, block: str, password: str | None, what: str) -> Self:
        if kind in _COSIGN:
            key = _opened(block, password, what)
        else:
            secret = password.encode() if kind.startswith("ENCRYPTED") and password is not None else None
            key = _loaded(serialization.load_pem_private_key, block.encode(), secret, what)
        return cls(_of_a_known_kind(key, what))

    def __repr__(self) -> str:
        return f"PrivateKey({self.public.fingerprint})"

    @property
    def public(self) -> PublicKey:
        return PublicKey(self.key.public_key())

    def sign(self, message: bytes) -> bytes:
        """The signature, always the same for the same message."""
        if isinstance(self.key, ec.EllipticCurvePrivateKey):
            return self.key.sign(message, ec.ECDSA(_HASHES[self.key.curve.key_size], deterministic_signing=True))
        if isinstance(self.key, rsa.RSAPrivateKey):
            return self.key.sign(message, padding.PKCS1v15(), hashes.SHA256())
        return self.key.sign(message)


def new_key(password: str) -> tuple[str, PublicKey]:
    """A new ECDSA key on P-256: the text of its key file, encrypted with the password, and its public part."""
    from nacl.secret import SecretBox

    key = ec.generate_private_key(ec.SECP256R1())
    form, plain = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    salt, nonce = os.urandom(32), os.urandom(SecretBox.NONCE_SIZE)
    box = SecretBox(_derived(password, salt, _SCRYPT))
    sealed = box.encrypt(key.private_bytes(serialization.Encoding.DER, form, plain), nonce).ciphertext
    body = {
        "kdf": {"name": "scrypt", "params": _SCRYPT, "salt": base64.b64encode(salt).decode()},
        "cipher": {"name": "nacl/secretbox", "nonce": base64.b64encode(nonce).decode()},
        "ciphertext": base64.b64encode(sealed).decode(),
    }
    text = base64.b64encode(json.dumps(body).encode()).decode()
    lines = "\n".join(text[at : at + 64] for at in range(0, len(text), 64))
    return f"-----BEGIN {_COSIGN[0]}-----\n{lines}\n-----END {_COSIGN[0]}-----\n", PublicKey(key.public_key())


def _blocks(text: str) -> Iterator[tuple[str, str]]:
    for match in _BLOCK.finditer(text):
        yield match[1], match[0] + "\n"


def _opened(block: str, password: str | None, what: str) -> Any:
    """The key in a file of cosign's."""
    from nacl.exceptions import CryptoError
    from nacl.secret import SecretBox

    if password is None:
        raise BadInput(f"{what} is encrypted, and no password is given", remedy="set CARWRIGHT_SIGN__PASSWORD")
    try:
        body = parse_object(base64.b64decode("".join(block.splitlines()[1:-1])), what, CONFIGURATION)
        kdf, cipher = body["kdf"], body["cipher"]
        salt, nonce = base64.b64decode(kdf["salt"]), base64.b64decode(cipher["nonce"])
        secret = _derived(password, salt, kdf["params"]) if kdf["name"] == "scrypt" else b""
        plain = SecretBox(secret).decrypt(base64.b64decode(body["ciphertext"]), nonce)
    except CryptoError as error:
        raise BadInput(f"the password does not open {what}", remedy="check CARWRIGHT_SIGN__PASSWORD") from error
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise BadInput(f"{what} is a damaged key file", remedy="take the file of the key again") from error
    return _loaded(serialization.load_der_private_key, plain, None, what)


def _derived(password: str, salt: bytes, params: dict[str, int]) -> bytes:
    n, r, p = (int(params[name]) for name in ("N", "r", "p"))
    if n > _LARGEST_N or r > 8 or p > 1:
        raise ValueError("parameters of scrypt that take more memory than a key file needs")
    return hashlib.scrypt(password.encode(), salt=salt, n=n, r=r, p=p, maxmem=256 * n * r + (1 << 20), dklen=32)


def _loaded(load: Any, content: bytes, password: bytes | None, what: str) -> Any:
    try:
        return load(content, password)
    except TypeError as error:  # encrypted, and no password; or the other way round
        raise BadInput(
            f"{what} is encrypted, and no password is given", remedy="set CARWRIGHT_SIGN__PASSWORD"
        ) from error
    except UnsupportedAlgorithm as error:
        raise _another_kind(what, "of an unknown kind") from error
    except ValueError as error:
        raise BadInput(
            f"the password does not open {what}, or it is damaged" if password else f"{what} is a damaged private key",
            remedy="check CARWRIGHT_SIGN__PASSWORD and the file of the key",
        ) from error


def _of_a_known_kind(key: Any, what: str) -> Any:
    if isinstance(key, ec.EllipticCurvePublicKey | ec.EllipticCurvePrivateKey):
        if key.curve.key_size in _HASHES and key.curve.name.startswith("secp") and key.curve.name.endswith("r1"):
            return key
        raise _another_kind(what, f"on the curve {key.curve.name}")
    if isinstance(key, rsa.RSAPublicKey | rsa.RSAPrivateKey):
        if key.key_size >= _SHORTEST_RSA:
            return key
        raise _another_kind(what, f"of RSA with {key.key_size} bits")
    if isinstance(key, ed25519.Ed25519PublicKey | ed25519.Ed25519PrivateKey):
        return key
    raise _another_kind(what, f"of the kind {type(key).__name__.removeprefix('_')}")


def _another_kind(what: str, which: str) -> BadInput:
    return BadInput(
        f"{what} is a key {which}, which cannot be used here",
        remedy="use ECDSA on P-256 (what cosign and podman read), P-384 or P-521, Ed25519, or RSA from 2048 bits on",
    )
