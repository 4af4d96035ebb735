"""The manifests of a bucket: where they are, how one is read, and which there are."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from pydantic import ValidationError

from containers.contract import Kind
from containers.errors import BadInput
from containers.store.manifest import Manifest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from containers.store.client import Bucket, Listed

_MANIFEST: Final = re.compile(r"artifacts/(?P<kind>[a-z-]+)/(?P<fingerprint>[0-9a-f]{64})\.json")


class UnreadableManifest(BadInput):
    """A manifest that is damaged or of another version."""


def manifest_key(kind: Kind, fingerprint: str) -> str:
    return f"artifacts/{kind}/{fingerprint}.json"


def read_manifest(bucket: Bucket, kind: Kind, fingerprint: str) -> Manifest | None:
    """None when there is none; raises UnreadableManifest."""
    key = manifest_key(kind, fingerprint)
    content = bucket.read(key)
    if content is None:
        return None
    try:
        manifest = Manifest.model_validate_json(content)
    except ValidationError as error:
        raise UnreadableManifest(
            f"{key} is not a manifest that this version can read: {error}",
            remedy="delete it and run again, or use the version of Carwright that wrote it",
        ) from error
    if (manifest.kind, manifest.fingerprint) != (kind, fingerprint):
        raise UnreadableManifest(f"{key} describes another artifact", remedy="delete it and run again")
    return manifest


def listed_manifests(bucket: Bucket, kind: Kind | None = None) -> Iterator[tuple[Listed, Kind, str]]:
    """The key, kind and fingerprint of every manifest, or of those of one kind; UnreadableManifest at a strange name."""
    for listed in bucket.listing("artifacts/" if kind is None else f"artifacts/{kind}/"):
        match = _MANIFEST.fullmatch(listed.key)
        if match is None or match["kind"] not in set(Kind):
            raise UnreadableManifest(
                f"{listed.key} is not the name of a manifest that this version knows ({bucket.name})",
                remedy="remove it, or use the version of Carwright that wrote it",
            )
        yield listed, Kind(match["kind"]), match["fingerprint"]
