"""Opens, reads and tags images by reference, for steps and flows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from containers.errors import BadInput
from containers.oci.layout import Layout
from containers.oci.push_cache import PushCache
from containers.oci.reference import Reference, check_tag
from containers.oci.repository import found

if TYPE_CHECKING:
    from containers.digest import Digest
    from containers.oci.repository import Repository, StoredManifest
    from containers.settings import StepSettings


def open_push_cache(settings: StepSettings) -> PushCache:
    """What earlier pushes on this machine remembered."""
    return PushCache(settings.cache.expanduser())


def open_repository(
    reference: Reference | str, settings: StepSettings, *, cache: PushCache | None = None, write: bool = False
) -> Repository:
    """The place that a reference names; `write` asks a registry for the permission to push as well."""
    parsed = Reference.parse(reference) if isinstance(reference, str) else reference
    if parsed.layout is not None:
        return Layout(parsed)
    from containers.oci.registry import Registry  # httpx is not needed for layouts

    return Registry(parsed, settings, cache if cache is not None else PushCache(None), write=write)


def read_manifest(repository: Repository) -> StoredManifest:
    """What the repository's own reference points at; raises BadInput when there is nothing.

    A layout with a single image needs no tag, as with skopeo.
    """
    reference = repository.reference
    if isinstance(repository, Layout) and not reference.tag and reference.digest is None:
        return found(repository, repository.only())
    return found(repository, reference.what)


def resolve(reference: str, settings: StepSettings) -> Digest:
    """The digest that a reference points at now."""
    with open_repository(reference, settings) as repository:
        return read_manifest(repository).digest


def tag(reference: str, name: str, settings: StepSettings) -> bool:
    """Give the tag `name` to what `reference` points at; False when it had it already."""
    check_tag(name)
    with open_repository(reference, settings, write=True) as repository:
        stored = read_manifest(repository)
        before = repository.get(name)
        if before is not None and before.digest == stored.digest:
            return False
        repository.put(stored.content, stored.media_type, name)
        return True


def pinned(reference: str) -> tuple[Reference, Digest]:
    """A reference that holds a digest; raises BadInput for one that could move."""
    parsed = Reference.parse(reference)
    if parsed.digest is None:
        raise BadInput(f"{reference} is not pinned", remedy="name the image by digest, as `push` prints it")
    return parsed, parsed.digest
