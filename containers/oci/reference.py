"""Where an image is: `oci:DIR[:tag|@digest]` or `registry[:port]/repository[:tag][@digest]`.

The grammar of repositories and tags is the OCI distribution specification's ("Pulling manifests"); that of the
registry part is the one that Docker made common: the first component is a host when it holds a dot or a colon, or is
`localhost`. There is no default registry: a name without one is refused.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from containers.digest import Digest
from containers.errors import BadInput

_TAG = re.compile(r"[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}")
_REPOSITORY = re.compile(r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*")
_HOST = re.compile(r"(?:[a-zA-Z0-9](?:[a-zA-Z0-9.-]*[a-zA-Z0-9])?|\[[0-9a-fA-F:]+\])(?::[0-9]{1,5})?")
_LAYOUT: Final = "oci:"
_NAME_MAX: Final = 255  # registry and repository together, as registries commonly limit it


@dataclass(frozen=True, slots=True)
class Reference:
    """A parsed reference: `layout` for a folder, `registry` and `repository` for a registry; at most one of the two."""

    layout: Path | None = None
    registry: str = ""
    repository: str = ""
    tag: str = ""
    digest: Digest | None = None

    @classmethod
    def parse(cls, text: str) -> Reference:
        """Raises BadInput, with what is wrong, for anything outside the grammar."""
        if text.startswith("oci://"):
            raise BadInput(
                f"{text!r} is neither a layout nor a registry reference",
                remedy="write oci:DIR for a folder, and registry/repository, without oci://, for a registry",
            )
        rest, digest = _split_digest(text)
        if rest.startswith(_LAYOUT):
            folder, _, tag = rest.removeprefix(_LAYOUT).partition(":")
            if not folder:
                raise BadInput(f"{text!r} names no folder", remedy="write oci:DIR, for example oci:./image")
            return cls(layout=Path(folder), tag=check_tag(tag) if ":" in rest[len(_LAYOUT) :] else "", digest=digest)
        return cls._registry(text, rest.removeprefix("docker://"), digest)

    @classmethod
    def _registry(cls, text: str, rest: str, digest: Digest | None) -> Reference:
        host, slash, path = rest.partition("/")
        if not slash or not ("." in host or ":" in host or host == "localhost"):
            raise BadInput(
                f"{text!r} names no registry",
                remedy="write registry/repository, for example quay.io/org/name:tag, or oci:DIR for a folder",
            )
        if not _HOST.fullmatch(host):
            raise BadInput(f"{text!r}: {host!r} is not a host name with an optional port")
        repository, colon, tag = path.partition(":")
        if not _REPOSITORY.fullmatch(repository) or len(host) + 1 + len(repository) > _NAME_MAX:
            raise BadInput(
                f"{text!r}: {repository!r} is not a repository name",
                remedy="use lower case letters, digits and single . _ - between them, at most 255 bytes in all",
            )
        return cls(registry=host, repository=repository, tag=check_tag(tag) if colon else "", digest=digest)

    def __str__(self) -> str:
        where = f"{_LAYOUT}{self.layout}" if self.layout is not None else self.name
        tag = f":{self.tag}" if self.tag else ""
        return where + (f"{tag}@{self.digest}" if self.digest and self.layout is None else self._layout_end(tag))

    def _layout_end(self, tag: str) -> str:
        return f"@{self.digest}" if self.digest else tag

    @property
    def name(self) -> str:
        """`registry/repository`, without tag and digest."""
        return f"{self.registry}/{self.repository}"

    @property
    def target(self) -> Reference:
        """The same place without tag and digest."""
        return replace(self, tag="", digest=None)

    def at(self, digest: Digest) -> Reference:
        """The same place, pinned to a digest."""
        return replace(self, tag="", digest=digest)

    def tagged(self, tag: str) -> Reference:
        return replace(self, tag=check_tag(tag), digest=None)

    @property
    def what(self) -> str:
        """The digest or else the tag, as registries want it in a path; `latest` when neither was given."""
        return str(self.digest) if self.digest else self.tag or "latest"


def absolute_layout(text: str) -> str:
    """The same reference for a process with another working directory: the folder of a layout named from the root.

    Raises BadInput for what is no reference.
    """
    reference = Reference.parse(text)
    if reference.layout is None:
        return text
    return str(replace(reference, layout=reference.layout.expanduser().absolute()))


def check_tag(tag: str) -> str:
    """The tag itself; raises BadInput when it is not one."""
    if not _TAG.fullmatch(tag):
        raise BadInput(
            f"{tag!r} is not a tag",
            remedy="use letters, digits, _ . -, at most 128, beginning with a letter, a digit or _",
        )
    return tag


def candidate_tag(digest: Digest) -> str:
    """The tag that keeps a pushed image from being collected until it is promoted."""
    return f"candidate-{digest.short}"


def _split_digest(text: str) -> tuple[str, Digest | None]:
    rest, at, digest = text.partition("@")
    return rest, Digest.parse(digest) if at else None
