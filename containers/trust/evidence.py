"""What was said about an image, by whom, and whether the signatures are good: the evidence that a policy decides on.

Whoever may push to a repository can attach anything to an image. So what is not signed by a key or an identity of the policy, is about
another image or cannot be read counts for nothing, and is kept with the reason, which is told when something is missing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from containers.errors import BadInput, NotTrusted
from containers.foreign_values import shown, visible_line
from containers.trust import certified, simplesigning
from containers.trust.attach import find_bundles
from containers.trust.dsse import IN_TOTO
from containers.trust.statement import MODEL, SIGNATURE, ForeignStatement, name_of

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import date, datetime

    from containers.digest import Digest
    from containers.oci.repository import Repository
    from containers.trust.attach import Bundle
    from containers.trust.certified import Certified
    from containers.trust.dsse import Envelope
    from containers.trust.policy import Identity, Policy, PolicyKey


@dataclass(frozen=True)
class Said:
    """A statement about the image that a trusted key or identity signed: `key` is its name in the policy, `where` names the
    statement for people. `holder` and `logged` are what the certificate of an identity says, and the transparency log.

    A signature under cosign's older tag is one without a `statement`.
    """

    predicate_type: str
    predicate: dict[str, Any]
    key: str
    where: str
    statement: ForeignStatement | None = None
    holder: str = ""
    logged: datetime | None = None

    @property
    def by(self) -> str:
        """Who signed, for people."""
        return f"{self.key}: {self.holder}" if self.holder else self.key


@dataclass(frozen=True)
class Evidence:
    """What counts, and a sentence for each thing that does not."""

    said: tuple[Said, ...]
    faults: tuple[str, ...]

    def of(self, predicate_type: str) -> tuple[Said, ...]:
        return tuple(one for one in self.said if one.predicate_type == predicate_type)


def collect(repository: Repository, digest: Digest, policy: Policy, today: date) -> Evidence:
    """The evidence about an image in a repository; raises Temporary, and BadInput for a repository that is filled up."""
    said: list[Said] = []
    faults: list[str] = []
    for bundle in find_bundles(repository, digest):
        found = _judged(bundle, digest, policy, today)
        said += [found] if isinstance(found, Said) else []
        faults += [found] if isinstance(found, str) else []
    if repository.reference.registry:
        for number, one in enumerate(simplesigning.find(repository, digest)):
            where = f"the signature {number} under {simplesigning.signature_tag(digest)}"
            legacy = _simple(one, where, digest, policy, today)
            said += [legacy] if isinstance(legacy, Said) else []
            faults += [legacy] if isinstance(legacy, str) else []
    return Evidence(tuple(said), tuple(faults))


def _judged(bundle: Bundle, digest: Digest, policy: Policy, today: date) -> Said | str:
    where = f"the bundle {bundle.digest.short}"
    envelope = bundle.envelope
    if envelope is None:
        return bundle.fault
    if envelope.payload_type != IN_TOTO:
        return f"{where} holds no statement ({shown(envelope.payload_type)})"
    try:
        if envelope.certified:
            return _of_an_identity(envelope, where, digest, policy)
        key = signer_of(envelope.message, envelope.signature, policy)
        if key is None:
            return f"{where} has no good signature by any key of the policy"
        return _of_a_key(envelope.payload, where, key, digest, policy, today)
    except (BadInput, NotTrusted) as error:
        return error.message


def _of_an_identity(envelope: Envelope, where: str, digest: Digest, policy: Policy) -> Said | str:
    known, found = identities_of(envelope, where, policy)
    statement = ForeignStatement.parse(found.payload, f"the statement of {where}")
    name = name_of(statement.predicate_type)
    if statement.predicate_type != MODEL and not statement.is_about(digest):
        return f"{where} ({name}) is about {statement.subjects}, not about this image"
    identity = trusted_identity(known, found, statement.predicate_type)
    if isinstance(identity, str):
        return f"{where} ({name}): {identity}"
    return Said(
        statement.predicate_type,
        statement.predicate,
        identity.name,
        where,
        statement,
        holder=found.who,
        logged=found.logged,
    )


def identities_of(envelope: Envelope, where: str, policy: Policy) -> tuple[tuple[Identity, ...], Certified]:
    """Those of the policy's identities that fit who signed a bundle with a certificate, at least one, and what was signed.

    Raises NotTrusted for a bundle that does not hold, and for one by anybody else.
    """
    if not policy.identities:
        raise NotTrusted(f"{where} is signed with a certificate, and the policy names no identities")
    found = certified.verify(envelope.certified, policy.trusted_root, where)
    if found.payload_type != IN_TOTO:
        raise NotTrusted(f"{where} holds no statement ({shown(found.payload_type)})")
    fitting = [one for one in policy.identities if one.fits(found.subject)]
    if known := tuple(one for one in fitting if one.issuer == found.issuer):
        return known, found
    if fitting:
        wanted = f"and the issuer of {fitting[0].name!r} is {fitting[0].issuer}"
    else:
        wanted = f"who is none of {', '.join(repr(one.name) for one in policy.identities)}"
    raise NotTrusted(f"{where} is signed by {found.who}, {wanted}")


def trusted_identity(known: Sequence[Identity], found: Certified, predicate_type: str) -> Identity | str:
    """The first of the identities whose signature counts; if there is none, why that of the first does not."""
    faults = [_identity_not_trusted(one, found, predicate_type) for one in known]
    return next((one for one, fault in zip(known, faults, strict=True) if not fault), faults[0])


def _identity_not_trusted(identity: Identity, found: Certified, predicate_type: str) -> str:
    """Why what the identity signed does not count; empty if it does."""
    if identity.statements and predicate_type not in identity.statements:
        return f"{identity.name!r} may not sign a {name_of(predicate_type)}"
    if identity.repository and identity.repository != found.repository:
        whose = visible_line(found.repository) or "one that the certificate does not name"
        return f"{identity.name!r} signs for the repository {identity.repository}, and this was built for {whose}"
    return identity.why_not(found.logged.date())


def _of_a_key(payload: bytes, where: str, key: PolicyKey, digest: Digest, policy: Policy, today: date) -> Said | str:  # noqa: PLR0917
    statement = ForeignStatement.parse(payload, f"the statement of {where}")
    name = name_of(statement.predicate_type)
    if statement.predicate_type != MODEL and not statement.is_about(digest):
        return f"{where} ({name}) is about {statement.subjects}, not about this image"
    if fault := not_trusted(key, policy, today, statement.predicate_type):
        return f"{where} ({name}): {fault}"
    return Said(statement.predicate_type, statement.predicate, key.name, where, statement)


def _simple(one: simplesigning.SimpleSignature, where: str, digest: Digest, policy: Policy, today: date) -> Said | str:
    key = signer_of(one.payload, one.signature, policy)
    if key is None:
        return f"{where} is not a good signature by any key of the policy"
    try:
        if not one.names(digest):
            return f"{where} is about another image"
    except BadInput as error:
        return error.message
    if fault := not_trusted(key, policy, today, SIGNATURE):
        return f"{where}: {fault}"
    return Said(SIGNATURE, {}, key.name, where)


def signer_of(message: bytes, signature: bytes, policy: Policy) -> PolicyKey | None:
    """The key of the policy that made the signature, trusted today or not; None if none did."""
    return next((one for one in policy.keys if one.public.verifies(signature, message)), None)


def not_trusted(key: PolicyKey, policy: Policy, today: date, predicate_type: str) -> str:
    """Why what the key signed does not count; empty if it does."""
    if key.public.fingerprint in policy.revoked:
        return f"the key {key.name!r} is revoked"
    if key.statements and predicate_type not in key.statements:
        return f"the key {key.name!r} may not sign a {name_of(predicate_type)}"
    return key.why_not(today)
