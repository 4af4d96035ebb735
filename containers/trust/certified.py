"""Keyless signatures: bundles with a certificate of minutes for somebody's identity, and an entry in a transparency log.

What is verified, and that nothing is fetched for it, is PyPI `sigstore`'s doing: the certificate leads to an authority of the
trusted root and was good when the log (or a timestamp authority) saw the signature, a certificate log promised to list it, the
transparency log holds the entry (Merkle proof and signed checkpoint), the entry is about this very statement, and the
signature is over it. What is read out of a bundle afterwards is what the library has verified, not what we parsed before.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from importlib import resources
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

from containers.errors import BadInput, NotTrusted
from containers.foreign_json import JsonLimits, parse_object
from containers.foreign_values import shown, visible_line

if TYPE_CHECKING:
    from cryptography.x509 import Certificate
    from sigstore.models import Bundle
    from sigstore.verify import Verifier

PUBLIC: Final = "public"  # the word for the public instance, whose root and services the library carries
CONFIG: Final = "application/vnd.dev.sigstore.clienttrustconfig.v0.1+json"
_ROOT: Final = "application/vnd.dev.sigstore.trustedroot+json;version=0.1"
_SIGNING: Final = "signing_config.v0.2.json"
_INSTANCE: Final = "https://tuf-repo-cdn.sigstore.dev"
_LIMITS: Final = JsonLimits(size=1 << 20, values=1 << 14)
_ISSUER, _ISSUER_V2 = (f"1.3.6.1.4.1.57264.1.{number}" for number in (1, 8))  # sigstore/fulcio, docs/oid-info.md
_OTHER_NAME: Final = "1.3.6.1.4.1.57264.1.7"
_REPOSITORY: Final = "1.3.6.1.4.1.57264.1.12"  # Source Repository URI
# What the library says, by a part of it, and what we say in its place. Tests hold each against the library that is locked.
_SAID: Final = (
    ("exactly one log entry", "has not one entry in the transparency log"),
    ("inclusionProof Field required", "has no proof that the transparency log holds it"),
    ("inclusion proof, with checkpoint", "has no proof that the transparency log holds it"),
    ("inclusion promise or signed timestamp", "has no signed time"),
    ("not enough sources of verified time", "has no time signed by anybody whom the trusted root knows"),
    ("failed to verify SCT", "has a certificate that is in no certificate log of the trusted root"),
    ("Signature not found for log ID", "is in a transparency log that the trusted root does not know"),
    ("checkpoint: invalid signature", "is in a transparency log that the trusted root does not know"),
    ("invalid inclusion promise", "has a time that the transparency log did not sign"),
    ("inclusion proof", "has a proof that does not lead to the transparency log's root"),
    ("invalid root hash", "has a proof that does not lead to the transparency log's root"),
    ("payload hash does not match", "holds another statement than its entry in the transparency log"),
    ("signatures do not match", "has another signature than its entry in the transparency log"),
    ("inconsistent with other materials", "holds something else than its entry in the transparency log"),
    ("DSSE: invalid signature", "was changed after it was signed"),
    ("build timestamp certificate chain", "has a certificate of an authority that the trusted root does not know"),
)


@dataclass(frozen=True)
class Certified:
    """A statement that somebody signed: who, by which issuer's word, and when the log saw it. `repository` is whose build it was, if
    the certificate says it.
    """

    payload: bytes
    payload_type: str
    subject: str
    issuer: str
    logged: datetime
    repository: str = ""

    @property
    def who(self) -> str:
        """For people."""
        return f"{visible_line(self.subject)} (issuer {visible_line(self.issuer)})"


def read_root(text: str, what: str) -> str:
    """A trusted root as JSON, out of a trusted root or a client's trust configuration; raises BadInput for anything else."""
    value = parse_object(text, what, _LIMITS)
    inner = value.get("trustedRoot") if value.get("mediaType") == CONFIG else value
    if not isinstance(inner, dict) or inner.get("mediaType") != _ROOT:
        raise BadInput(
            f"{what} is not a trusted root of a Sigstore ({shown(str(value.get('mediaType')))})",
            remedy=f"give a file with the media type {_ROOT}, or with {CONFIG}",
        )
    root = json.dumps(inner)
    verifier(root)
    return root


def public_root() -> str:
    """The trusted root of the public instance, as the installed library carries it."""
    return _carried("trusted_root.json")


def public_config() -> str:
    """The client's trust configuration of the public instance: its root, and where its services are."""
    root, signing = json.loads(public_root()), json.loads(_carried(_SIGNING))
    return json.dumps({"mediaType": CONFIG, "trustedRoot": root, "signingConfig": signing})


def _carried(name: str) -> str:
    # The library's own way to it goes through a cache in the home folder, which it does not verify.
    return resources.files("sigstore._store").joinpath(quote(_INSTANCE, safe=""), name).read_text()


@lru_cache(maxsize=8)
def verifier(root: str) -> Verifier:
    """A verifier for a trusted root; raises BadInput for one that the library cannot use."""
    from sigstore.models import TrustedRoot
    from sigstore.verify import Verifier
    from sigstore_models.trustroot.v1 import TrustedRoot as Model

    try:
        made = TrustedRoot(Model.from_json(root))
        made.get_fulcio_certs()
        return Verifier(trusted_root=made)
    except Exception as error:  # the library names no errors of its own for what pydantic or cryptography refuse
        raise BadInput(
            f"the trusted root cannot be used: {shown(_one_line(error))}",
            remedy="get the file again from who runs the Sigstore",
        ) from error


def verify(content: bytes, root: str, what: str) -> Certified:
    """What a bundle with a certificate holds, once everything about it but the identity is verified; `what` names it.

    Raises NotTrusted, with the one reason, for anything that does not hold.
    """
    from sigstore.models import Bundle

    bundle: Bundle | None = None
    try:
        bundle = Bundle.from_json(content)
        holder = _Holder()
        kind, payload = verifier(root).verify_dsse(bundle, holder)
        return Certified(payload, kind, holder.subject, holder.issuer, _logged(bundle), holder.repository)
    except NotTrusted as error:
        raise NotTrusted(f"{what}: {error.message}", remedy=error.remedy) from error
    except Exception as error:  # whatever a hostile bundle makes the library raise, it is not verified
        raise NotTrusted(f"{what} {_reason(error, bundle)}", remedy="get the statement from who signs it") from error


class _Holder:
    """Takes down whom a certificate is for, as one of the library's policies; whether that will do is decided later."""

    subject = ""
    issuer = ""
    repository = ""

    def verify(self, cert: Certificate) -> None:
        self.subject, self.issuer = identity_of(cert)
        self.repository = repository_of(cert)


def identity_of(certificate: Certificate) -> tuple[str, str]:
    """Subject and issuer that a certificate names. Raises NotTrusted unless it names one of each."""
    from cryptography import x509

    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    found = [one.value for one in names if isinstance(one, x509.RFC822Name | x509.UniformResourceIdentifier)]
    found += [
        _text(one.value)
        for one in names
        if isinstance(one, x509.OtherName) and one.type_id.dotted_string == _OTHER_NAME
    ]
    issuers = {
        _text(raw.value) if raw.oid.dotted_string == _ISSUER_V2 else raw.value.decode()
        for raw in (one.value for one in certificate.extensions)
        if isinstance(raw, x509.UnrecognizedExtension) and raw.oid.dotted_string in {_ISSUER, _ISSUER_V2}
    }
    if len(found) != 1 or len(names) != 1 or len(issuers) != 1:
        raise NotTrusted(
            f"a certificate names {len(names)} subjects and {len(issuers)} issuers, and one of each is wanted",
            remedy="certificates of Sigstore's authorities have one; this one is by another",
        )
    return found[0], issuers.pop()


def repository_of(certificate: Certificate) -> str:
    """Whose build it was, as a certificate names it; empty for one that does not."""
    from cryptography import x509

    extensions = (one.value for one in certificate.extensions if one.oid.dotted_string == _REPOSITORY)
    return next((_text(one.value) for one in extensions if isinstance(one, x509.UnrecognizedExtension)), "")


def _text(der: bytes) -> str:
    """A UTF8String or IA5String."""
    from cryptography.hazmat import asn1

    return asn1.decode_der(str, der)


def _logged(bundle: Bundle) -> datetime:
    """When the signature was seen: by the log, or by a timestamp authority, in the minutes that the certificate is good for."""
    (entry,) = json.loads(bundle.to_json())["verificationMaterial"]["tlogEntries"]
    if entry.get("inclusionPromise") and int(entry.get("integratedTime", 0)):
        return datetime.fromtimestamp(int(entry["integratedTime"]), UTC)
    return bundle.signing_certificate.not_valid_before_utc


def _reason(error: Exception, bundle: Bundle | None) -> str:
    text = _one_line(error)
    if "certificate chain" in text and bundle is not None and (late := _too_late(bundle)):
        return late
    other = "does not hold" if bundle is not None else "is not a bundle with a certificate that can be read"
    return f"{next((ours for part, ours in _SAID if part in text), other)} ({shown(text)})"


def _too_late(bundle: Bundle) -> str:
    try:
        moment, certificate = _logged(bundle), bundle.signing_certificate
    except (ValueError, KeyError, TypeError, OverflowError, OSError):
        return ""
    start, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if start <= moment <= end:
        return ""
    return f"was logged at {moment:%Y-%m-%d %H:%M:%S}, and its certificate was good from {start:%Y-%m-%d %H:%M:%S} to {end:%H:%M:%S} UTC"


def _one_line(error: Exception) -> str:
    parts = [str(one) for one in error.args] or [type(error).__name__]
    return " ".join(" ".join(parts).split()) or type(error).__name__
