"""Signatures as cosign wrote them before bundles, which podman and skopeo read (sigstore/cosign, specs/SIGNATURE_SPEC.md).

Beside an image stands a tag `sha256-<hex>.sig`: a manifest whose layers are payloads in the format of containers/image
(docs/atomic-signature.md), each with its signature in an annotation. Everybody who signs adds a layer to the one manifest,
so it is read again after it was written until the layer stays, as with the referrers' fallback tag.
"""

from __future__ import annotations

import base64
import binascii
import random
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from containers.digest import Digest, canonical_json
from containers.errors import BadInput, Temporary
from containers.foreign_json import parse_object
from containers.oci.repository import Blob, read_small
from containers.oci.types import CONFIG, Descriptor, ImageConfig, ImageManifest, RootFs
from containers.trust.signers import signature_of

if TYPE_CHECKING:
    from containers.oci.repository import Repository
    from containers.trust.signers import Signer

PAYLOAD: Final = "application/vnd.dev.cosign.simplesigning.v1+json"
ANNOTATION: Final = "dev.cosignproject.cosign/signature"
_TYPE: Final = "cosign container image signature"
_SIZE: Final = 1 << 20  # bytes of a payload
_MOST: Final = 200  # signatures of one image that are looked at
_ROUNDS: Final = 12  # how often the tag is written before we give up


@dataclass(frozen=True)
class SimpleSignature:
    """A payload and its signature."""

    payload: bytes
    signature: bytes

    def names(self, digest: Digest) -> bool:
        """Whether the payload is about this image. Raises BadInput for one that is no payload."""
        value = parse_object(self.payload, "the payload of a signature")
        critical: Any = value.get("critical")
        image = critical.get("image") if isinstance(critical, dict) else None
        return (
            isinstance(image, dict)
            and critical.get("type") == _TYPE
            and image.get("docker-manifest-digest") == str(digest)
        )


def signature_tag(digest: Digest) -> str:
    return f"sha256-{digest.hex}.sig"


def payload(repository: str, digest: Digest) -> bytes:
    """What is signed: that this digest is an image of `registry/repository`."""
    return canonical_json(
        {
            "critical": {
                "identity": {"docker-reference": repository},
                "image": {"docker-manifest-digest": str(digest)},
                "type": _TYPE,
            },
            "optional": None,
        }
    )


def find(repository: Repository, digest: Digest) -> tuple[SimpleSignature, ...]:
    """The signatures of an image under its tag; those that cannot be read are left out."""
    manifest = _manifest(repository, digest)
    return tuple(_signatures(repository, manifest)) if manifest is not None else ()


def attach(repository: Repository, digest: Digest, signer: Signer) -> tuple[Digest, bool]:
    """Sign the image and add the signature to its tag; the manifest's digest, and whether it was there already."""
    content = payload(repository.reference.name, digest)
    for one in find(repository, digest):
        if one.payload == content and signer.public.verifies(one.signature, content):
            stored = repository.get(signature_tag(digest))
            assert stored is not None  # it was just read
            return stored.digest, True
    layer = Descriptor(
        media_type=PAYLOAD,
        digest=Digest.of(content),
        size=len(content),
        annotations={ANNOTATION: base64.b64encode(signature_of(signer, content)).decode()},
    )
    repository.put_blob(Blob.of(content, "signature"), lambda _: None)
    return _add(repository, digest, layer), False


def _add(repository: Repository, digest: Digest, layer: Descriptor) -> Digest:
    for round_ in range(_ROUNDS):
        started = time.monotonic()
        before = _manifest(repository, digest)
        layers = before.layers if before is not None else ()
        if layer not in layers:
            config = _config((*layers, layer))
            repository.put_blob(Blob.of(config, "config"), lambda _: None)
            after = ImageManifest(
                config=Descriptor(media_type=CONFIG, digest=Digest.of(config), size=len(config)),
                layers=(*layers, layer),
            )
            repository.put(after.encode(), after.media_type, signature_tag(digest))
        pause = 3 * (time.monotonic() - started) + random.uniform(0.05, 0.15) * (1 + round_)  # noqa: S311 -- no secret
        time.sleep(pause)
        stored = repository.get(signature_tag(digest))
        now = _manifest(repository, digest)
        if stored is not None and now is not None and layer in now.layers:
            return stored.digest
    raise Temporary(
        f"{repository.reference.name}: other clients keep changing the signatures of {digest}",
        remedy="start again later",
    )


def _config(layers: tuple[Descriptor, ...]) -> bytes:
    """An image's configuration, as the format demands one, with nothing in it."""
    return ImageConfig(architecture="", os="", rootfs=RootFs(diff_ids=tuple(one.digest for one in layers))).encode()


def _manifest(repository: Repository, digest: Digest) -> ImageManifest | None:
    stored = repository.get(signature_tag(digest))
    parsed = stored.parse() if stored is not None else None
    return parsed if isinstance(parsed, ImageManifest) else None


def _signatures(repository: Repository, manifest: ImageManifest) -> list[SimpleSignature]:
    layers = [one for one in manifest.layers if one.media_type == PAYLOAD and ANNOTATION in one.annotations]
    if len(layers) > _MOST:
        raise BadInput(
            f"{repository.reference.name} has {len(layers)} signatures of one image, more than {_MOST}",
            remedy="somebody fills the repository; remove them in the registry",
        )
    found = []
    for layer in layers:
        try:
            signature = base64.b64decode(layer.annotations[ANNOTATION], validate=True)
            found.append(SimpleSignature(read_small(repository, layer, _SIZE), signature))
        except (BadInput, binascii.Error):
            continue  # what cannot be read signs nothing
    return found
