"""What an artifact is on paper: the files it has, where it belongs, and the digest of its contents."""

from __future__ import annotations

import unicodedata
from typing import Final, Literal, Self

from pydantic import Field, JsonValue, field_validator, model_validator

from containers.contract import SCHEMA_VERSION, ArtifactRef, Frozen, Kind
from containers.digest import Digest, canonical_json

_LONGEST_PATH: Final = 1024  # bytes; an S3 key cannot be longer, and PATH_MAX is 4096


class FileEntry(Frozen):
    """One file of an artifact.

    `path` is relative, with `/` between its parts and no part empty, `.` or `..`: joined to a folder it can only name
    something below it. `size` is in bytes; `layer` is the digest of the file's one-file tar layer
    (`containers.oci.layer`) where that is known.
    """

    path: str
    size: int = Field(ge=0)
    sha256: Digest
    layer: Digest | None = None

    @field_validator("path")
    @classmethod
    def _relative(cls, path: str) -> str:
        if any(part in {"", ".", ".."} for part in path.split("/")):
            raise ValueError(f"not a plain relative path: {path!r}")
        if "\\" in path or any(unicodedata.category(character) in {"Cc", "Cs"} for character in path):
            raise ValueError(f"a path with a backslash, a control character or a lone surrogate: {path!r}")
        if len(path.encode()) > _LONGEST_PATH:
            raise ValueError(f"a path of more than {_LONGEST_PATH} bytes: {path[:80]!r}...")
        return path


class Manifest(Frozen):
    """The files of one artifact, sorted by path (in code points) and each path once.

    `metadata` is what else is worth knowing (a source, metrics) and is not part of the digest.
    """

    schema_version: Literal[1] = SCHEMA_VERSION
    kind: Kind
    fingerprint: str = Field(pattern=r"^[0-9a-f]{64}$")
    files: tuple[FileEntry, ...]
    metadata: dict[str, JsonValue] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _listed(self) -> Self:
        paths = [entry.path for entry in self.files]
        if paths != sorted(paths):
            raise ValueError("the files of a manifest must be sorted by path")
        names = set(paths)
        if len(names) != len(paths):
            raise ValueError("a manifest must name each path once")
        if len({(entry.sha256, entry.size) for entry in self.files}) != len({entry.sha256 for entry in self.files}):
            raise ValueError("files with one digest must have one size")
        for path in paths:
            parts = path.split("/")
            for depth in range(1, len(parts)):
                if (parent := "/".join(parts[:depth])) in names:
                    raise ValueError(f"{parent!r} cannot be both a file and the folder of {path!r}")
        return self

    @property
    def digest(self) -> Digest:
        """The digest of the contents: sha256 of canonical JSON of `[[path, size, "sha256:<hex>"], ...]`."""
        return Digest.of(canonical_json([[entry.path, entry.size, str(entry.sha256)] for entry in self.files]))

    @property
    def ref(self) -> ArtifactRef:
        return ArtifactRef(kind=self.kind, fingerprint=self.fingerprint, digest=self.digest)

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(entry.size for entry in self.files)
