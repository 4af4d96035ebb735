"""Signed statements at an image: bundles as referrers, as cosign 3 writes and reads them (specs/BUNDLE_SPEC.md).

A statement that a key has signed is not signed by it again. The bundles of an image are looked through for one with the same
payload and a good signature of that key before a signer is asked: signers behind a command need not sign the same bytes
twice alike, and need not be asked twice.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from containers.errors import BadInput
from containers.oci import referrers
from containers.oci.referrers import Attachment
from containers.oci.repository import found, read_small
from containers.oci.types import EMPTY, ImageManifest
from containers.trust.dsse import BUNDLE, IN_TOTO, SIZE, Envelope, pae, read_bundle, write_bundle
from containers.trust.signers import signature_of
from containers.trust.statement import ForeignStatement, name_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from containers.digest import Digest
    from containers.oci.repository import Repository
    from containers.trust.signers import Signer

CONTENT: Final = "dev.sigstore.bundle.content"
PREDICATE_TYPE: Final = "dev.sigstore.bundle.predicateType"
MOST: Final = 200  # bundles of one image that are looked at


@dataclass(frozen=True)
class Bundle:
    """A bundle that was found: the digest of its referrer, and either its envelope or what is wrong with it."""

    digest: Digest
    envelope: Envelope | None
    fault: str = ""


class StatementSigner(Protocol):
    """Signs statements, each into a bundle of its own; `name` is whose signature that is, for people."""

    @property
    def name(self) -> str: ...

    def made(self, envelope: Envelope, what: str) -> bool:
        """Whether the signature of a bundle, which `what` names, is this signer's and good."""
        ...

    def bundle(self, statement: bytes) -> bytes: ...


@dataclass(frozen=True)
class KeySigner:
    """Signs statements with a key."""

    key: Signer

    @property
    def name(self) -> str:
        return self.key.public.fingerprint.short

    def made(self, envelope: Envelope, what: str) -> bool:
        return not envelope.certified and self.key.public.verifies(envelope.signature, envelope.message)

    def bundle(self, statement: bytes) -> bytes:
        """Raises BadInput when the key's signer signs with another key than it says."""
        made = Envelope(statement, signature_of(self.key, pae(IN_TOTO, statement)))
        return write_bundle(made, self.key.public)


@dataclass(frozen=True)
class Attached:
    """The referrer that holds a signed statement, and whether it was there before."""

    digest: Digest
    there: bool


def find_bundles(repository: Repository, subject: Digest) -> tuple[Bundle, ...]:
    """The bundles attached to a manifest. One that cannot be read is among them, with the reason.

    Raises BadInput when there are more than anybody attaches, and Temporary.
    """
    # cosign 2 lists its own under the fallback tag with the type of their configuration.
    listed = [one for one in referrers.attached(repository, subject) if one.artifact_type in {BUNDLE, EMPTY, None}]
    if len(listed) > MOST:
        raise BadInput(
            f"{subject} has {len(listed)} signed statements, more than {MOST}",
            remedy="somebody fills the repository; remove them in the registry",
        )
    read = (_read(repository, one.digest, subject) for one in listed)
    return tuple(one for one in read if one is not None)


def _read(repository: Repository, digest: Digest, subject: Digest) -> Bundle | None:
    """None for a referrer that is something else."""
    try:
        manifest = found(repository, str(digest)).parse()
        if not isinstance(manifest, ImageManifest) or manifest.artifact_type != BUNDLE:
            return None
        if len(manifest.layers) != 1:
            return Bundle(digest, None, f"the referrer {digest} does not hold one bundle")
        if manifest.subject is None or manifest.subject.digest != subject:
            return Bundle(digest, None, f"the referrer {digest} is listed for {subject} and belongs to another image")
        content = read_small(repository, manifest.layers[0], SIZE)
        return Bundle(digest, read_bundle(content, f"the bundle {digest}"))
    except BadInput as error:
        return Bundle(digest, None, error.message)


def attach(
    repository: Repository,
    subject: Digest,
    statement: bytes,
    signer: StatementSigner,
    known: Iterable[Bundle],
) -> Attached:
    """Sign a statement about `subject` and attach it; `known` are the bundles that are there.

    Raises BadInput for a statement about something else.
    """
    read = ForeignStatement.parse(statement, "the statement to sign")
    message = pae(IN_TOTO, statement)
    for one in known:
        held = one.envelope
        if held is not None and held.message == message and signer.made(held, str(one.digest)):
            return Attached(one.digest, there=True)
    name = name_of(read.predicate_type).rpartition("/")[2]
    file = Attachment(f"{name}.sigstore.json", BUNDLE, signer.bundle(statement))
    told = {CONTENT: "dsse-envelope", PREDICATE_TYPE: read.predicate_type}
    return Attached(*referrers.attach(repository, subject, BUNDLE, [file], told))
