"""The folder that vLLM reads: a modelcar's /models or a checkpoint of the store, under `<home>/serving/<12 hex>`.

Beside a folder lie `.<name>.use`, locked (flock(2), shared) by each server that reads it and touched at each use, and
`.<name>.sizes`, written last: what a complete folder holds. Folders stay for the next run, up to a size in total.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import stat
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

from containers.errors import BadInput, NotReady, Temporary
from containers.oci.access import open_repository, pinned, read_manifest
from containers.oci.layer import CHUNK, LayerFile, LayerHasher
from containers.oci.mounted import REMEDY
from containers.oci.repository import image
from containers.oci.unpack import unpack
from containers.store import Store
from containers.store.files import link_or_copy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from containers.contract import ArtifactRef, StepRequest
    from containers.digest import Digest
    from containers.oci.validate import ListedFile
    from containers.step import Context

_GB: Final = 1_000_000_000
_ROOT_OF_ANOTHER: Final = re.compile(r"/proc/[0-9]+/root/models")
_LINK_TIMEOUT: Final = 30.0  # seconds for a modelcar's container to link its folder


@contextmanager
def unpacked(
    reference: str, request: StepRequest, context: Context, mounted: Path | None = None, *, fetch: bool = True
) -> Iterator[Path]:
    """A folder with the model, unchanged for the length of the block.

    `reference` is a modelcar by digest; empty takes the input "checkpoint"; `mounted` is a folder that the container engine
    fills with the model. Without `fetch` it must be there already. Raises BadInput when nothing is given, or when the modelcar is damaged or holds anything but plain
    files; DiskFull; NotReady when the mounted folder stays empty; Temporary when registry or store cannot be reached, or
    when what was fetched has been removed again.
    """
    if mounted is not None:
        _wait_for(mounted)
        _check_plain(mounted)
        yield mounted
        return
    folder = folder_of(reference, request, context)
    home, checkpoint = folder.parent, request.inputs.get("checkpoint")
    home.mkdir(parents=True, exist_ok=True)
    with _in_use(folder):
        with folder.with_name(f".{folder.name}.make").open("w") as making:  # two servers of one model take turns
            fcntl.flock(making, fcntl.LOCK_EX)
            if not _complete(folder):
                if not fetch:
                    raise Temporary(
                        f"the model that was fetched into {folder} is not there, or not whole",
                        remedy="run it again; where models are removed to make room, raise CARWRIGHT_SERVE__KEEP_GB",
                    )
                make_room(home, context.settings.serve.keep_gb * _GB)
                if reference:
                    _from_modelcar(reference, folder, request, context)
                else:
                    assert checkpoint is not None
                    _from_store(checkpoint, folder, request, context)
                _write_sizes(folder)
        yield folder


def folder_of(reference: str, request: StepRequest, context: Context) -> Path:
    """Where a model lies, or would lie; raises BadInput as `unpacked` does."""
    checkpoint = request.inputs.get("checkpoint")
    if reference:
        digest = pinned(reference)[1]
    elif checkpoint is not None:
        digest = checkpoint.digest
    else:
        raise BadInput(
            "nothing to serve: neither a modelcar nor a checkpoint is given",
            remedy='give the parameter `reference` or the input "checkpoint"',
        )
    return context.settings.home.resolve() / "serving" / digest.short


@contextmanager
def _in_use(folder: Path) -> Iterator[None]:
    """Hold the folder's use file, shared; one that `make_room` has removed meanwhile keeps nobody out, and is made again."""
    while True:
        with _use_file(folder).open("w") as used:
            fcntl.flock(used, fcntl.LOCK_SH)
            there = False
            with suppress(FileNotFoundError):
                there = os.path.samestat(os.fstat(used.fileno()), _use_file(folder).stat())
            if there:
                os.utime(used.fileno())
                yield
                return


def _wait_for(folder: Path) -> None:
    """A modelcar beside the server links its folder when it has started, in whatever order they start."""
    until = time.monotonic() + _LINK_TIMEOUT
    while True:
        try:
            if any(folder.iterdir()):
                return
            reason = "it is empty"
        except OSError as error:  # PermissionError: the two containers are not of the same user
            reason = error.strerror or str(error)
        if time.monotonic() > until:
            raise NotReady(f"no model appeared in {folder} within {_LINK_TIMEOUT:g} seconds: {reason}")
        time.sleep(0.1)


def _check_plain(mounted: Path) -> None:
    """Raises BadInput unless the container engine mounted plain files and folders: a link could lead out of the model.

    `mounted` may be our own link to a modelcar's root; resolving it whole would leave that root (proc(5), /proc/pid/root).
    """
    folder = mounted
    if mounted.is_symlink():
        folder = mounted.readlink()
        if not _ROOT_OF_ANOTHER.fullmatch(str(folder)):
            raise _not_plain(mounted)
    if folder.is_symlink():
        raise _not_plain(folder)
    for at, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = Path(at, name)
            mode = path.lstat().st_mode
            if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
                raise _not_plain(path)


def _not_plain(path: Path) -> BadInput:
    return BadInput(
        f"{path}, as the container engine mounted it, is neither a file nor a folder: this is not a modelcar",
        remedy=REMEDY,
    )


def make_room(home: Path, limit: float) -> list[str]:
    """Remove what was used longest ago until at most `limit` bytes remain; what a server reads stays. Names removed."""
    kept = sorted(home.glob(".*.use"), key=_last_use)
    sizes = {path: sum(_size(part) for part in _parts(home, _name(path))) for path in kept}
    removed = []
    for path in kept:
        if sum(sizes.values()) <= limit:
            break
        try:
            used = path.open()
        except FileNotFoundError:  # another one makes room, too
            del sizes[path]
            continue
        with used:
            try:
                fcntl.flock(used, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            (home / f".{_name(path)}.sizes").unlink(missing_ok=True)  # from here on it counts as incomplete
            for part in _parts(home, _name(path)):
                shutil.rmtree(part) if part.is_dir() else part.unlink(missing_ok=True)
            # Whoever holds one of these holds the use file, too: nobody does.
            for mark in ("make", "lock", "use"):
                (home / f".{_name(path)}.{mark}").unlink(missing_ok=True)
        del sizes[path]
        removed.append(_name(path))
    return removed


def _from_modelcar(reference: str, folder: Path, request: StepRequest, context: Context) -> None:
    """Unpack it; what its layers hold and the store has, too, is proved to be the same and not written a second time."""
    store = Store.open(request.store, context.settings.store) if context.settings.store.direct else None
    with open_repository(reference, context.settings) as repository:
        _, manifest = image(repository, str(read_manifest(repository).digest))
    total = sum(layer.size for layer in manifest.layers)
    with context.report.progress("unpacking the modelcar", total) as progress:

        def supply(layer: Digest, files: Sequence[ListedFile], into: Path) -> bool:
            return store is not None and _linked(store, layer, files, into, progress.advance)

        unpack(reference, folder, context.settings, on_bytes=progress.advance, supply=supply)


def _linked(
    store: Store, layer: Digest, files: Sequence[ListedFile], into: Path, on_bytes: Callable[[int], None]
) -> bool:
    """Link the files of a layer to the store's blobs, if these, put into a tar, have the layer's digest."""
    paths = [store.path(file.sha256, file.size) for file in files]
    if not all(paths):
        return False
    hasher = LayerHasher.of([LayerFile(file.path, file.size) for file in files])
    for path in paths:
        assert path is not None
        with path.open("rb", buffering=0) as blob:
            while chunk := blob.read(CHUNK):
                hasher.update(chunk)
                on_bytes(len(chunk))
    if hasher.digest() != layer:
        return False  # the list of the layer, or the blob, is wrong: then the layer itself is read
    for file, path in zip(files, paths, strict=True):
        assert path is not None
        target = into / file.path
        target.parent.mkdir(parents=True, exist_ok=True)
        link_or_copy(path, target)
    return True


def _from_store(checkpoint: ArtifactRef, folder: Path, request: StepRequest, context: Context) -> None:
    store = Store.open(request.store, context.settings.store)
    total = sum(entry.size for entry in store.load(checkpoint).files)
    with context.report.progress(
        "checking the checkpoint" if store.here else "unpacking the checkpoint", total
    ) as progress:
        store.expose(checkpoint, folder, on_bytes=progress.advance)


def _complete(folder: Path) -> bool:
    """Whether the folder holds the files that it once held, by name and size; nothing is read."""
    try:
        recorded = json.loads(_sizes_file(folder).read_text())
    except (OSError, ValueError):
        return False
    if recorded == _listing(folder):
        return True
    # Something is missing: without this mark `unpack` does its work again.
    folder.with_name(f"{folder.name}.digest").unlink(missing_ok=True)
    return False


def _write_sizes(folder: Path) -> None:
    path = _sizes_file(folder)
    unfinished = path.with_name(f"{path.name}.{os.getpid()}")
    unfinished.write_text(json.dumps(_listing(folder)))
    unfinished.replace(path)


def _listing(folder: Path) -> dict[str, int]:
    return {str(path.relative_to(folder)): path.stat().st_size for path in folder.rglob("*") if path.is_file()}


def _last_use(use_file: Path) -> float:
    try:
        return use_file.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def _use_file(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.use")


def _sizes_file(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.sizes")


def _name(use_file: Path) -> str:
    return use_file.name.removeprefix(".").removesuffix(".use")


def _parts(home: Path, name: str) -> list[Path]:
    """The folder, its marks, and what a killed run left of it; not the locks."""
    parts = [home / name, home / f"{name}.digest", *home.glob(f".{name}.*partial")]
    return [part for part in parts if part.exists()]


def _size(path: Path) -> int:
    """Bytes that it takes on the disk: a link into the store takes none."""
    if not path.is_dir():
        return 0
    return sum(file.lstat().st_size for file in path.rglob("*") if file.is_file() and not file.is_symlink())
