"""What an engine mounts of an image in a repository: the one check of `lint`, `verify`, `unpack`, deployments and servers.

`verify` and `unpack` read every byte of the layers and pass the members on that they saw; the others read the headers of
uncompressed layers and nothing else, and inflate compressed ones piece by piece. Headers alone are as true as the
repository is.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Final

from containers.errors import BadInput
from containers.oci.access import open_repository, read_manifest
from containers.oci.headers import HeaderBudget, read_headers
from containers.oci.inflate import PLAIN
from containers.oci.layer import ROOT
from containers.oci.raw import is_raw
from containers.oci.repository import images, read_config
from containers.oci.tree import ImageFault, Tree, clean, merged_tree
from containers.oci.validate import listed_files, read_layer

if TYPE_CHECKING:
    import tarfile
    from collections.abc import Mapping, Sequence

    from containers.digest import Digest
    from containers.oci.repository import Repository
    from containers.oci.types import Descriptor, ImageConfig, ImageManifest
    from containers.settings import StepSettings

REMEDY: Final = "do not serve it; build a modelcar of plain files, each in one layer"
UNLIKE_ITS_LIST: Final = "differs from the layer's own file list"
LAYERS_MAX: Final = 500  # of overlayfs in Linux (OVL_MAX_STACK); engines mount fewer, which `lint` says
Members = tuple["tarfile.TarInfo", ...]


def check_mounted(reference: str, settings: StepSettings) -> None:
    """Raises BadInput unless what is mounted is what the layers list, on every platform of the image."""
    with open_repository(reference, settings) as repository:
        check_images(repository, str(read_manifest(repository).digest), settings.registry.parallel)


def check_images(repository: Repository, what: str, parallel: int) -> Tree:
    """The same, of an open repository; the tree of the platform that `containers.oci.repository.image` takes."""
    trees = []
    for stored, manifest in images(repository, what):
        trees.append(tree_of(repository, manifest, parallel))
        refuse(trees[-1].faults, f"{repository.reference.target}@{stored.digest}")
    return trees[0]


def refuse(faults: Sequence[ImageFault], what: str) -> None:
    """Raises BadInput with the first fault and the number of the others."""
    if faults:
        more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
        raise BadInput(f"{what} is not a modelcar: {faults[0].message}{more}", remedy=REMEDY)


def tree_of(repository: Repository, manifest: ImageManifest, parallel: int = 4) -> Tree:
    """The tree of an image; raises BadInput for a layer that cannot be read. Of a raw artifact: that it is one."""
    if is_raw(manifest):
        return Tree({}, raw_faults(manifest))
    config = read_config(repository, manifest)
    ids = config.rootfs.diff_ids
    if len(ids) != len(manifest.layers):
        raise BadInput(f"{len(manifest.layers)} layers and {len(ids)} diff ids")
    budget = HeaderBudget()
    with ThreadPoolExecutor(parallel, thread_name_prefix="headers") as pool:
        members = list(
            pool.map(
                lambda layer, diff_id: layer_members(repository, layer, diff_id, budget), check_layers(manifest), ids
            )
        )
    return tree_from(manifest, config, members)


def check_layers(manifest: ImageManifest) -> tuple[Descriptor, ...]:
    """The layers; raises BadInput for more than any file system mounts, before one is read."""
    if len(manifest.layers) > LAYERS_MAX:
        raise BadInput(
            f"the image has {len(manifest.layers)} layers, and overlay file systems take {LAYERS_MAX} at most",
            remedy="push it again with fewer layers",
        )
    return manifest.layers


def layer_members(repository: Repository, layer: Descriptor, diff_id: Digest, budget: HeaderBudget) -> Members:
    """The members of one layer, for as few bytes as it takes."""
    if layer.media_type in PLAIN:
        return read_headers(repository, layer, budget)
    found: list[tarfile.TarInfo] = []
    read_layer(repository, layer, diff_id, lambda member, _: found.append(member), budget)
    return tuple(found)


def tree_from(
    manifest: ImageManifest, config: ImageConfig | None, members: Sequence[Sequence[tarfile.TarInfo]]
) -> Tree:
    """The tree of an image whose layers' members were read already."""
    tree = merged_tree((layer.digest, one) for layer, one in zip(manifest.layers, members, strict=True))
    unlike = [fault for layer, one in zip(manifest.layers, members, strict=True) for fault in _unlisted(layer, one)]
    return Tree(tree.nodes, (*tree.faults, *unlike, *(_volumes(config) if config is not None else ())))


def raw_faults(manifest: ImageManifest) -> tuple[ImageFault, ...]:
    """Tars in what calls itself a raw artifact: engines would mount them."""
    return tuple(
        ImageFault(
            layer.digest,
            layer.media_type,
            "is a layer that container engines mount, which a raw artifact must not have",
        )
        for layer in manifest.layers
        if "tar" in layer.media_type.rpartition(".")[2]
    )


def _unlisted(layer: Descriptor, members: Sequence[tarfile.TarInfo]) -> list[ImageFault]:
    """Files in which a layer differs from its own list."""
    listed: Mapping[str, int] = {file.path: file.size for file in listed_files(layer)}
    if not listed:
        return []
    found = {clean(one.name).removeprefix(f"{ROOT}/"): one.size for one in members if not one.isdir()}
    return [
        ImageFault(layer.digest, path, UNLIKE_ITS_LIST)
        for path in sorted(found.keys() | listed.keys())
        if found.get(path) != listed.get(path)
    ]


def _volumes(config: ImageConfig) -> list[ImageFault]:
    """Volumes that an engine would put over the model when it starts the image."""
    volumes: Any = (config.config.model_extra or {}).get("Volumes") or {}
    paths = {str(path): f"/{clean(str(path))}/".replace("//", "/") for path in volumes}
    root = f"/{ROOT}/"
    return [
        ImageFault(None, name, f"is a volume of the image and would cover what is in /{ROOT}")
        for name, path in paths.items()
        if root.startswith(path) or path.startswith(root)
    ]
