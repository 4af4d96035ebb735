"""Signed envelopes (DSSE 1.0, secure-systems-lab/dsse) inside Sigstore bundles of version 0.3 (sigstore/protobuf-specs).

A bundle is written here for one key: the envelope, its one signature and a hint at the key. It holds no certificate, no time
and no entry of a transparency log; bundles that do are `containers.trust.certified`'s and are handed on whole. What others wrote
is read strictly: a bundle with a second signature, of which a reader could take either, is refused as the bundle's
specification has it.
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from containers.digest import canonical_json
from containers.errors import BadInput
from containers.foreign_json import JsonLimits, parse_object
from containers.foreign_values import shown
from containers.in_toto import MEDIA_TYPE

if TYPE_CHECKING:
    from containers.trust.keys import PublicKey

BUNDLE: Final = "application/vnd.dev.sigstore.bundle.v0.3+json"
IN_TOTO: Final = MEDIA_TYPE
# A provenance that lists each file of a checkpoint of 200 shards has 100 kB, a bill of materials some more.
SIZE: Final = 16 << 20  # bytes of a bundle
LIMITS: Final = JsonLimits(size=SIZE, values=1 << 10)
_OLDER: Final = "application/vnd.dev.sigstore.bundle"


@dataclass(frozen=True)
class Envelope:
    """What was signed, and the signature; `certified` is the bundle whole where a certificate says whose the key is."""

    payload: bytes
    signature: bytes
    payload_type: str = IN_TOTO
    certified: bytes = b""

    @property
    def message(self) -> bytes:
        """The bytes that the signature is over."""
        return pae(self.payload_type, self.payload)


def pae(payload_type: str, payload: bytes) -> bytes:
    """DSSE's pre-authentication encoding (protocol.md)."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def write_bundle(envelope: Envelope, key: PublicKey) -> bytes:
    """The bundle as canonical JSON."""
    return canonical_json(
        {
            "mediaType": BUNDLE,
            "verificationMaterial": {"publicKey": {"hint": key.hint}, "tlogEntries": []},
            "dsseEnvelope": {
                "payload": base64.b64encode(envelope.payload).decode(),
                "payloadType": envelope.payload_type,
                "signatures": [{"sig": base64.b64encode(envelope.signature).decode(), "keyid": ""}],
            },
        }
    )


def read_bundle(content: bytes, what: str) -> Envelope:
    """The envelope of a bundle; its signature is not checked here.

    Raises BadInput, naming `what`, for another version, for a bundle without an envelope and for more than one signature.
    """
    value = parse_object(content, what, LIMITS)
    kind = value.get("mediaType")
    if kind != BUNDLE:
        older = isinstance(kind, str) and kind.startswith(_OLDER)
        raise BadInput(
            f"{what} is {'a Sigstore bundle of another version' if older else 'no Sigstore bundle'} ({shown(str(kind))})",
            remedy=f"sign it with a tool that writes {BUNDLE}",
        )
    material = value.get("verificationMaterial")
    if not isinstance(material, dict) or not isinstance(material.get("tlogEntries", []), list):
        raise BadInput(f"{what} has no verificationMaterial", remedy="it is cut short or damaged; sign again")
    keys = [name for name in ("publicKey", "certificate") if name in material]
    if len(keys) != 1:
        raise BadInput(
            f"{what} has {'both a key and a certificate' if keys else 'neither a key nor a certificate'}",
            remedy="a bundle of version 0.3 has one of them; sign again",
        )
    inner = value.get("dsseEnvelope")
    if not isinstance(inner, dict):
        raise BadInput(f"{what} holds no envelope with a statement", remedy="sign a statement, not a bare message")
    signatures = inner.get("signatures")
    if not isinstance(signatures, list) or len(signatures) != 1 or not isinstance(signatures[0], dict):
        count = len(signatures) if isinstance(signatures, list) else 0
        raise BadInput(
            f"{what} has {count} signatures, and a bundle has one",
            remedy="each signer writes a bundle of its own; remove this one",
        )
    return Envelope(
        payload=_decoded(inner.get("payload"), what, "payload"),
        signature=_decoded(signatures[0].get("sig"), what, "signature"),
        payload_type=str(inner.get("payloadType")),
        certified=content if keys == ["certificate"] else b"",
    )


def _decoded(value: Any, what: str, name: str) -> bytes:
    try:
        return base64.b64decode(value if isinstance(value, str) else "-", validate=True)
    except (binascii.Error, ValueError) as error:
        raise BadInput(f"the {name} of {what} is not base64", remedy="it is damaged; sign again") from error
