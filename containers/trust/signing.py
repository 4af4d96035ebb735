"""Signing an image: its signature in the two formats that are read today, and the statements about it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from containers.errors import BadInput
from containers.foreign_values import shown
from containers.oci import referrers
from containers.oci.raw import ARTIFACT, holds_files_of
from containers.oci.repository import image
from containers.trust import model_signing, simplesigning
from containers.trust.attach import Attached, KeySigner, attach, find_bundles
from containers.trust.dsse import IN_TOTO
from containers.trust.keyless import KeylessSigner, open_keyless
from containers.trust.signers import open_signers
from containers.trust.statement import MODEL, SIGNATURE, ForeignStatement, name_of, write
from containers.trust.verify import SIGNED_AT, files_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from containers.digest import Digest
    from containers.oci.repository import Repository
    from containers.signing_settings import SigningSettings
    from containers.trust.attach import Bundle, StatementSigner
    from containers.trust.signers import Signer


def sign(
    repository: Repository,
    digest: Digest,
    statements: Sequence[bytes],
    signers: Sequence[Signer | KeylessSigner],
    *,
    renew: bool = False,
    now: datetime | None = None,
) -> tuple[tuple[str, Attached], ...]:
    """Sign the image and each statement with every signer; what was attached, by name and whose signature it is.

    What a key or an identity has signed already is left as it is, so signing again adds nothing. The image's signature says when
    it was made; with `renew` it is made again with a new date. In a registry the signature is also written under cosign's older
    tag. The files that a modelcar lists are signed by themselves, too (`containers.trust.model_signing`), beside its raw artifact
    as well.
    """
    _check_statements(statements, digest)
    known = find_bundles(repository, digest)
    all_ = [statement_signer(one) for one in signers]
    made = [*_signed(repository, digest, statements, all_, known, now or datetime.now(UTC), renew=renew)]
    files = files_of(repository, digest)
    if files:
        about = model_signing.statement(_model_name(repository), files)
        for subject in (digest, *_raw_artifacts(repository, digest)):
            held = known if subject == digest else find_bundles(repository, subject)
            made += [
                (
                    f"model{'' if subject == digest else ' beside the raw files'} by {one.name}",
                    attach(repository, subject, about, one, held),
                )
                for one in all_
            ]
    return tuple(made)


def _check_statements(statements: Sequence[bytes], digest: Digest) -> None:
    """Raises BadInput for a statement that says something of another image: a signature counts wherever it is attached."""
    for number, content in enumerate(statements, start=1):
        what = f"the statement {number} to sign"
        read = ForeignStatement.parse(content, what)
        if read.predicate_type == MODEL:
            raise BadInput(f"{what} lists files, and what the image holds is signed by itself", remedy="leave it out")
        others = [one for one in read.subject if one.digest.get("sha256") != digest.hex]
        if others:
            named = shown(f"sha256:{others[0].digest.get('sha256', '?')}")
            raise BadInput(
                f"{what} ({shown(name_of(read.predicate_type))}) is about {named}, and {digest} is signed here",
                remedy="sign a statement with the image that it is about, and with no other",
            )


def open_all(settings: SigningSettings) -> tuple[Signer | KeylessSigner, ...]:
    """Every signer of the settings, with a key and without; none where nothing is set. Raises BadInput and Temporary."""
    return (*open_signers(settings), *open_keyless(settings))


def statement_signer(signer: Signer | KeylessSigner) -> KeySigner | KeylessSigner:
    """What signs statements: a key needs its bundles written around it."""
    return signer if isinstance(signer, KeylessSigner) else KeySigner(signer)


def notes(signers: Sequence[Signer | KeylessSigner]) -> tuple[str, ...]:
    """What is to be known of the keys that sign: who may not be able to verify them."""
    return tuple(one.public.note for one in signers if not isinstance(one, KeylessSigner) and one.public.note)


def _model_name(repository: Repository) -> str:
    reference = repository.reference
    return reference.layout.name if reference.layout is not None else reference.repository.rpartition("/")[2]


def _raw_artifacts(repository: Repository, digest: Digest) -> tuple[Digest, ...]:
    """Those attached to a modelcar that hold its very files."""
    listed = referrers.manifests(repository, digest, ARTIFACT)
    if not listed:
        return ()
    _, car = image(repository, str(digest))
    return tuple(one.digest for one, manifest in listed if holds_files_of(manifest, car))


def _signed(  # noqa: PLR0917 -- as sign's
    repository: Repository,
    digest: Digest,
    statements: Sequence[bytes],
    signers: Sequence[KeylessSigner | KeySigner],
    known: Sequence[Bundle],
    now: datetime,
    *,
    renew: bool,
) -> Iterator[tuple[str, Attached]]:
    for signer in signers:
        for statement in statements:
            name = name_of(ForeignStatement.parse(statement, "the statement to sign").predicate_type)
            yield f"{name} by {signer.name}", attach(repository, digest, statement, signer, known)
        held = None if renew else _signature_of(signer, digest, known)
        if held is None:
            place = repository.reference.name if repository.reference.registry else str(digest)
            predicate = {SIGNED_AT: now.astimezone(UTC).replace(microsecond=0).isoformat()}
            held = attach(repository, digest, write([(place, digest)], SIGNATURE, predicate), signer, known)
        yield f"signature by {signer.name}", held
        if repository.reference.registry and isinstance(signer, KeySigner):
            yield f"tag by {signer.name}", Attached(*simplesigning.attach(repository, digest, signer.key))


def _signature_of(signer: StatementSigner, digest: Digest, known: Sequence[Bundle]) -> Attached | None:
    """The signature that this key has given the image, whenever that was."""
    for one in known:
        envelope = one.envelope
        if envelope is None or envelope.payload_type != IN_TOTO:
            continue
        if not signer.made(envelope, str(one.digest)):
            continue
        statement = ForeignStatement.parse(envelope.payload, f"the statement of the bundle {one.digest.short}")
        if statement.predicate_type == SIGNATURE and statement.is_about(digest):
            return Attached(one.digest, there=True)
    return None
