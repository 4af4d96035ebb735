"""The one digest of the project: sha256, parsed at the edge and frozen afterwards."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic_core import core_schema

from containers.errors import BadInput

if TYPE_CHECKING:
    from pydantic import GetCoreSchemaHandler

_HEX = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True, order=True)
class Digest:
    """A sha256 digest.

    Written as `sha256:<64 lower case hex digits>`, the form of the OCI image specification
    (descriptor.md, "Digests"); `hex` is the part behind the colon.
    """

    hex: str

    def __post_init__(self) -> None:
        if not _HEX.fullmatch(self.hex):
            raise BadInput(
                f"not a sha256 digest: {self.hex!r}",
                remedy="give 64 lower case hex digits, with or without the prefix 'sha256:'",
            )

    @classmethod
    def parse(cls, text: str) -> Digest:
        """Read `sha256:<hex>`; raises BadInput for another algorithm or a malformed value."""
        algorithm, _, value = text.partition(":")
        if algorithm != "sha256" or not value:
            raise BadInput(
                f"not a sha256 digest: {text!r}",
                remedy="write it as sha256:<64 lower case hex digits>",
            )
        return cls(value)

    @classmethod
    def of(cls, content: bytes) -> Digest:
        """The digest of bytes that are already in memory."""
        return cls(hashlib.sha256(content).hexdigest())

    def __str__(self) -> str:
        return f"sha256:{self.hex}"

    @property
    def short(self) -> str:
        """The first 12 hex digits: for people and candidate tags, never for look-ups."""
        return self.hex[:12]

    @classmethod
    def __get_pydantic_core_schema__(cls, source: type[Any], handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        def read(value: str) -> Digest:
            try:
                return cls.parse(value)
            except BadInput as error:
                raise ValueError(str(error)) from error

        return core_schema.json_or_python_schema(
            json_schema=core_schema.no_info_after_validator_function(read, core_schema.str_schema()),
            python_schema=core_schema.union_schema(
                [
                    core_schema.is_instance_schema(cls),
                    core_schema.no_info_after_validator_function(read, core_schema.str_schema()),
                ]
            ),
            serialization=core_schema.plain_serializer_function_ser_schema(str),
        )


def canonical_json(value: Any) -> bytes:
    """JSON with sorted keys, no white space and no escapes beyond the necessary: one value, one text.

    Raises ValueError for NaN and infinities, which JSON has no words for.
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()
