"""From layers to an image: pure functions, the same bytes for the same arguments."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from containers.digest import Digest, canonical_json
from containers.labels import FILES, LABEL
from containers.oci.layer import ROOT
from containers.oci.types import (
    CONFIG,
    EPOCH,
    MANIFEST,
    TAR,
    Descriptor,
    History,
    ImageConfig,
    ImageManifest,
    Index,
    RootFs,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from containers.checkpoint_files import CheckpointFile
    from containers.oci.base import Base

CARD: Final = f"{LABEL}card"
BASE: Final = "org.opencontainers.image.base.name"


@dataclass(frozen=True)
class Image:
    """A built image: the bytes of its configuration and manifest, and their digests."""

    manifest: ImageManifest
    config: bytes
    content: bytes

    @property
    def digest(self) -> Digest:
        return Digest.of(self.content)

    @property
    def descriptor(self) -> Descriptor:
        return Descriptor(media_type=MANIFEST, digest=self.digest, size=len(self.content))


def model_layer(files: Sequence[CheckpointFile], digest: Digest, size: int) -> Descriptor:
    """The descriptor of a layer that holds `files`, whose digests must be known.

    A layer of one file also says so in olot's words (olot/constants.py). There is no `org.opencontainers.image.title`:
    `ilab model download` takes a layer with a title for the file itself, and this is a tar.
    """
    annotations = {FILES: canonical_json([[one.path, one.size, str(one.sha256)] for one in files]).decode()}
    if len(files) == 1:
        annotations |= {
            "olot.layer.content.digest": str(files[0].sha256),
            "olot.layer.content.inlayerpath": f"/{ROOT}/{files[0].path}",
            "olot.layer.content.name": files[0].path.rpartition("/")[2],
            "olot.layer.content.type": "file",
        }
    return Descriptor(media_type=TAR, digest=digest, size=size, annotations=annotations)


def card_layer(digest: Digest, size: int) -> Descriptor:
    return Descriptor(media_type=TAR, digest=digest, size=size, annotations={CARD: "true"})


def compose(base: Base, layers: Sequence[Descriptor], annotations: Mapping[str, str]) -> Image:
    """The modelcar: the base's layers, then `layers` (uncompressed: the diff id is the digest), nothing that runs."""
    history = [History(created=EPOCH, created_by="carwright: " + _contents(layer)) for layer in layers]
    # A base's own history may be incomplete; then none of it is kept, since the two must agree in number.
    inherited = base.config.history
    if sum(1 for one in inherited if not one.empty_layer) != len(base.layers):
        inherited = tuple(History(created=EPOCH, created_by="base") for _ in base.layers)
    config = base.config.model_copy(
        update={
            "created": EPOCH,
            "rootfs": RootFs(diff_ids=(*base.config.rootfs.diff_ids, *(layer.digest for layer in layers))),
            "history": (*inherited, *history),
        }
    ).encode()
    manifest = ImageManifest(
        config=Descriptor(media_type=CONFIG, digest=Digest.of(config), size=len(config)),
        layers=(*base.layers, *layers),
        annotations=dict(annotations) | {BASE: base.name},
    )
    return Image(manifest, config, manifest.encode())


def compose_index(images: Sequence[tuple[Image, ImageConfig]], annotations: Mapping[str, str]) -> bytes:
    """One index over the images of several platforms, in the order given."""
    entries = tuple(image.descriptor.model_copy(update={"platform": config.platform}) for image, config in images)
    return Index(manifests=entries, annotations=dict(annotations)).encode()


def _contents(layer: Descriptor) -> str:
    return layer.annotations.get("olot.layer.content.inlayerpath", "card" if CARD in layer.annotations else "files")
