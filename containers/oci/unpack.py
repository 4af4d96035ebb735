"""The checkpoint out of a modelcar, from a layout or a registry, every byte checked before anybody sees it."""

from __future__ import annotations

import fcntl
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from containers.errors import BadInput, DiskFull, Temporary
from containers.oci.access import open_repository, read_manifest
from containers.oci.headers import HeaderBudget
from containers.oci.image import CARD
from containers.oci.inflate import PLAIN
from containers.oci.layer import CHUNK, ROOT, Layer, LayerFile
from containers.oci.layout import FULL
from containers.oci.mounted import UNLIKE_ITS_LIST, check_layers, layer_members, refuse, tree_from, tree_of
from containers.oci.repository import image, images, read_config
from containers.oci.tree import ImageFault, model_fault
from containers.oci.validate import listed_files, read_layer

if TYPE_CHECKING:
    import tarfile
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from containers.digest import Digest
    from containers.oci.mounted import Members
    from containers.oci.repository import Repository
    from containers.oci.types import Descriptor, ImageManifest
    from containers.oci.validate import ListedFile
    from containers.settings import StepSettings

_MARK: Final = ".digest"
# Puts the files of a layer into a folder if they are at hand: proves that the layer of that digest is made of exactly these,
# in this order, and says whether it did.
Supply = Callable[["Digest", "Sequence[ListedFile]", "Path"], bool]


def unpack(
    reference: str,
    folder: Path,
    settings: StepSettings,
    *,
    on_bytes: Callable[[int], None] = lambda _: None,
    platform: str = "linux/amd64",
    supply: Supply | None = None,
) -> Digest:
    """Make `folder` hold what the image has under /models; the manifest's digest.

    The folder appears in one step when everything in it is verified; a run that broke off goes on with the layers that
    are missing; a folder that holds that image already is left alone. `on_bytes` gets bytes as they are written. `supply`
    may supply the files of a layer from elsewhere. Raises
    BadInput for damage, for an image without /models, and for one that an engine would not mount as it is written here,
    be it on another platform (`containers.oci.tree`); DiskFull.
    """
    with open_repository(reference, settings) as repository, _only_one(folder):
        what = str(read_manifest(repository).digest)
        stored, manifest = image(repository, what, platform)
        mark = folder.with_name(folder.name + _MARK)
        if folder.is_dir() and mark.is_file() and mark.read_text() == str(stored.digest):
            return stored.digest
        for other, one in images(repository, what):
            if other.digest != stored.digest:
                refuse(tree_of(repository, one, settings.registry.parallel).faults, f"{reference} ({other.digest})")
        work = folder.with_name(f".{folder.name}.{stored.digest.short}.partial")
        try:
            faults = _unpack_layers(
                repository, manifest, work, parallel=settings.registry.parallel, on_bytes=on_bytes, supply=supply
            )
            refuse(faults, reference)
            if not any((work / ROOT).iterdir()):
                raise BadInput(
                    f"{reference} has nothing under /{ROOT}",
                    remedy="give a modelcar; `carwright lint` says what one is",
                )
            mark.unlink(missing_ok=True)
            if folder.exists():
                shutil.rmtree(folder)
            (work / ROOT).rename(folder)
            mark.write_text(str(stored.digest))
            shutil.rmtree(work)
        except OSError as error:
            if error.errno in FULL:
                raise DiskFull(
                    f"no space is left to unpack {reference} to {folder}", remedy="free some space"
                ) from error
            raise Temporary(f"cannot unpack {reference} to {folder}: {error}") from error
        return stored.digest


def _unpack_layers(
    repository: Repository,
    manifest: ImageManifest,
    work: Path,
    *,
    parallel: int,
    on_bytes: Callable[[int], None],
    supply: Supply | None,
) -> tuple[ImageFault, ...]:
    """Every layer that an earlier run has not finished already, into `work`; the faults of the whole tree."""
    done = work / "done"
    done.mkdir(parents=True, exist_ok=True)
    (work / ROOT).mkdir(exist_ok=True)
    config = read_config(repository, manifest)
    ids = config.rootfs.diff_ids
    if len(ids) != len(manifest.layers):
        raise BadInput(f"{len(manifest.layers)} layers and {len(ids)} diff ids")
    members: dict[int, Members] = {}
    budget = HeaderBudget()

    def unpack_one(number: int) -> None:
        layer = manifest.layers[number]
        stamp = done / layer.digest.hex
        if stamp.exists():
            members[number] = layer_members(repository, layer, ids[number], budget)
            return
        planned = Layer(tuple(LayerFile(file.path, file.size) for file in listed_files(layer)))
        plain = layer.media_type in PLAIN and layer.digest == ids[number] and layer.size == planned.size
        if plain and supply is not None and supply(layer.digest, listed_files(layer), work / ROOT):
            members[number] = planned.members
        else:
            members[number] = _unpack_layer(repository, layer, ids[number], work, on_bytes, budget)
        stamp.touch()

    ordered = _ordered(check_layers(manifest))
    for number in range(ordered):
        unpack_one(number)
    with ThreadPoolExecutor(parallel, thread_name_prefix="unpack") as pool:
        futures = [pool.submit(unpack_one, number) for number in range(ordered, len(manifest.layers))]
        try:
            for one in futures:
                one.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return tree_from(manifest, config, [members[number] for number in range(len(manifest.layers))]).faults


def _ordered(layers: Sequence[Descriptor]) -> int:
    """How many layers, from the first, must be unpacked one after the other: all before those that list their files.

    Layers that list theirs hold different files and can be unpacked at once; in others a later one may overwrite.
    """
    for number in range(len(layers), 0, -1):
        layer = layers[number - 1]
        if not listed_files(layer) and CARD not in layer.annotations:
            return number
    return 0


@contextmanager
def _only_one(folder: Path) -> Iterator[None]:
    """Two runs that unpack to the same folder take turns; the second finds it done."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        lock = (folder.parent / f".{folder.name}.lock").open("w")
    except OSError as error:
        raise BadInput(f"cannot write to {folder.parent}: {error.strerror}") from error
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _unpack_layer(  # noqa: PLR0917
    repository: Repository,
    layer: Descriptor,
    diff_id: Digest,
    work: Path,
    on_bytes: Callable[[int], None],
    budget: HeaderBudget,
) -> Members:
    """Write what a layer has under /models; its members.

    Raises at once for what is wrong in itself: of a layer that lists its files, nothing else is written.
    """
    written: set[Path] = set()
    members: list[tarfile.TarInfo] = []
    listed = {file.path: file.size for file in listed_files(layer)}

    def take(member: tarfile.TarInfo, content: Any) -> None:
        if what := model_fault(member):
            refuse((ImageFault(layer.digest, member.name, what),), str(repository.reference.target))
        members.append(member)
        path = member.name.removeprefix("./").removeprefix("/").rstrip("/")
        if path != ROOT and not path.startswith(f"{ROOT}/"):
            return
        if listed and not member.isdir() and listed.get(path.removeprefix(f"{ROOT}/")) != member.size:
            refuse((ImageFault(layer.digest, member.name, UNLIKE_ITS_LIST),), str(repository.reference.target))
        target = work / path
        try:
            (target if member.isdir() else target.parent).mkdir(parents=True, exist_ok=True)
            if member.isdir():
                return
            with target.open("wb") as file:
                written.add(target)
                while chunk := content.read(CHUNK):
                    file.write(chunk)
                    on_bytes(len(chunk))
        except (FileExistsError, IsADirectoryError, NotADirectoryError):
            fault = ImageFault(
                layer.digest, member.name, "is there twice, or below it, as a folder and as something else"
            )
            refuse((fault,), str(repository.reference.target))

    try:
        read_layer(repository, layer, diff_id, take, budget)
    except BaseException:
        for path in written:
            path.unlink(missing_ok=True)
        raise

    return tuple(members)
