"""What lies under the model in a modelcar: the minimal base, the busybox base, another image, or nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from containers.digest import Digest
from containers.errors import BadInput
from containers.oci import busybox, minimal
from containers.oci.layer import ROOT
from containers.oci.mounted import refuse, tree_of
from containers.oci.repository import Blob, Repository, image, read_config
from containers.oci.types import (
    DOCKER_TAR,
    DOCKER_TAR_GZIP,
    EPOCH,
    TAR,
    TAR_GZIP,
    Descriptor,
    History,
    ImageConfig,
    Platform,
    RootFs,
    RunConfig,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from containers.settings import StepSettings

USER: Final = "1001"
_PATH: Final = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_DOCKER_LAYERS: Final = {DOCKER_TAR: TAR, DOCKER_TAR_GZIP: TAR_GZIP}


@dataclass(frozen=True)
class Base:
    """A base for one platform: its configuration, and its layers with the bytes to put where they are missing."""

    name: str
    config: ImageConfig
    layers: tuple[Descriptor, ...] = ()
    blobs: tuple[Blob, ...] = ()


def minimal_base(platform: str) -> Base:
    """The base that is in Carwright (see `containers.oci.minimal`); the same bytes everywhere."""
    wanted = Platform.named(platform)
    content = minimal.base_layer(wanted.architecture)
    return _made(
        "minimal", wanted, content, f"carwright: the modelcar shell {minimal.SHELLS[wanted.architecture][:12]}"
    )


def busybox_base(platform: str, settings: StepSettings) -> Base:
    """The base made of Debian's busybox (see `containers.oci.busybox`); the same bytes everywhere."""
    wanted = Platform.named(platform)
    content = busybox.base_layer(busybox.find_binary(wanted.architecture, settings))
    return _made("busybox", wanted, content, f"carwright: busybox-static {busybox.VERSION}")


def _made(name: str, platform: Platform, content: bytes, created_by: str) -> Base:
    digest = Digest.of(content)
    config = _scratch(platform).model_copy(
        update={
            "rootfs": RootFs(diff_ids=(digest,)),
            "history": (History(created=EPOCH, created_by=created_by),),
        }
    )
    layer = Descriptor(media_type=TAR, digest=digest, size=len(content))
    return Base(name, config, (layer,), (Blob.of(content, f"base ({platform})"),))


def empty_base(platform: str) -> Base:
    """No base at all: the image can be mounted as an image volume, and nothing in it can run."""
    return Base("none", _scratch(Platform.named(platform)))


def image_base(repository: Repository, platform: str) -> Base:
    """Another image as base. Its entry point and command are dropped, since KServe passes its own as arguments.

    Raises BadInput for one that has files of its own under /models, or anything else there or on the way.
    """
    reference = repository.reference
    stored, manifest = image(repository, reference.what, platform)
    tree = tree_of(repository, manifest)
    refuse(tree.faults, f"an image over the base {reference}")
    if tree.models:
        raise BadInput(
            f"the base {reference} has files under /{ROOT}: {min(tree.models)}", remedy="choose another base"
        )
    config = read_config(repository, manifest)
    if str(config.platform) != str(Platform.named(platform)):
        raise BadInput(f"the base {reference} is for {config.platform}, not for {platform}")
    if len(config.rootfs.diff_ids) != len(manifest.layers):
        raise BadInput(
            f"the base {reference} has {len(manifest.layers)} layers and {len(config.rootfs.diff_ids)} diff ids"
        )
    run = config.config.model_copy(update={"entrypoint": None, "cmd": None, "user": config.config.user or USER})
    layers = tuple(
        Descriptor(media_type=_layer_type(layer, str(reference)), digest=layer.digest, size=layer.size)
        for layer in manifest.layers
    )
    mount = (reference.repository,) if reference.registry else ()
    blobs = tuple(
        Blob(layer.size, _Reader(repository, layer.digest), layer.digest, f"base {reference}", mount)
        for layer in layers
    )
    # A layout's folder is no part of what the image is.
    name = f"{reference.name}@{stored.digest}" if reference.registry else str(stored.digest)
    return Base(name, config.model_copy(update={"config": run}), layers, blobs)


def _layer_type(layer: Descriptor, what: str) -> str:
    kind = _DOCKER_LAYERS.get(layer.media_type, layer.media_type)
    if not kind.startswith(TAR):
        raise BadInput(f"the base {what} has a layer of type {kind}", remedy="choose another base image")
    return kind


@dataclass(frozen=True)
class _Reader:
    repository: Repository
    digest: Digest

    def __call__(self, offset: int) -> Iterator[bytes]:
        with self.repository.read_blob(self.digest, offset) as chunks:
            yield from chunks


def _scratch(platform: Platform) -> ImageConfig:
    return ImageConfig(
        created=EPOCH,
        architecture=platform.architecture,
        os=platform.os,
        config=RunConfig(user=USER, env=(_PATH,), working_dir="/"),
        rootfs=RootFs(diff_ids=()),
    )
