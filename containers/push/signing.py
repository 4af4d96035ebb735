"""Signatures at promotion: the image, its files and every statement among its documents, before a tag points at it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from containers.trust import signing
from containers.verdict import PROVENANCE_FILE

if TYPE_CHECKING:
    from collections.abc import Iterable

    from containers.digest import Digest
    from containers.oci.referrers import Attachment
    from containers.oci.repository import Repository
    from containers.step import Context


def sign_promoted(
    repository: Repository, digest: Digest, documents: Iterable[Attachment], context: Context
) -> dict[str, tuple[Digest, bool]]:
    """What was attached, by what it is and whose, and whether it was there; nothing without a signer in the settings."""
    signers = signing.open_all(context.settings.sign)
    if not signers:
        return {}
    for note in signing.notes(signers):
        context.report.log(note, "warning")
    statements = [one.content for one in documents if is_statement(one.title)]
    made = signing.sign(repository, digest, statements, signers)
    return {name: (one.digest, one.there) for name, one in made}


def is_statement(title: str) -> bool:
    """Whether a document of a promotion is an in-toto statement."""
    return title == PROVENANCE_FILE or title.endswith(".intoto.json")
