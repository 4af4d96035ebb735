"""Statements about an image: the in-toto Attestation Framework, Statement v1 (in-toto.io/Statement/v1).

A statement names its subject by digest and says one thing about it, its predicate. The same facts give the same bytes. Here
is the form alone: who makes what is said is `flows.release.attestations`.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from containers.errors import BadInput
from containers.foreign_json import JsonLimits, parse_object
from containers.foreign_values import shown

if TYPE_CHECKING:
    from collections.abc import Mapping

    from containers.digest import Digest

STATEMENT: Final = "https://in-toto.io/Statement/v1"
MEDIA_TYPE: Final = "application/vnd.in-toto+json"  # of a statement's file, and of the referrer that holds one
PREDICATE_TYPE: Final = "in-toto.io/predicate-type"  # the annotation that says which, as BuildKit writes it

PROVENANCE: Final = "https://slsa.dev/provenance/v1"
TEST_RESULT: Final = "https://in-toto.io/attestation/test-result/v0.1"
BOM: Final = "https://cyclonedx.org/bom"
# A statement's file for each predicate, as promotion attaches it.
FILES: Final[Mapping[str, str]] = {
    PROVENANCE: "provenance.intoto.json",
    TEST_RESULT: "test-result.intoto.json",
    BOM: "bom.intoto.json",
}
NAMES: Final = {title: title.partition(".")[0] for title in FILES.values()}  # what a promotion calls each file
# A checkpoint of a thousand files has a provenance of 250 kB and a bill of materials of 400 kB.
LIMITS: Final = JsonLimits(size=16 << 20, values=1 << 19)
_VERSION: Final = re.compile(r"/v?[0-9][0-9.]*$")


@dataclass(frozen=True)
class Statement:
    """One statement: the type of its predicate (a URI), and its JSON as it is attached and signed."""

    predicate_type: str
    content: bytes

    @property
    def title(self) -> str:
        """The name of its file."""
        return FILES[self.predicate_type]

    @property
    def predicate(self) -> dict[str, Any]:
        """What it says; raises BadInput as `read` does."""
        return dict(_parsed(self.content, self.title)["predicate"])


def write(name: str, subject: Digest, predicate_type: str, predicate: Mapping[str, Any]) -> Statement:
    """A statement about the image `subject`; `name` is the repository that it was pushed to. JSON in ASCII, keys sorted."""
    told = {
        "_type": STATEMENT,
        "subject": [{"name": name, "digest": {"sha256": subject.hex}}],
        "predicateType": predicate_type,
        "predicate": predicate,
    }
    return Statement(predicate_type, document(told))


def document(value: Mapping[str, Any]) -> bytes:
    """A JSON document for people and programs: sorted, in ASCII, so that no character in it turns a terminal's text around."""
    return (json.dumps(value, indent=1, sort_keys=True, allow_nan=False) + "\n").encode()


def read(content: bytes, what: str, subject: Digest | None = None) -> Statement:
    """A statement that somebody wrote, of a predicate that this version reads, about `subject` if one is given.

    Raises BadInput, naming `what`, for one that is too large, is no statement, has a predicate of another type or version,
    or is about something else.
    """
    told = _parsed(content, what)
    kind = told["predicateType"]
    if kind not in FILES:
        near = next((one for one in FILES if _VERSION.sub("", one) == _VERSION.sub("", kind)), None)
        raise BadInput(
            f"{what} has the predicate {shown(kind)}"
            + (f", another version than {near}, which is read" if near else ", which is not one that is read"),
            remedy="read it with the version of Carwright that wrote it, or a newer one",
        )
    if subject is not None and subject.hex not in _subjects(told, what):
        raise BadInput(f"{what} is not about {subject}", remedy="somebody attached a statement about another image")
    return Statement(kind, content)


def _parsed(content: bytes, what: str) -> dict[str, Any]:
    told = parse_object(content, what, LIMITS)
    if told.get("_type") != STATEMENT:
        raise BadInput(f"{what} is not a statement of in-toto v1: its _type is {shown(str(told.get('_type')))}")
    if not isinstance(told.get("predicateType"), str) or not isinstance(told.get("predicate"), dict):
        raise BadInput(f"{what} is not a statement of in-toto v1: it has no predicate")
    return told


def _subjects(told: dict[str, Any], what: str) -> set[str]:
    """The SHA-256 digests of the subjects, in hex."""
    try:
        return {str(one["digest"]["sha256"]) for one in told["subject"]}
    except (KeyError, TypeError) as error:
        raise BadInput(f"{what} is not a statement of in-toto v1: a subject has no sha256 digest") from error
