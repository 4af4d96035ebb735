"""Statements about an image (in-toto attestation framework, Statement v1), and what Carwright calls them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from containers.digest import Digest, canonical_json
from containers.errors import BadInput
from containers.foreign_json import JsonLimits, parse_object
from containers.foreign_values import shown
from containers.in_toto import BOM, PROVENANCE, STATEMENT, TEST_RESULT
from containers.trust.dsse import SIZE

if TYPE_CHECKING:
    from collections.abc import Iterable

_OLDER: Final = "https://in-toto.io/Statement/v0.1"  # as cosign 2 writes it
_LIMITS: Final = JsonLimits(size=SIZE, values=1 << 18)

SIGNATURE: Final = "https://sigstore.dev/cosign/sign/v1"
MODEL: Final = "https://model_signing/signature/v1.0"
# The names of predicates in policies and messages. Another predicate is named by its URI.
NAMES: Final = {"signature": SIGNATURE, "provenance": PROVENANCE, "verdict": TEST_RESULT, "bom": BOM, "model": MODEL}


class _Subject(BaseModel):
    model_config = ConfigDict(frozen=True, extra="allow")
    name: str = ""
    digest: dict[str, str]


class ForeignStatement(BaseModel):
    """A statement that somebody signed, of any predicate; fields that the specification does not know are kept out of the way."""

    model_config = ConfigDict(frozen=True, extra="ignore")
    kind: str = Field(alias="_type")
    subject: tuple[_Subject, ...] = Field(min_length=1)
    predicate_type: str = Field(alias="predicateType", min_length=1)
    predicate: dict[str, Any] = {}

    @classmethod
    def parse(cls, payload: bytes, what: str) -> Self:
        """Raises BadInput, naming `what`, for anything else than a statement of a known version."""
        value = parse_object(payload, what, _LIMITS)
        kind = value.get("_type")
        if kind not in (STATEMENT, _OLDER):
            raise BadInput(
                f"{what} is not an in-toto statement of a known version ({shown(str(kind))})",
                remedy=f"statements of the type {STATEMENT} are read",
            )
        try:
            return cls.model_validate(value)
        except ValidationError as error:
            first = error.errors()[0]
            where = shown(".".join(map(str, first["loc"])))
            raise BadInput(f"{what} is not an in-toto statement: {where}: {shown(first['msg'])}") from error

    def is_about(self, digest: Digest) -> bool:
        """Whether one of the subjects has this digest."""
        return any(one.digest.get("sha256") == digest.hex for one in self.subject)

    @property
    def subjects(self) -> str:
        """For people."""
        return shown(", ".join(f"sha256:{one.digest.get('sha256', '?')}" for one in self.subject[:3]))


def write(subjects: Iterable[tuple[str, Digest]], predicate_type: str, predicate: dict[str, Any]) -> bytes:
    """A statement about subjects, given as (name, digest), as canonical JSON."""
    return canonical_json(
        {
            "_type": STATEMENT,
            "subject": [{"name": name, "digest": {"sha256": digest.hex}} for name, digest in subjects],
            "predicateType": predicate_type,
            "predicate": predicate,
        }
    )


def name_of(predicate_type: str) -> str:
    """The short name of a predicate, or its URI."""
    return next((name for name, uri in NAMES.items() if uri == predicate_type), predicate_type)
